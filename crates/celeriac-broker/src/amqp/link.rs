//! One connection that is opened when it is needed, and opened again when it was lost.
//!
//! lapin could recover by itself, but then a tag of the old connection would acknowledge a message of the new one, and a
//! publish would neither succeed nor fail. So a connection that is lost is lost: everything on it ends with an error, and
//! whoever needs it next opens another.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use celeriac_error::{Error, Result};
use futures_util::StreamExt;
use lapin::tcp::{AsyncTcpStream, RustlsConnector};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism};
use lapin::{Channel, Connection, ConnectionProperties, Event};
use tokio::sync::watch;

use super::failure::{explain, explain_connecting, soft};
use super::settings::{Failover, LoginMethod, Settings, Target};
pub(super) use crate::sync::lock;

/// How long an answer may take: what the broker does at once takes milliseconds.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an answer that says why may still come after its connection was lost.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The largest frame: py-amqp's.
pub(super) const FRAME_MAX: u32 = 131_072;

/// An open connection.
pub(super) struct Live {
    /// Grows with every connection of the link.
    pub(super) number: u64,
    /// Which of the servers it leads to.
    place: usize,
    /// The URL that it was opened with.
    pub(super) url: String,
    connection: Connection,
    /// How many numbers of channels cannot be used any more.
    spoiled: AtomicUsize,
    /// True once it was lost or closed.
    ended: watch::Sender<bool>,
    /// Why the broker takes no publications, while it does not.
    blocked: watch::Sender<Option<String>>,
}

impl Live {
    pub(super) fn is_up(&self) -> bool {
        !*self.ended.borrow() && self.connection.status().connected()
    }

    /// A channel of its own.
    pub(super) async fn channel(&self) -> Result<Channel> {
        loop {
            let opened = self.raw_answer(self.connection.create_channel()).await?;
            let Err(error) = opened else { return opened.map_err(|error| explain(&self.url, &error)) };
            // lapin remembers for each number how the channel of that number ended, and says it to the next one that has it.
            if soft(&error).is_none() {
                return Err(explain(&self.url, &error));
            }
            self.spoiled.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether few of the numbers of channels can be used still.
    fn is_worn(&self) -> bool {
        let most = usize::from(self.connection.configuration().channel_max());
        self.spoiled.load(Ordering::Relaxed) > most / 10 * 9
    }

    /// The answer of the broker. None in time means that the connection is lost.
    pub(super) async fn answer<T>(&self, asked: impl Future<Output = lapin::Result<T>>) -> Result<T> {
        self.raw_answer(asked).await?.map_err(|error| explain(&self.url, &error))
    }

    /// [`answer`](Self::answer) with lapin's own error, for those who must know what exactly the broker said.
    pub(super) async fn raw_answer<T>(
        &self,
        asked: impl Future<Output = lapin::Result<T>>,
    ) -> Result<lapin::Result<T>> {
        let mut ended = self.ended();
        let lost = async {
            // An error means that the connection itself is gone.
            let _ = ended.wait_for(|ended| *ended).await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::select! {
            biased;
            answer = pin!(asked) => Ok(answer),
            () = lost => Err(self.unavailable("the connection was lost".to_owned())),
            () = tokio::time::sleep(ANSWER_TIMEOUT) => {
                self.give_up();
                Err(self.unavailable(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())))
            }
        }
    }

    pub(super) fn unavailable(&self, reason: String) -> Error {
        Error::BrokerUnavailable { url: self.url.clone(), reason }
    }

    /// Nobody uses it from here on.
    pub(super) fn give_up(&self) {
        self.ended.send_replace(true);
    }

    /// Resolves once it was lost.
    pub(super) fn ended(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    /// Why the broker takes no publications, while it does not.
    pub(super) fn blocked(&self) -> Option<String> {
        self.blocked.borrow().clone()
    }

    /// Resolves once the broker takes publications, or the connection is lost.
    pub(super) async fn freed(self: Arc<Self>) {
        let (mut blocked, mut ended) = (self.blocked.subscribe(), self.ended());
        tokio::select! {
            _ = blocked.wait_for(Option::is_none) => {}
            _ = ended.wait_for(|ended| *ended) => {}
        }
    }

    /// Whether lapin itself knows that the connection is over: then it says so to whoever waits for something on it.
    pub(super) fn is_over(&self) -> bool {
        !self.connection.status().connected()
    }

    /// The largest frame that the broker takes, in bytes.
    pub(super) fn frame_max(&self) -> usize {
        self.connection.configuration().frame_max() as usize
    }

    /// How long the broker waits for a sign of life, at least; `None` when it waits for ever.
    pub(super) fn patience(&self) -> Option<Duration> {
        let seconds = self.connection.configuration().heartbeat();
        (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)))
    }

    async fn close(&self) {
        self.give_up();
        // What does not answer is closed all the same.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.connection.close(200, "OK".into())).await;
    }
}

#[derive(Default)]
struct State {
    live: Option<Arc<Live>>,
    /// Which of the servers is tried first.
    next: usize,
}

/// A connection that comes again.
pub(super) struct Link {
    settings: Arc<Settings>,
    /// Whose server this one goes to. Servers in a list need not be a cluster, and what is declared on one is not on the other.
    leader: Option<Arc<Link>>,
    /// What is open, to be looked at without waiting.
    current: Mutex<Weak<Live>>,
    /// What it is for, as the broker lists it.
    name: &'static str,
    state: tokio::sync::Mutex<State>,
    numbers: AtomicU64,
    closed: AtomicBool,
}

impl Link {
    pub(super) fn new(settings: Arc<Settings>, name: &'static str, leader: Option<Arc<Link>>) -> Self {
        Self {
            settings,
            leader,
            current: Mutex::default(),
            name,
            state: tokio::sync::Mutex::default(),
            numbers: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::SeqCst) {
            Err(Error::Closed("connection to the broker"))
        } else {
            Ok(())
        }
    }

    /// The connection, opened if it is not.
    pub(super) async fn get(&self) -> Result<Arc<Live>> {
        self.check_open()?;
        let mut state = self.state.lock().await;
        self.check_open()?;
        let leading = match &self.leader {
            Some(leader) => Some(Box::pin(leader.get()).await?),
            None => None,
        };
        let is_there = |live: &Live| leading.as_ref().is_none_or(|leading| leading.place == live.place);
        if let Some(live) =
            state.live.as_ref().filter(|live| live.is_up() && !live.is_worn() && is_there(live))
        {
            return Ok(Arc::clone(live));
        }
        if let Some(lost) = state.live.take() {
            lost.give_up();
        }
        let opened = match &leading {
            None => self.open(&mut state).await,
            Some(leading) => {
                let opened = self.connect(leading.place).await;
                if opened.is_err() {
                    // Where its server does not answer, the other connection is soon found to be lost too, and goes elsewhere.
                    let _ = leading.channel().await;
                }
                opened
            }
        };
        let live = Arc::new(opened?);
        listen(&live);
        *lock(&self.current) = Arc::downgrade(&live);
        state.live = Some(Arc::clone(&live));
        Ok(live)
    }

    /// What is open now.
    pub(super) fn peek(&self) -> Option<Arc<Live>> {
        lock(&self.current).upgrade().filter(|live| live.is_up())
    }

    /// Whether it leads to where the leader is.
    pub(super) fn is_in_place(&self, live: &Live) -> bool {
        let leading = self.leader.as_ref().and_then(|leader| leader.peek());
        leading.is_none_or(|leading| leading.place == live.place)
    }

    /// Tries each server once.
    async fn open(&self, state: &mut State) -> Result<Live> {
        let count = self.settings.targets.len();
        let mut order: Vec<usize> = (0..count).map(|step| (state.next + step) % count).collect();
        if self.settings.failover == Failover::Shuffle {
            shuffle(&mut order[1..]);
        }
        let mut worst: Option<Error> = None;
        for place in order {
            match self.connect(place).await {
                Ok(live) => {
                    state.next = place;
                    return Ok(live);
                }
                // One that may come back is more hopeful than one that never lets us in.
                Err(error) => {
                    if worst.as_ref().is_none_or(|worst| !worst.is_transient() || error.is_transient()) {
                        worst = Some(error);
                    }
                }
            }
            state.next = (place + 1) % count;
        }
        Err(worst.unwrap_or_else(|| Error::Internal("a broker without a URL".to_owned())))
    }

    async fn connect(&self, place: usize) -> Result<Live> {
        let target = &self.settings.targets[place];
        let properties = ConnectionProperties::default()
            .with_client_property("product".into(), "celeriac".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into())
            .with_connection_name(format!("celeriac {}", self.name).into());
        let (host, port) = (target.host.clone(), target.port);
        let tls = target.tls.as_ref().map(|tls| {
            let name = tls.server_hostname.clone().unwrap_or_else(|| host.clone());
            (RustlsConnector::from(Arc::clone(&tls.config)), name)
        });
        let timeout = target.connect_timeout;
        let connecting = Connection::connector(
            uri(target),
            lapin::runtime::default_runtime().map_err(|error| explain(&target.url, &error))?,
            async move |_, runtime| {
                let connecting = async {
                    let addresses: Vec<_> = tokio::net::lookup_host((host.as_str(), port)).await?.collect();
                    let stream = AsyncTcpStream::connect(&runtime, addresses).await?;
                    match &tls {
                        None => Ok::<_, std::io::Error>(stream),
                        Some((connector, name)) => stream.into_rustls(connector, name).await,
                    }
                };
                // Its own deadline, so that it ends though nobody waits for it any longer.
                let connected = tokio::time::timeout(timeout, connecting).await;
                connected
                    .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
                    .map_err(lapin::Error::from)
            },
            properties,
        );
        let unavailable = |reason: String| Error::BrokerUnavailable { url: target.url.clone(), reason };
        let connection = tokio::time::timeout(target.connect_timeout, connecting)
            .await
            .map_err(|_| unavailable(format!("no answer within {} s", target.connect_timeout.as_secs_f64())))?
            .map_err(|error| explain_connecting(&target.url, &error))?;
        let live = Live {
            number: self.numbers.fetch_add(1, Ordering::Relaxed) + 1,
            place,
            url: target.url.clone(),
            connection,
            spoiled: AtomicUsize::new(0),
            ended: watch::Sender::new(false),
            blocked: watch::Sender::new(None),
        };
        Ok(live)
    }

    pub(super) async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let live = self.state.lock().await.live.take();
        if let Some(live) = live {
            live.close().await;
        }
    }
}

/// Listens to what the broker says of a connection, as long as there is one.
fn listen(live: &Arc<Live>) {
    let mut events = Box::pin(live.connection.events_listener());
    let weak = Arc::downgrade(live);
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            let Some(live) = weak.upgrade() else { return };
            match event {
                Event::ConnectionBlocked(reason) => {
                    log::warn!("{} takes no messages for now: {reason}", live.url);
                    live.blocked.send_replace(Some(reason));
                }
                Event::ConnectionUnblocked => {
                    log::warn!("{} takes messages again.", live.url);
                    live.blocked.send_replace(None);
                }
                Event::Error(_) if !live.connection.status().connected() => {
                    live.give_up();
                    return;
                }
                _ => {}
            }
        }
    });
}

fn uri(target: &Target) -> AMQPUri {
    AMQPUri {
        scheme: if target.tls.is_some() { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username: target.user.clone(), password: target.password.clone() },
            host: target.host.clone(),
            port: target.port,
        },
        vhost: target.vhost.clone(),
        query: AMQPQueryString {
            frame_max: Some(FRAME_MAX),
            channel_max: None,
            heartbeat: Some(target.heartbeat),
            connection_timeout: None,
            auth_mechanism: Some(match target.login_method {
                LoginMethod::Plain => SASLMechanism::Plain,
                LoginMethod::AmqPlain => SASLMechanism::AMQPlain,
                LoginMethod::External => SASLMechanism::External,
            }),
        },
    }
}

fn shuffle(places: &mut [usize]) {
    for last in (1..places.len()).rev() {
        let chance = uuid::Uuid::new_v4().as_u128() % (last as u128 + 1);
        places.swap(last, chance as usize);
    }
}
