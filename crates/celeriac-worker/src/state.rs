//! What a worker holds at a moment, in one place behind one lock.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use celeriac_broker::declare::Declarations;
use celeriac_broker::producer::Producer;
use celeriac_broker::{Consumer, DeliveryTag, Transport};
use celeriac_protocol::task::TaskRequest;
use celeriac_result::ResultStore;
use tokio::sync::{Notify, OnceCell};

use crate::begin;
use crate::options::{TaskSettings, WorkerOptions};
use crate::revoked::Revoked;
use crate::schedule::Schedule;
use crate::settle::SettleQueue;

/// Where a held message stands on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Waits for its ETA.
    Scheduled,
    /// Waits for JavaScript to take it.
    Ready,
    /// JavaScript has it, and has not begun its body.
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
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) request: Arc<TaskRequest>,
    pub(crate) settings: TaskSettings,
    pub(crate) queue: Arc<str>,
    /// The item of [`next`](crate::Worker::next), ready made; empty once its body has begun.
    pub(crate) rendered: String,
    /// How many bytes its message has.
    pub(crate) size: usize,
    pub(crate) stage: Stage,
    /// The broker has forgotten it: it was acknowledged before its body.
    pub(crate) acknowledged: bool,
    /// `expires`, if it has one.
    pub(crate) expires: Option<jiff::Timestamp>,
    pub(crate) preparation: Preparation,
    /// It was handed out before, so its begin is counted: see [`begin`](crate::begin).
    pub(crate) counted: bool,
    /// When its body began.
    pub(crate) begun: Option<Instant>,
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
#[derive(Default)]
pub(crate) struct State {
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
    /// Deliveries after that one which are known to be lost already.
    pub(crate) lost_untaken: HashSet<DeliveryTag>,
    /// When JavaScript last gave a sign of life.
    pub(crate) last_contact: Option<Instant>,
    /// When it was last said that something could not be settled yet.
    pub(crate) said_unsettled: Option<Instant>,
}

impl State {
    /// How many messages count towards the prefetch limit.
    pub(crate) fn prefetched(&self) -> usize {
        self.held.len() - self.schedule.len() + self.parked
    }

    /// Holds a message from now on.
    pub(crate) fn insert(&mut self, tag: DeliveryTag, held: Held) {
        self.bytes += held.size;
        self.held.insert(tag, held);
    }

    /// Takes out what JavaScript has not begun and the broker still knows: it can go back as if never taken.
    pub(crate) fn take_unbegun(&mut self) -> Vec<DeliveryTag> {
        let mut unbegun = self.schedule.drain();
        let is_given = |held: &Held| held.stage == Stage::Given && !held.acknowledged;
        let first = unbegun.len();
        unbegun.extend(self.held.iter().filter(|(_, held)| is_given(held)).map(|(tag, _)| *tag));
        unbegun[first..].sort_unstable();
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
        unbegun
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
        self.bytes -= held.size;
        if matches!(held.stage, Stage::Given | Stage::Running) {
            self.running -= 1;
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
}

impl Shared {
    pub(crate) fn new(
        options: WorkerOptions,
        transport: Arc<dyn Transport>,
        store: Option<Arc<dyn ResultStore>>,
        producer: Arc<Producer>,
        declarations: Arc<Declarations>,
    ) -> Self {
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
            state: Mutex::default(),
            deliverable: Notify::new(),
            capacity: Notify::new(),
            interrupt: Notify::new(),
            rescheduled: Notify::new(),
            stopped: Notify::new(),
            stopping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            suspended: AtomicBool::new(false),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
}
