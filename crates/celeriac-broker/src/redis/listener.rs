//! Listening to the lists that have no connection of their own.
//!
//! Consumers of the same such lists are a group. One of them at a time listens for the group: the server tells it when a
//! list changes that it has read before (`CLIENT TRACKING`). It then names the list in the group's bell, a list that each of
//! the group waits on; whoever waits longest gets it, and claims from the list that was named. The message itself is never
//! moved, so a bell that is lost loses nothing: a list that has messages is looked at, and named, again.
//!
//! A list that was empty when it was read last can only have got messages: so the bell is rung at once, and the list is
//! read again a moment later, when they have mostly been claimed, and not after the push and after the claim too. While nobody waits,
//! the lists stay named in the bell: whoever waits next gets them, and the listener has nothing to do but to look once a second.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use celeriac_error::Result;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ProtocolVersion, PushInfo, PushKind, RedisResult,
    Value,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::core::{Core, Source, lock};
use super::keys::Keys;
use super::link::{breaks_connection, limited};
use super::scripts::{RING, TURN};

/// How often the turn is kept, or asked for.
const KEEP: Duration = Duration::from_secs(1);

/// How long a listener that is gone keeps its turn.
const TURN_LASTS: Duration = Duration::from_secs(3);

/// How soon a list that was named is read again: the more of them at once, the less work, and the later is seen what came meanwhile.
const SOON: Duration = Duration::from_millis(2);

/// How long a list that still has messages is left alone at most.
const LATE: Duration = Duration::from_secs(1);

/// How often all lists are read where the server tells us nothing.
const POLL: Duration = Duration::from_millis(100);

/// When a bell that nobody rings any more is forgotten, in seconds.
const FORGOTTEN_AFTER: u64 = 60;

/// Consumers with the same lists that have no connection of their own.
pub(super) struct Group {
    /// The list that they wait on.
    pub(super) bell: Arc<str>,
    turn: String,
    lists: Vec<Watched>,
    places: HashMap<Vec<u8>, usize>,
    sources: HashMap<Vec<u8>, (Arc<str>, Arc<str>)>,
}

struct Watched {
    list: Arc<str>,
    /// Names it in the bell: the queue's name as JSON text, and the list.
    token: String,
}

impl Group {
    pub(super) fn new(keys: &Keys, mut watched: Vec<(Arc<Source>, Arc<str>)>) -> Self {
        watched.sort_by(|one, other| one.1.cmp(&other.1));
        // FNV-1a: the same in every process, and two groups that share a name only do needless work.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in watched.iter().flat_map(|(_, list)| list.bytes().chain([0])) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let name = |list: &str| list.as_bytes().to_vec();
        Self {
            bell: keys.own(&format!("bell:{hash:016x}")).into(),
            turn: keys.own(&format!("listener:{hash:016x}")),
            places: watched.iter().enumerate().map(|(place, (_, list))| (name(list), place)).collect(),
            sources: watched
                .iter()
                .map(|(source, list)| (name(list), (Arc::clone(&source.queue), Arc::clone(list))))
                .collect(),
            lists: watched
                .into_iter()
                .map(|(source, list)| Watched { token: format!("{}\n{list}", source.json), list })
                .collect(),
        }
    }

    /// The queue and the list of this name.
    pub(super) fn source(&self, list: &[u8]) -> Option<(Arc<str>, Arc<str>)> {
        self.sources.get(list).cloned()
    }

    /// The call that reads these lists and names those in the bell that have messages.
    fn ring(&self, keys: &Keys, places: &[usize], only_with_credit: bool) -> Cmd {
        let mut names = vec![&*self.bell];
        let credits = keys.credits();
        names.push(&credits);
        names.extend(places.iter().map(|&place| &*self.lists[place].list));
        let mut call = RING.call(&names);
        call.arg(FORGOTTEN_AFTER).arg(i32::from(only_with_credit));
        for &place in places {
            call.arg(&self.lists[place].token);
        }
        call
    }
}

/// The task that listens when it is its turn.
pub(super) struct Listener {
    group: Arc<Group>,
    has_turn: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Listener {
    pub(super) fn abort(&self) {
        self.task.abort();
    }
}

/// Starts to listen for this group, and for no other any more.
pub(super) async fn arrange(core: &Arc<Core>, group: Option<Arc<Group>>) {
    let stays = match (&*lock(&core.listener), &group) {
        (Some(listener), Some(group)) => listener.group.bell == group.bell,
        (None, None) => true,
        _ => false,
    };
    if stays {
        return;
    }
    end(core).await;
    *lock(&core.listener) = group.map(|group| {
        let has_turn = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(keep(Arc::clone(core), Arc::clone(&group), Arc::clone(&has_turn)));
        Listener { group, has_turn, task }
    });
}

/// Ends it. Another one's turn begins within [`KEEP`]; when the turn cannot be given up, after [`TURN_LASTS`].
pub(super) async fn end(core: &Core) {
    let Some(listener) = lock(&core.listener).take() else { return };
    listener.abort();
    if listener.has_turn.load(Ordering::SeqCst) {
        let _ = take_turn(core, &listener.group, Duration::ZERO).await;
    }
}

async fn take_turn(core: &Core, group: &Group, lasts: Duration) -> Result<bool> {
    let mut call = TURN.call(&[&group.turn]);
    call.arg(&core.name).arg(lasts.as_millis() as u64);
    core.link.script(&TURN, &call).await.map(|turn: i32| turn == 1)
}

async fn keep(core: Arc<Core>, group: Arc<Group>, has_turn: Arc<AtomicBool>) {
    loop {
        // A plain command, since most of the time somebody else has it.
        let mut ask = redis::cmd("SET");
        ask.arg(&group.turn).arg(&core.name).arg("NX").arg("PX").arg(TURN_LASTS.as_millis() as u64);
        has_turn.store(true, Ordering::SeqCst);
        let asked = core.link.command::<Option<String>>(&ask).await;
        // A lost answer may have been a yes.
        if asked.is_err() || matches!(asked, Ok(Some(_))) {
            while matches!(take_turn(&core, &group, TURN_LASTS).await, Ok(true)) {
                // When the server is away for a moment it is still our turn.
                let _ = listen(&core, &group).await;
            }
        }
        has_turn.store(false, Ordering::SeqCst);
        tokio::time::sleep(KEEP).await;
    }
}

/// What is known about the lists.
struct Watch<'a> {
    core: &'a Core,
    group: &'a Group,
    connection: MultiplexedConnection,
    /// The lists to be read again: when, and how long after the reading before. All others were empty when they were read
    /// last, and the server will tell us when they are not any more.
    checks: HashMap<usize, (Instant, Duration)>,
}

/// Listens until it is not its turn any more, or the connection breaks.
async fn listen(core: &Core, group: &Group) -> RedisResult<()> {
    let (sender, mut told) = unbounded_channel();
    let settings = &core.settings;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(settings.connect_timeout))
        .set_response_timeout(Some(settings.response_timeout))
        .set_push_sender(sender);
    let track = async {
        let client = Client::open(with_pushes(settings.client.get_connection_info()))?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let mut track = redis::cmd("CLIENT");
        track.arg(&["TRACKING", "ON", "NOLOOP"]).exec_async(&mut connection).await?;
        RedisResult::Ok(connection)
    };
    let connection = match limited(settings.connect_timeout, track).await {
        Ok(connection) => connection,
        Err(error) if breaks_connection(&error) => {
            tokio::time::sleep(POLL).await;
            return Err(error);
        }
        // Not known, or not allowed.
        Err(_) => {
            poll(core, group).await;
            return Ok(());
        }
    };
    let now = Instant::now();
    let checks = (0..group.lists.len()).map(|place| (place, (now, Duration::ZERO))).collect();
    let mut watch = Watch { core, group, connection, checks };
    let mut kept = tokio::time::interval_at(now + KEEP, KEEP);
    loop {
        let next = watch.checks.values().map(|(when, _)| *when).min();
        tokio::select! {
            first = told.recv() => {
                let Some(first) = first else { return Ok(()) };
                if !watch.hear(first, &mut told).await? {
                    return Ok(());
                }
            }
            () = tokio::time::sleep_until(next.unwrap_or(now)), if next.is_some() => watch.check().await?,
            _ = kept.tick() => {
                if !matches!(take_turn(core, group, TURN_LASTS).await, Ok(true)) {
                    return Ok(());
                }
                // While all lists are empty nothing else is sent, and a server that cannot reach us any more tells us nothing.
                redis::cmd("PING").exec_async(&mut watch.connection).await?;
            }
        }
    }
}

/// The same server, spoken to in the protocol that has messages of its own accord.
fn with_pushes(info: &ConnectionInfo) -> ConnectionInfo {
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    info.clone().set_redis_settings(settings)
}

impl Watch<'_> {
    /// Rings for what the server told; false when the connection has ended.
    async fn hear(&mut self, first: PushInfo, told: &mut UnboundedReceiver<PushInfo>) -> RedisResult<bool> {
        let now = Instant::now();
        let mut rung = Vec::new();
        let mut next = Some(first);
        while let Some(push) = next {
            match push.kind {
                PushKind::Disconnection => return Ok(false),
                PushKind::Invalidate => self.changed(push.data, now, &mut rung),
                _ => {}
            }
            next = told.try_recv().ok();
        }
        if rung.is_empty() {
            return Ok(true);
        }
        let mut tokens = redis::cmd("LPUSH");
        tokens.arg(&*self.group.bell);
        for &place in &rung {
            tokens.arg(&self.group.lists[place].token);
        }
        let mut ringing = redis::pipe();
        ringing.add_command(tokens).ignore();
        ringing.cmd("EXPIRE").arg(&*self.group.bell).arg(FORGOTTEN_AFTER).ignore();
        if !self.checks.is_empty() {
            // What we change ourselves is not tracked any more.
            ringing.cmd("LLEN").arg(&*self.group.bell).ignore();
        }
        self.checks.extend(rung.into_iter().map(|place| (place, (now + SOON, SOON))));
        ringing.exec_async(&mut self.connection).await?;
        Ok(true)
    }

    /// Takes down what changed; adds to `rung` the lists that got messages.
    fn changed(&mut self, data: Vec<Value>, now: Instant, rung: &mut Vec<usize>) {
        for data in data {
            let Value::Array(keys) = data else {
                // The database was flushed, and everything with it that was tracked.
                let all = 0..self.group.lists.len();
                self.checks.extend(all.map(|place| (place, (now + SOON, SOON))));
                continue;
            };
            for key in keys {
                let Value::BulkString(key) = key else { continue };
                if key == self.group.bell.as_bytes() {
                    // Somebody took what it named.
                    for (when, _) in self.checks.values_mut() {
                        *when = (*when).min(now + SOON);
                    }
                } else if let Some(&place) = self.group.places.get(&key)
                    && !self.checks.contains_key(&place)
                    && !rung.contains(&place)
                {
                    rung.push(place);
                }
            }
        }
    }

    /// Reads the lists whose time has come. Those that have messages are named in the bell, and read again later.
    async fn check(&mut self) -> RedisResult<()> {
        let now = Instant::now();
        let due: Vec<usize> =
            self.checks.iter().filter(|(_, (when, _))| *when <= now).map(|(&place, _)| place).collect();
        let call = self.group.ring(&self.core.settings.keys, &due, false);
        let waiting: Vec<usize> = RING.run(&mut self.connection, &call).await?;
        for (number, place) in due.into_iter().enumerate() {
            match self.checks.get_mut(&place) {
                Some((when, pause)) if waiting.contains(&(number + 1)) => {
                    *pause = (*pause * 2).clamp(SOON, LATE);
                    *when = now + *pause;
                }
                _ => drop(self.checks.remove(&place)),
            }
        }
        Ok(())
    }
}

/// Reads all lists again and again, for as long as it is our turn.
async fn poll(core: &Core, group: &Group) {
    let all: Vec<usize> = (0..group.lists.len()).collect();
    let call = group.ring(&core.settings.keys, &all, true);
    let mut kept = Instant::now();
    loop {
        // A server that is away is the receiver's to report.
        let _ = core.link.script::<Vec<usize>>(&RING, &call).await;
        tokio::time::sleep(POLL).await;
        if kept.elapsed() >= KEEP {
            kept = Instant::now();
            if !matches!(take_turn(core, group, TURN_LASTS).await, Ok(true)) {
                return;
            }
        }
    }
}
