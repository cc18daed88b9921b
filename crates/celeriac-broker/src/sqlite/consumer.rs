//! Takes messages for one consumer and keeps account of what it holds.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use celeriac_error::{Error, Result};
use celeriac_protocol::{Message, envelope};
use tokio::sync::Notify;

use super::engine::{Engine, Renewal, Request};
use super::session::{Claimed, Held, Outgoing, Session};
use super::{outgoing, unroutable};
use crate::fault_point;
use crate::moment::Moment;
use crate::sync::{listen, lock};
use crate::transport::{
    ConsumeOptions, Consumer, Delivery, DeliveryTag, Outcome, Publication, Queue, Settled, Settlement,
};

/// What the consumer and the thread share.
pub(super) struct ConsumerState {
    node: String,
    pub(super) renewal: Renewal,
    inner: Mutex<Inner>,
    /// When the holder was last renewed. By itself, because it is asked for where nobody may wait for the rest. Taken after `inner`.
    last_renewed: Mutex<Moment>,
    /// Rung when a waiting receive should look again.
    changed: Notify,
    /// Rung when there is something to tell of lost deliveries.
    told: Notify,
}

struct Inner {
    holder: i64,
    queues: Vec<Arc<str>>,
    last_tag: u64,
    held: BTreeMap<u64, Held>,
    /// The task and the count of each delivery that has begun.
    begun: HashMap<u64, (String, u32)>,
    /// Claimed, but not given out yet.
    ready: VecDeque<Delivery>,
    /// The thread knows that a receive waits, for at most this many.
    wanted: Option<usize>,
    failure: Option<Error>,
    stopped: bool,
    ended: bool,
    lost: Vec<DeliveryTag>,
    /// A lease that had run out was looked at again.
    looked: bool,
}

/// A renewal that was written, but not committed yet.
pub(super) struct Renewed {
    holder: i64,
    sent: Moment,
}

impl ConsumerState {
    pub(super) fn new(holder: i64, options: &ConsumeOptions) -> Self {
        Self {
            node: options.node.clone(),
            renewal: Renewal::new(options.lease),
            inner: Mutex::new(Inner {
                holder,
                queues: names(&options.queues),
                last_tag: 0,
                held: BTreeMap::new(),
                begun: HashMap::new(),
                ready: VecDeque::new(),
                wanted: None,
                failure: None,
                stopped: false,
                ended: false,
                lost: Vec::new(),
                looked: false,
            }),
            last_renewed: Mutex::new(Moment::now()),
            changed: Notify::new(),
            told: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lock().ended
    }

    pub(super) fn queues(&self) -> Vec<Arc<str>> {
        self.lock().queues.clone()
    }

    pub(super) fn is_waiting(&self) -> bool {
        let inner = self.lock();
        inner.wanted.is_some() && !inner.stopped
    }

    /// Holder, queues and the most messages, when a receive waits.
    pub(super) fn wanted(&self) -> Option<(i64, Vec<Arc<str>>, usize)> {
        let inner = self.lock();
        if inner.stopped {
            return None;
        }
        inner.wanted.map(|max| (inner.holder, inner.queues.clone(), max))
    }

    /// Takes over what was claimed for it.
    pub(super) fn hand_over(&self, holder: i64, claimed: Vec<Claimed>) {
        // Before the lock: it may take long.
        let messages: Vec<_> = claimed.iter().map(|one| envelope::decode(&one.payload)).collect();
        let mut inner = self.lock();
        inner.wanted = None;
        // The queue that was taken from last is asked last next time, as kombu's `round_robin_cycle` does, so that a
        // full queue starves no other.
        if let Some(last) = claimed.last()
            && let Some(index) = inner.queues.iter().position(|queue| *queue == last.queue)
        {
            let queue = inner.queues.remove(index);
            inner.queues.push(queue);
        }
        for (Claimed { message_id, queue, payload }, message) in claimed.into_iter().zip(messages) {
            inner.last_tag += 1;
            let tag = inner.last_tag;
            inner.ready.push_back(Delivery {
                tag: DeliveryTag(tag),
                queue: Arc::clone(&queue),
                raw: payload.clone(),
                message,
            });
            inner.held.insert(tag, Held { holder, message_id, queue, raw: payload });
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    /// The next receive reports this.
    pub(super) fn fail(&self, error: Error) {
        let mut inner = self.lock();
        inner.wanted = None;
        inner.failure = Some(error);
        drop(inner);
        self.changed.notify_waiters();
    }

    /// Nothing comes any more; what was held is lost.
    pub(super) fn end(&self) {
        let mut inner = self.lock();
        inner.stopped = true;
        inner.ended = true;
        inner.held.clear();
        inner.begun.clear();
        inner.ready.clear();
        drop(inner);
        self.changed.notify_waiters();
    }

    /// Whether what is held is certainly still its own.
    pub(super) fn leases_stand(&self) -> bool {
        lock(&self.last_renewed).age() < self.renewal.lease
    }

    /// Says that it lives. Whoever was taken for dead goes on under a new name.
    pub(super) fn renew(&self, session: &mut Session) -> rusqlite::Result<Renewed> {
        let (holder, sent) = (self.lock().holder, Moment::now());
        if session.renew_holder(holder, self.renewal.lease)? {
            return Ok(Renewed { holder, sent });
        }
        Ok(Renewed { holder: session.add_holder(&self.node, self.renewal.lease)?, sent })
    }

    /// The renewal is committed. What was held under another name is others' now.
    pub(super) fn renewed(&self, Renewed { holder, sent }: &Renewed) {
        let mut inner = self.lock();
        let ran_out = !self.leases_stand();
        inner.holder = *holder;
        let gone: Vec<u64> =
            inner.held.iter().filter(|(_, held)| held.holder != *holder).map(|(tag, _)| *tag).collect();
        for tag in gone {
            inner.held.remove(&tag);
            inner.begun.remove(&tag);
            let ready = inner.ready.len();
            inner.ready.retain(|delivery| delivery.tag.0 != tag);
            // Nobody was told of what is taken back unseen.
            if inner.ready.len() == ready {
                inner.lost.push(DeliveryTag(tag));
            }
        }
        inner.looked |= ran_out;
        // Only now: what is gone is not taken for held by whoever asks in between.
        *lock(&self.last_renewed) = *sent;
        drop(inner);
        self.told.notify_waiters();
    }

    /// What was claimed but never given out.
    fn not_given_out(&self) -> Vec<(u64, Held)> {
        let inner = self.lock();
        let tags = inner.ready.iter().map(|delivery| delivery.tag.0);
        tags.filter_map(|tag| Some((tag, inner.held.get(&tag)?.clone()))).collect()
    }

    fn forget(&self, tags: &[u64]) {
        let mut inner = self.lock();
        inner.ready.retain(|delivery| !tags.contains(&delivery.tag.0));
        for tag in tags {
            inner.held.remove(tag);
        }
    }
}

fn names(queues: &[Queue]) -> Vec<Arc<str>> {
    queues.iter().map(|queue| Arc::from(queue.name.as_str())).collect()
}

/// Gives back what nobody has seen, as if it had never been claimed.
fn put_back_unseen(session: &mut Session, state: &ConsumerState) -> rusqlite::Result<Vec<u64>> {
    let mut tags = Vec::new();
    for (tag, held) in state.not_given_out() {
        if session.release(&held)? {
            session.give_back(&held, false)?;
        }
        tags.push(tag);
    }
    Ok(tags)
}

/// A settlement with all that the thread needs for it.
struct Due {
    tag: u64,
    held: Option<Held>,
    /// The task whose begins were counted.
    begun: Option<String>,
    publish: Vec<Outgoing>,
    outcome: Outcome,
}

enum Outcomes {
    Done,
    Lost,
    /// This of its publications leads nowhere.
    Unroutable(usize),
}

fn settle_one(session: &mut Session, due: &Due) -> rusqlite::Result<Outcomes> {
    let Some(held) = &due.held else { return Ok(Outcomes::Lost) };
    if !session.is_held(held)? {
        return Ok(Outcomes::Lost);
    }
    let mut routes = Vec::with_capacity(due.publish.len());
    for (index, outgoing) in due.publish.iter().enumerate() {
        match session.route(outgoing)? {
            Some(route) => routes.push(route),
            None => return Ok(Outcomes::Unroutable(index)),
        }
    }
    for (outgoing, route) in due.publish.iter().zip(&routes) {
        session.put(outgoing, route)?;
    }
    session.release(held)?;
    if let Some(task_id) = &due.begun
        && !due.outcome.keeps_count()
    {
        session.forget_begins(task_id)?;
    }
    match &due.outcome {
        Outcome::Ack => session.delete(held)?,
        Outcome::Requeue { redelivered } => session.give_back(held, *redelivered)?,
        Outcome::Abandon => session.give_back(held, true)?,
        Outcome::Dead { reason, detail } => session.bury(held, reason, detail)?,
    }
    fault_point!("sqlite.settle.written");
    Ok(Outcomes::Done)
}

/// The handle that the worker has.
pub(super) struct SqliteConsumer {
    pub(super) engine: Arc<Engine>,
    pub(super) state: Arc<ConsumerState>,
}

impl SqliteConsumer {
    /// Hands back whatever it still holds and leaves.
    pub(super) async fn leave(engine: &Engine, state: &Arc<ConsumerState>) -> Result<()> {
        {
            let mut inner = state.lock();
            inner.stopped = true;
            if inner.ended {
                return Ok(());
            }
        }
        state.changed.notify_waiters();
        let (working, after) = (Arc::clone(state), Arc::clone(state));
        engine
            .write_then(
                move |session| {
                    put_back_unseen(session, &working)?;
                    let holder = working.lock().holder;
                    session.end_holder(holder)
                },
                move |()| after.end(),
            )
            .await
    }

    fn error_of(settlement: &Settlement, index: usize) -> Error {
        settlement.publish.get(index).map_or_else(
            || Error::Internal("no such publication".to_owned()),
            |it: &Publication| unroutable(it),
        )
    }
}

#[async_trait]
impl Consumer for SqliteConsumer {
    async fn receive(&self, max: usize) -> Result<Vec<Delivery>> {
        loop {
            let changed = listen(&self.state.changed);
            let ask = {
                let mut inner = self.state.lock();
                if inner.stopped {
                    return Ok(Vec::new());
                }
                if !inner.ready.is_empty() {
                    let count = inner.ready.len().min(max.max(1));
                    return Ok(inner.ready.drain(..count).collect());
                }
                if let Some(failure) = inner.failure.take() {
                    return Err(failure);
                }
                let ask = inner.wanted.is_none();
                inner.wanted = Some(max.max(1));
                ask
            };
            if ask {
                let asked = self.engine.send(Request::Claim(Arc::clone(&self.state)));
                asked.inspect_err(|_| self.state.lock().wanted = None)?;
            }
            changed.await;
        }
    }

    async fn pause(&self) -> Vec<Delivery> {
        let mut inner = self.state.lock();
        inner.wanted = None;
        inner.ready.drain(..).collect()
    }

    async fn settle(&self, batch: &[Settlement]) -> Vec<Result<Settled>> {
        let mut due = Vec::with_capacity(batch.len());
        {
            let inner = self.state.lock();
            for settlement in batch {
                due.push(Due {
                    tag: settlement.tag.0,
                    held: inner.held.get(&settlement.tag.0).cloned(),
                    begun: inner.begun.get(&settlement.tag.0).map(|(task_id, _)| task_id.clone()),
                    publish: Vec::new(),
                    outcome: settlement.outcome.clone(),
                });
            }
        }
        for (due, settlement) in due.iter_mut().zip(batch) {
            if due.held.is_some() {
                due.publish = settlement.publish.iter().map(outgoing).collect();
            }
        }
        // What the broker cannot store is refused before anything is touched.
        let storable: Vec<bool> = batch.iter().map(|settlement| settlement.store.is_none()).collect();
        let tags: Vec<u64> = due.iter().map(|due| due.tag).collect();
        let state = Arc::clone(&self.state);
        let work_storable = storable.clone();
        let settled = self
            .engine
            .write_then(
                move |session| {
                    due.iter()
                        .zip(&work_storable)
                        .map(
                            |(due, storable)| {
                                if *storable { settle_one(session, due).map(Some) } else { Ok(None) }
                            },
                        )
                        .collect::<rusqlite::Result<Vec<_>>>()
                },
                move |outcomes| {
                    let mut inner = state.lock();
                    for (tag, outcome) in tags.iter().zip(outcomes) {
                        if matches!(outcome, Some(Outcomes::Done | Outcomes::Lost)) {
                            inner.held.remove(tag);
                            inner.begun.remove(tag);
                        }
                    }
                },
            )
            .await;
        match settled {
            Ok(outcomes) => outcomes
                .into_iter()
                .zip(batch)
                .map(|(outcome, settlement)| match outcome {
                    Some(Outcomes::Done) => Ok(Settled::Done),
                    Some(Outcomes::Lost) => Ok(Settled::Lost),
                    Some(Outcomes::Unroutable(index)) => Err(Self::error_of(settlement, index)),
                    None => Err(Error::NotSupported {
                        what: "storing a result while settling".to_owned(),
                        by: self.engine.location.url.clone(),
                    }),
                })
                .collect(),
            Err(error) => repeat(&error, batch.len()),
        }
    }

    async fn still_held(&self, tags: &[DeliveryTag]) -> Result<Vec<bool>> {
        let held: Vec<Option<Held>> = {
            let inner = self.state.lock();
            tags.iter().map(|tag| inner.held.get(&tag.0).cloned()).collect()
        };
        self.engine
            .read(move |session| {
                held.iter()
                    .map(|held| held.as_ref().map_or(Ok(false), |held| session.is_held(held)))
                    .collect()
            })
            .await
    }

    async fn begin(&self, batch: &[(DeliveryTag, &str)]) -> Result<Vec<Option<u32>>> {
        let asked: Vec<_> = {
            let inner = self.state.lock();
            let known = |tag| inner.begun.get(tag).map(|(_, count)| *count);
            batch
                .iter()
                .map(|(tag, task_id)| (inner.held.get(&tag.0).cloned(), (*task_id).to_owned(), known(&tag.0)))
                .collect()
        };
        let state = Arc::clone(&self.state);
        let told: Vec<_> = batch.iter().map(|(tag, task_id)| (tag.0, (*task_id).to_owned())).collect();
        self.engine
            .write_then(
                move |session| {
                    asked
                        .iter()
                        .map(|(held, task_id, known)| match held {
                            Some(held) if session.is_held(held)? => match known {
                                Some(count) => Ok(Some(*count)),
                                None => session.begin_body(task_id).map(Some),
                            },
                            _ => Ok(None),
                        })
                        .collect::<rusqlite::Result<Vec<_>>>()
                },
                move |counts: &Vec<Option<u32>>| {
                    let mut inner = state.lock();
                    for ((tag, task_id), count) in told.into_iter().zip(counts) {
                        if let Some(count) = count {
                            inner.begun.insert(tag, (task_id, *count));
                        }
                    }
                },
            )
            .await
    }

    fn leases_stand(&self) -> bool {
        self.state.leases_stand()
    }

    fn read(&self, raw: &Bytes) -> Option<Result<Message>> {
        Some(envelope::decode(raw))
    }

    async fn lost(&self) -> Vec<DeliveryTag> {
        loop {
            let told = listen(&self.state.told);
            {
                let mut inner = self.state.lock();
                if std::mem::take(&mut inner.looked) || !inner.lost.is_empty() {
                    return std::mem::take(&mut inner.lost);
                }
            }
            told.await;
        }
    }

    async fn set_queues(&self, queues: Vec<Queue>) -> Result<()> {
        {
            let mut inner = self.state.lock();
            inner.queues = names(&queues);
            if inner.wanted.is_none() {
                return Ok(());
            }
        }
        // A receive that waits already looks into the new queues.
        self.engine.send(Request::Claim(Arc::clone(&self.state)))
    }

    async fn stop(&self) {
        self.state.lock().stopped = true;
        self.state.changed.notify_waiters();
        let (working, after) = (Arc::clone(&self.state), Arc::clone(&self.state));
        // When it fails, closing or the end of the lease gives them back.
        let _ = self
            .engine
            .write_then(move |session| put_back_unseen(session, &working), move |tags| after.forget(tags))
            .await;
    }

    async fn close(&self) -> Result<()> {
        match Self::leave(&self.engine, &self.state).await {
            Err(Error::Closed(_)) => Ok(()),
            result => result,
        }
    }
}

impl Drop for SqliteConsumer {
    fn drop(&mut self) {
        let holder = {
            let mut inner = self.state.lock();
            if inner.ended {
                return;
            }
            inner.stopped = true;
            inner.ended = true;
            inner.holder
        };
        self.engine.write_unattended(move |session| session.end_holder(holder));
    }
}

/// The same error for each of a batch.
pub(super) fn repeat<T>(error: &Error, count: usize) -> Vec<Result<T>> {
    (0..count).map(|_| Err(error.clone())).collect()
}
