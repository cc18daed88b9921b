//! What a worker holds at a moment, in one place behind one lock.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use celeriac_broker::declare::Declarations;
use celeriac_broker::producer::Producer;
use celeriac_broker::sync::lock;
use celeriac_broker::{Consumer, DeliveryTag, Transport};
use celeriac_protocol::task::TaskRequest;
use celeriac_result::ResultStore;
use tokio::sync::{Notify, OnceCell};

use bytes::Bytes;

use crate::begin;
use crate::options::{TaskSettings, WorkerOptions};
use crate::revoked::Revoked;
use crate::schedule::Schedule;
use crate::settle_queue::SettleQueue;
use crate::slots::Slots;

/// Where a held message stands on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Waits for its ETA.
    Scheduled,
    /// Waits for JavaScript to take it.
    Ready,
    /// JavaScript has it, and has not begun its body, unless its slot says otherwise.
    Given,
    /// Its body has begun.
    Running,
}

/// How far what must happen before the body has happened: the early ack, the STARTED document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preparation {
    Open,
    UnderWay,
    Done,
}

/// A message that this worker holds.
///
/// Small, because there may be very many that are not due.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) content: Content,
    pub(crate) queue: Arc<str>,
    /// How many bytes its message has.
    pub(crate) size: u32,
    /// Where JavaScript looks before its body; 0 is none.
    pub(crate) slot: u32,
    pub(crate) settings: TaskSettings,
    pub(crate) stage: Stage,
    /// The broker has forgotten it: it was acknowledged before its body.
    pub(crate) acknowledged: bool,
    pub(crate) preparation: Preparation,
    /// It was handed out before, so its begin is counted: see [`begin`](crate::begin).
    pub(crate) counted: bool,
}

/// What is kept of a message.
#[derive(Debug)]
pub(crate) enum Content {
    /// Only its bytes, which the broker's consumer has too: it is read again when it is due.
    Raw(Bytes),
    Read(Box<Task>),
}

/// A message that was read.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) request: TaskRequest,
    /// Its lines of [`collect`](crate::Worker::collect), ready made but for its slot; empty once its body has begun.
    pub(crate) rendered: Rendered,
    /// `expires`, if it has one.
    pub(crate) expires: Option<jiff::Timestamp>,
    /// When its body began, or was seen to have.
    pub(crate) begun: Option<Instant>,
}

/// A delivery as JavaScript reads it: two lines, the number of its slot in the first one left out.
#[derive(Debug, Default)]
pub(crate) struct Rendered {
    pub(crate) text: String,
    /// Where that number goes.
    pub(crate) slot_at: usize,
}

impl Held {
    /// What was read of it; nothing while it is not due.
    pub(crate) fn task(&self) -> Option<&Task> {
        match &self.content {
            Content::Read(task) => Some(task),
            Content::Raw(_) => None,
        }
    }

    pub(crate) fn request(&self) -> Option<&TaskRequest> {
        self.task().map(|task| &task.request)
    }

    /// The id of its task, for a line in the log.
    pub(crate) fn task_id(&self) -> String {
        self.request().map(|request| request.id.clone()).unwrap_or_default()
    }

    fn has_begun(&mut self) {
        self.stage = Stage::Running;
        if let Content::Read(task) = &mut self.content {
            task.begun = Some(Instant::now());
            task.rendered = Rendered::default();
        }
    }
}

/// Something that JavaScript is told with its next deliveries.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Notice {
    /// Tasks that may be running were revoked.
    Revoke { ids: Vec<String>, terminate: bool, signal: String },
    /// The worker was asked to stop from outside.
    Shutdown,
}

/// How often each thing happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) received: u64,
    pub(crate) settled: u64,
    pub(crate) lost: u64,
    pub(crate) dead: u64,
    pub(crate) by_task: HashMap<String, u64>,
}

/// Everything that changes while a worker runs.
pub(crate) struct State {
    pub(crate) slots: Arc<Slots>,
    /// Slots that nothing is in.
    free_slots: Vec<u32>,
    /// What is in each slot, the first of them left out.
    in_slots: Vec<Option<DeliveryTag>>,
    pub(crate) held: HashMap<DeliveryTag, Held>,
    pub(crate) ready: VecDeque<DeliveryTag>,
    pub(crate) schedule: Schedule,
    /// How many JavaScript has.
    pub(crate) running: usize,
    /// How many bytes the held messages have.
    pub(crate) bytes: usize,
    pub(crate) notices: Vec<Notice>,
    pub(crate) revoked: Revoked,
    /// How often each task that nothing here is registered for was put back.
    pub(crate) unknown: HashMap<String, u32>,
    /// How many of those wait to be put back.
    pub(crate) parked: usize,
    pub(crate) counts: Counts,
    /// The counted message that keeps others of its kind from beginning, and since when: see [`begin`](crate::begin).
    pub(crate) beginning: Option<(DeliveryTag, Instant)>,
    /// The last delivery that was sorted into its place; tags grow.
    pub(crate) last_taken: Option<DeliveryTag>,
    /// Those that are just being read, before they are held.
    pub(crate) sorting: Vec<DeliveryTag>,
    /// Deliveries after the last one, or being read, which are known to be lost already.
    pub(crate) lost_untaken: HashSet<DeliveryTag>,
    /// When JavaScript last gave a sign of life.
    pub(crate) last_contact: Option<Instant>,
    /// When it was last said that something could not be settled yet.
    pub(crate) said_unsettled: Option<Instant>,
}

impl State {
    pub(crate) fn new(slots: Arc<Slots>) -> Self {
        let last = slots.words().len() as u32;
        Self {
            free_slots: (1..last).rev().collect(),
            in_slots: vec![None; last as usize],
            slots,
            held: HashMap::new(),
            ready: VecDeque::new(),
            schedule: Schedule::default(),
            running: 0,
            bytes: 0,
            notices: Vec::new(),
            revoked: Revoked::default(),
            unknown: HashMap::new(),
            parked: 0,
            counts: Counts::default(),
            beginning: None,
            last_taken: None,
            sorting: Vec::new(),
            lost_untaken: HashSet::new(),
            last_contact: None,
            said_unsettled: None,
        }
    }

    /// JavaScript is about to have it; gives its slot, or 0 where JavaScript sees none.
    pub(crate) fn give(&mut self, tag: DeliveryTag) -> u32 {
        self.running += 1;
        let slot = if self.slots.are_seen() { self.free_slots.pop().unwrap_or(0) } else { 0 };
        if slot > 0 {
            self.slots.give(slot, tag);
            self.in_slots[slot as usize] = Some(tag);
        }
        if let Some(held) = self.held.get_mut(&tag) {
            held.stage = Stage::Given;
            held.slot = slot;
        }
        slot
    }

    /// JavaScript has it no more.
    fn leave_slot(&mut self, slot: u32) {
        self.running -= 1;
        if slot > 0 {
            self.slots.clear(slot);
            self.in_slots[slot as usize] = None;
            self.free_slots.push(slot);
        }
    }

    /// Its body begins now; false when it must not.
    pub(crate) fn begin(&mut self, tag: DeliveryTag) -> bool {
        let Some(held) = self.held.get_mut(&tag).filter(|held| held.stage == Stage::Given) else {
            return false;
        };
        if held.slot > 0 && !self.slots.begin(held.slot, tag) {
            return false;
        }
        held.has_begun();
        true
    }

    /// It is given again once it is known whether it is still ours; false when it has begun already.
    pub(crate) fn put_off(&mut self, tag: DeliveryTag) -> bool {
        if !self.takes_back(tag) {
            return false;
        }
        if let Some(held) = self.held.get_mut(&tag) {
            held.stage = Stage::Ready;
            let slot = std::mem::take(&mut held.slot);
            self.leave_slot(slot);
        }
        self.ready.push_front(tag);
        self.end_beginning(tag);
        true
    }

    /// Whether its body has not begun, and cannot begin before the caller gives the lock away: it takes the message out by then,
    /// or gives it another stage.
    pub(crate) fn takes_back(&mut self, tag: DeliveryTag) -> bool {
        let Some(held) = self.held.get_mut(&tag) else { return false };
        match held.stage {
            Stage::Scheduled | Stage::Ready => true,
            Stage::Running => false,
            Stage::Given if held.slot == 0 || self.slots.take_back(held.slot, tag) => true,
            Stage::Given => {
                held.has_begun();
                false
            }
        }
    }

    /// Sees what JavaScript has begun since it was last looked at.
    pub(crate) fn see_begun(&mut self) {
        for (slot, tag) in self.in_slots.iter().enumerate() {
            let Some(tag) = tag else { continue };
            if let Some(held) = self.held.get_mut(tag)
                && held.stage == Stage::Given
                && self.slots.has_begun(slot as u32, *tag)
            {
                held.has_begun();
            }
        }
    }

    /// How many messages count towards the prefetch limit.
    pub(crate) fn prefetched(&self) -> usize {
        self.held.len().saturating_sub(self.schedule.len()) + self.parked
    }

    /// A message has been read; says whether it was lost meanwhile.
    pub(crate) fn end_sorting(&mut self, tag: DeliveryTag) -> bool {
        self.sorting.retain(|each| *each != tag);
        self.lost_untaken.remove(&tag)
    }

    /// Holds a message from now on.
    pub(crate) fn insert(&mut self, tag: DeliveryTag, held: Held) {
        self.bytes += held.size as usize;
        self.held.insert(tag, held);
    }

    /// Takes out what JavaScript has not begun and the broker still knows: it can go back as if never taken, and cannot begin
    /// any more.
    pub(crate) fn take_unbegun(&mut self) -> Vec<(DeliveryTag, Held)> {
        let mut unbegun = self.schedule.drain();
        let is_given = |held: &Held| held.stage == Stage::Given && !held.acknowledged;
        let mut given: Vec<DeliveryTag> =
            self.held.iter().filter(|(_, held)| is_given(held)).map(|(tag, _)| *tag).collect();
        given.retain(|tag| self.takes_back(*tag));
        given.sort_unstable();
        unbegun.extend(given);
        let held = &self.held;
        self.ready.retain(|tag| {
            let keeps = held
                .get(tag)
                .is_some_and(|held| held.acknowledged || held.preparation == Preparation::UnderWay);
            if !keeps {
                unbegun.push(*tag);
            }
            keeps
        });
        unbegun.into_iter().filter_map(|tag| Some((tag, self.remove(tag)?))).collect()
    }

    /// Whether a message must wait until another one has begun, or ended.
    pub(crate) fn is_held_up(&self, held: &Held) -> bool {
        held.counted && self.is_one_beginning()
    }

    /// Whether a counted message keeps others of its kind from beginning.
    pub(crate) fn is_one_beginning(&self) -> bool {
        self.beginning.is_some_and(|(_, since)| since.elapsed() < begin::ALONE)
    }

    /// A counted message keeps others from beginning no more.
    pub(crate) fn end_beginning(&mut self, tag: DeliveryTag) {
        if self.beginning.is_some_and(|(beginning, _)| beginning == tag) {
            self.beginning = None;
        }
    }

    /// Takes a message out of whatever it waits in.
    pub(crate) fn remove(&mut self, tag: DeliveryTag) -> Option<Held> {
        let held = self.held.remove(&tag)?;
        self.bytes -= held.size as usize;
        if matches!(held.stage, Stage::Given | Stage::Running) {
            self.leave_slot(held.slot);
        }
        self.end_beginning(tag);
        Some(held)
    }
}

/// What every part of a worker shares.
pub(crate) struct Shared {
    pub(crate) options: WorkerOptions,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) store: Option<Arc<dyn ResultStore>>,
    /// The store is on the broker's server, which stores and acknowledges in one step.
    pub(crate) store_inline: bool,
    pub(crate) producer: Arc<Producer>,
    pub(crate) declarations: Arc<Declarations>,
    pub(crate) consumer: OnceCell<Arc<dyn Consumer>>,
    pub(crate) settle_queue: SettleQueue,
    state: Mutex<State>,
    /// JavaScript may be given something: a message is ready, a slot is free, a notice is there, or all is over.
    pub(crate) deliverable: Notify,
    /// The consumer may take more, or must look at `stopping`.
    pub(crate) capacity: Notify,
    /// The consumer must stop waiting for messages: JavaScript takes none.
    pub(crate) interrupt: Notify,
    /// The schedule has a new first entry.
    pub(crate) rescheduled: Notify,
    /// Told to everybody who waits for time to pass.
    pub(crate) stopped: Notify,
    pub(crate) stopping: AtomicBool,
    pub(crate) closed: AtomicBool,
    /// JavaScript takes nothing: nothing is claimed until it does.
    pub(crate) suspended: AtomicBool,
    /// How many messages have come that are not in their places yet.
    pub(crate) coming: AtomicUsize,
}

impl Shared {
    pub(crate) fn new(
        options: WorkerOptions,
        transport: Arc<dyn Transport>,
        store: Option<Arc<dyn ResultStore>>,
        producer: Arc<Producer>,
        declarations: Arc<Declarations>,
    ) -> Self {
        let slots = Arc::new(Slots::new(options.concurrency));
        let identity = store.as_ref().and_then(|store| store.identity());
        let store_inline = identity.is_some_and(|identity| transport.same_server(&identity));
        Self {
            options,
            transport,
            store,
            store_inline,
            producer,
            declarations,
            consumer: OnceCell::new(),
            settle_queue: SettleQueue::default(),
            state: Mutex::new(State::new(slots)),
            deliverable: Notify::new(),
            capacity: Notify::new(),
            interrupt: Notify::new(),
            rescheduled: Notify::new(),
            stopped: Notify::new(),
            stopping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            suspended: AtomicBool::new(false),
            coming: AtomicUsize::new(0),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether what is held is certainly still ours: see [`Consumer::leases_stand`].
    pub(crate) fn leases_stand(&self) -> bool {
        self.consumer.get().is_none_or(|consumer| consumer.leases_stand())
    }

    pub(crate) fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::Acquire)
    }

    /// How many messages have come that are not in their places yet.
    pub(crate) fn coming(&self) -> usize {
        self.coming.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(stage: Stage) -> Held {
        Held {
            content: Content::Raw(Bytes::new()),
            queue: "celery".into(),
            size: 1,
            slot: 0,
            settings: TaskSettings::default(),
            stage,
            acknowledged: false,
            preparation: Preparation::Done,
            counted: false,
        }
    }

    #[test]
    fn what_was_taken_back_cannot_begin_whether_or_not_javascript_sees_slots() {
        for sees_slots in [false, true] {
            let mut state = State::new(Arc::new(Slots::new(4)));
            state.slots.words()[0].store(i32::from(sees_slots), Ordering::Relaxed);
            let [given, begun, ready] = [1, 2, 3].map(DeliveryTag);
            for tag in [given, begun, ready] {
                state.insert(tag, held(Stage::Ready));
            }
            assert_eq!([given, begun].map(|tag| state.give(tag) > 0), [sees_slots; 2]);
            state.ready.push_back(ready);
            assert!(state.begin(begun));
            let taken: Vec<DeliveryTag> = state.take_unbegun().into_iter().map(|(tag, _)| tag).collect();
            assert_eq!(taken, [given, ready]);
            assert_eq!([given, begun, ready].map(|tag| state.begin(tag)), [false; 3]);
            assert_eq!(state.held.keys().collect::<Vec<_>>(), [&begun]);
            assert_eq!((state.running, state.bytes), (1, 1));
        }
    }
}
