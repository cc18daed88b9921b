//! Waiting for messages without losing any and without polling.
//!
//! One connection for each list sends `BLMOVE list private RIGHT LEFT` and, in the same write, the script that claims what
//! was moved: the server runs it as soon as BLMOVE is served. BRPOP would be simpler, but loses what it popped when its
//! client is killed before it has recorded it. A consumer says in the hash of credits how many messages it would take; the
//! script of whoever comes without credit puts the message back, and the next one that waits gets it.
//!
//! With more lists than connections, only the most urgent ones have a connection each; one more waits on a bell that is
//! rung for all others ([`listener`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::consumer::bulks;
use super::core::{BYTES_PER_CLAIM, Claimed, Core, Grant, Source, lock};
use super::link::{connect, explain, limited};
use super::listener::{self, Group};
use super::scripts::{self, RUNG, Script, WAKE};
use super::settings::Settings;
use super::unanswered::Asked;
use crate::fault_point;
use crate::moment::Moment;

/// How long the server holds a BLMOVE.
const BLOCK: Duration = Duration::from_secs(5);

/// How long after that a connection without an answer counts as dead.
const OVERDUE: Duration = Duration::from_secs(5);

/// The time between two attempts to connect.
const RETRY: Duration = Duration::from_millis(250);

/// How long a credit that the server does not know may be on its way to us as messages.
const ON_ITS_WAY: Duration = Duration::from_millis(50);

/// How long a connection that is told to end may take.
const END: Duration = Duration::from_secs(2);

/// A connection that waits on one list.
pub(super) struct Waiter {
    list: Arc<str>,
    control: Arc<Control>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Control {
    ended: AtomicBool,
    end: Notify,
    /// What the server calls the connection (`CLIENT ID`); 0 while there is none.
    client: AtomicI64,
    /// A connection broke, so the server may still hold a BLMOVE for us.
    broke: AtomicBool,
}

impl Waiter {
    /// Ends it at once; what the server still moves for it, its restorers put back.
    pub(super) fn abort(self) {
        self.task.abort();
    }
}

/// What one connection waits on.
#[derive(Clone)]
enum Target {
    /// A list of this queue.
    List(Arc<Source>, Arc<str>),
    /// The bell that is rung for all lists without a connection.
    Bell(Arc<Group>),
}

impl Target {
    fn name(&self) -> &Arc<str> {
        match self {
            Self::List(_, list) => list,
            Self::Bell(group) => &group.bell,
        }
    }
}

/// How a consumer waits: on each list, when there are few; else on the most urgent ones, and on a bell for the others.
pub(super) struct Plan {
    targets: Vec<Target>,
    group: Option<Arc<Group>>,
}

impl Plan {
    pub(super) fn new(settings: &Settings, queues: &[Arc<Source>]) -> Self {
        let most = settings.waiting_connections;
        let steps = settings.keys.steps.len();
        let all: Vec<_> = (0..steps)
            .flat_map(|step| {
                queues.iter().map(move |source| (Arc::clone(source), Arc::clone(&source.lists[step])))
            })
            .collect();
        if all.len() <= most {
            let targets = all.into_iter().map(|(source, list)| Target::List(source, list)).collect();
            return Self { targets, group: None };
        }
        // One waits on the bell, the others on whole steps, so that the same queues are the same group in whatever order. But
        // a part of the first step is better than nothing.
        let left = most - 1;
        let own = if left < queues.len() { left } else { left - left % queues.len() };
        let (own, watched) = all.split_at(own);
        let group = Arc::new(Group::new(&settings.keys, watched.to_vec()));
        let lists = own.iter().map(|(source, list)| Target::List(Arc::clone(source), Arc::clone(list)));
        let targets = lists.chain([Target::Bell(Arc::clone(&group))]).collect();
        Self { targets, group: Some(group) }
    }

    /// The lists that connections wait on.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.targets.iter().map(Target::name)
    }
}

/// Ends the connections that are not needed any more and starts those that are.
pub(super) async fn arrange(core: &Arc<Core>) {
    let sources = core.sources();
    let plan = &sources.plan;
    end(core, |list| !plan.names().any(|name| **name == *list)).await;
    {
        let mut waiters = lock(&core.waiters);
        for target in &plan.targets {
            let list = target.name();
            if waiters.iter().any(|waiter| waiter.list == *list) {
                continue;
            }
            let control = Arc::new(Control::default());
            let waiting =
                Waiting { core: Arc::clone(core), target: target.clone(), control: Arc::clone(&control) };
            let task = tokio::spawn(waiting.run(core.grant.subscribe()));
            waiters.push(Waiter { list: Arc::clone(list), control, task });
        }
    }
    listener::arrange(core, plan.group.clone()).await;
}

/// Ends the connections on these lists. What they are given meanwhile they put back, since there is no credit.
/// True when all have ended by themselves, so that nothing can be moved for them any more.
pub(super) async fn end(core: &Core, which: impl Fn(&str) -> bool) -> bool {
    let ending: Vec<Waiter> = {
        let mut waiters = lock(&core.waiters);
        let (ending, staying) = waiters.drain(..).partition(|waiter| which(&waiter.list));
        *waiters = staying;
        ending
    };
    for waiter in &ending {
        waiter.control.ended.store(true, Ordering::SeqCst);
        waiter.control.end.notify_one();
    }
    let deadline = tokio::time::Instant::now() + END;
    let mut in_order = true;
    for mut waiter in ending {
        // Again and again: the BLMOVE may reach the server after the first UNBLOCK.
        while !waiter.task.is_finished() && tokio::time::Instant::now() < deadline {
            let client = waiter.control.client.load(Ordering::SeqCst);
            if client != 0 {
                let unblocked =
                    core.link.command::<i64>(redis::cmd("CLIENT").arg("UNBLOCK").arg(client)).await;
                if unblocked.is_err() {
                    break;
                }
            }
            let _ = tokio::time::timeout(Duration::from_millis(20), &mut waiter.task).await;
        }
        in_order &= waiter.task.is_finished() && !waiter.control.broke.load(Ordering::SeqCst);
        if !waiter.task.is_finished() {
            waiter.task.abort();
            // What it asked for is known from then on as unanswered.
            let _ = waiter.task.await;
        }
    }
    in_order
}

/// The task of a [`Waiter`].
struct Waiting {
    core: Arc<Core>,
    target: Target,
    control: Arc<Control>,
}

/// What came of one BLMOVE.
enum Woken {
    Nothing,
    PutBack,
    /// What the call claimed, and when it was sent.
    Claimed(Vec<Claimed>, Moment),
}

impl Waiting {
    async fn run(self, mut grants: watch::Receiver<Grant>) {
        let mut connection = None;
        // A connection broke: what was moved for us may lie in the private list. We look at it as soon as we can, and not
        // only when somebody waits.
        let mut broke = false;
        // The last grant that somebody has used.
        let mut spent = 0;
        loop {
            let granted = if broke {
                Some(*grants.borrow())
            } else {
                tokio::select! {
                    () = self.control.end.notified() => None,
                    grant = grants.wait_for(|grant| grant.credit > 0 && grant.number > spent) => grant.ok().map(|grant| *grant),
                }
            };
            let (Some(grant), false) = (granted, self.control.ended.load(Ordering::SeqCst)) else { return };
            let woken = match connection.as_mut() {
                None => match self.open().await {
                    Ok(opened) => {
                        connection = Some(opened);
                        continue;
                    }
                    Err(error) => Err(error),
                },
                Some(connection) => {
                    let asked = Asked::new(&self.core);
                    let waited = self.wait(connection, &asked.prefix, !broke);
                    let woken = limited(BLOCK + OVERDUE, waited).await;
                    if woken.is_ok() {
                        asked.answered();
                    }
                    woken
                }
            };
            broke = woken.is_err();
            match woken {
                Ok(Woken::Nothing) => {}
                Ok(Woken::PutBack) => {
                    spent = grant.number;
                    self.core.sweep_next();
                    self.doubt(&mut grants, grant.number).await;
                }
                Ok(Woken::Claimed(messages, asked_at)) => {
                    spent = grant.number;
                    self.core.expect_more(&messages, self.core.use_grant());
                    // In a task of its own: who ends this one does not wait for ever, and what is held must not be forgotten.
                    let core = Arc::clone(&self.core);
                    let _ = tokio::spawn(async move { core.take_in(messages, asked_at).await }).await;
                }
                Err(error) => {
                    connection = None;
                    self.control.broke.store(true, Ordering::SeqCst);
                    self.core.fail(explain(&self.core.settings.url, &error));
                    let _ = tokio::time::timeout(RETRY, self.control.end.notified()).await;
                }
            }
            if self.control.ended.load(Ordering::SeqCst) {
                return;
            }
        }
    }

    /// The server knew no credit of ours. Mostly another of our connections has just used it, and as soon as its answer is here
    /// there is a new one, or none. But it may be gone for good: a restorer took us for dead, or somebody flushed the
    /// database; then whoever waits has to ask again.
    async fn doubt(&self, grants: &mut watch::Receiver<Grant>, number: u64) {
        let resolved = grants.wait_for(|grant| grant.number != number || grant.credit == 0);
        let unresolved = tokio::select! {
            () = self.control.end.notified() => false,
            _ = resolved => false,
            () = tokio::time::sleep(ON_ITS_WAY) => true,
        };
        let grant = *self.core.grant.borrow();
        if unresolved && grant.number == number && grant.credit > 0 {
            self.core.close_grant();
        }
    }

    async fn open(&self) -> RedisResult<MultiplexedConnection> {
        // No time-out of its own: it has to wait.
        let mut connection = connect(&self.core.settings, None).await?;
        let prepare = async {
            let client: i64 = redis::cmd("CLIENT").arg("ID").query_async(&mut connection).await?;
            self.script().load(&mut connection).await?;
            Ok(client)
        };
        let client = limited(self.core.settings.response_timeout, prepare).await?;
        let before = self.control.client.swap(client, Ordering::SeqCst);
        if before != 0 {
            // The server may not know yet that our connection broke, and still move a message for it. Where this is
            // refused, BLMOVE's end and the script after the next one set it right.
            let mut end = redis::cmd("CLIENT");
            end.arg("KILL").arg("ID").arg(before);
            let _ = limited(self.core.settings.response_timeout, end.exec_async(&mut connection)).await;
        }
        Ok(connection)
    }

    /// Waits for a message, or only looks whether one was moved for us already.
    async fn wait(
        &self,
        connection: &mut MultiplexedConnection,
        prefix: &str,
        blocks: bool,
    ) -> RedisResult<Woken> {
        let (core, keys) = (&self.core, &self.core.settings.keys);
        let list = self.target.name();
        let private = keys.private_list(&core.name, list);
        let script = self.script();
        let mut call = script.call(&[
            private.as_str(),
            list,
            &keys.unacked,
            &keys.unacked_index,
            &keys.leases(),
            &keys.credits(),
            &keys.workers(),
        ]);
        call.arg(&core.name).arg(prefix).arg(core.lease_ms()).arg(BYTES_PER_CLAIM);
        if let Target::List(source, _) = &self.target {
            call.arg(&source.json);
        }
        fault_point!("redis.wake.before");
        let sent = Moment::now();
        let woken: RedisResult<Value> = if blocks {
            let mut both = redis::pipe();
            both.ignore_errors();
            both.cmd("BLMOVE").arg(&**list).arg(&private).arg("RIGHT").arg("LEFT").arg(BLOCK.as_secs());
            both.add_command(call.clone());
            let (moved, woken): (RedisResult<Value>, RedisResult<Value>) =
                both.query_async(connection).await?;
            moved?;
            woken
        } else {
            call.query_async(connection).await
        };
        let woken = match woken {
            // The message lies in the private list: it must not wait for the next one.
            Err(error) if scripts::is_missing(&error) => {
                fault_point!("redis.wake.moved");
                script.run(connection, &call).await?
            }
            woken => woken?,
        };
        Ok(match woken {
            Value::Int(_) => Woken::PutBack,
            reply => match self.claimed(prefix, reply) {
                Some(claimed) if !claimed.is_empty() => {
                    fault_point!("redis.wake.after");
                    Woken::Claimed(claimed, sent)
                }
                _ => Woken::Nothing,
            },
        })
    }

    fn script(&self) -> &'static Script {
        match self.target {
            Target::List(..) => &WAKE,
            Target::Bell(_) => &RUNG,
        }
    }

    /// What the script gave us.
    fn claimed(&self, prefix: &str, reply: Value) -> Option<Vec<Claimed>> {
        let mut claimed = Vec::new();
        let mut add = |queue: &Arc<str>, list: &Arc<str>, messages: Vec<Bytes>| {
            for raw in messages {
                let id = format!("{prefix}{}", claimed.len() + 1).into();
                claimed.push(Claimed { id, queue: Arc::clone(queue), list: Arc::clone(list), raw });
            }
        };
        match &self.target {
            Target::List(source, list) => add(&source.queue, list, bulks(reply)?),
            Target::Bell(group) => {
                let Value::Array(parts) = reply else { return None };
                let mut parts = parts.into_iter();
                while let (Some(Value::BulkString(list)), Some(messages)) = (parts.next(), parts.next()) {
                    let (queue, list) = group.source(&list)?;
                    add(&queue, &list, bulks(messages)?);
                }
            }
        }
        Some(claimed)
    }
}
