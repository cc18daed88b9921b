//! What waits to be settled.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use celeriac_broker::declare::Declarations;
use celeriac_broker::sync::{listen, lock};
use celeriac_broker::{DeliveryTag, Outcome, Publication, Queue};
use celeriac_error::Error;
use celeriac_result::StoreRequest;
use tokio::sync::Notify;

use crate::logger;
use crate::outcome;

/// One delivery on its way out. What is done is taken out of it, so that a second try does only the rest.
#[derive(Debug)]
pub(crate) struct Settling {
    pub(crate) tag: DeliveryTag,
    pub(crate) task_id: String,
    pub(crate) publish: Vec<Publication>,
    /// The queue that must exist before, of each that is published; none once they do.
    pub(crate) queues: Vec<Option<Arc<Queue>>>,
    pub(crate) store: Option<StoreRequest>,
    pub(crate) outcome: Outcome,
    /// The broker has forgotten it already.
    pub(crate) acknowledged: bool,
    /// How often something of it was refused for good.
    pub(crate) refusals: u32,
}

impl Settling {
    /// Only an outcome; the rest is added by whoever has it.
    pub(crate) fn new(tag: DeliveryTag, outcome: Outcome) -> Self {
        Self {
            tag,
            task_id: String::new(),
            publish: Vec::new(),
            queues: Vec::new(),
            store: None,
            outcome,
            acknowledged: false,
            refusals: 0,
        }
    }

    /// The queues that must exist before.
    pub(crate) fn declared(&self) -> impl Iterator<Item = &Queue> + Send {
        self.queues.iter().filter_map(Option::as_deref)
    }

    /// They do: what the broker cannot hold until its time is sent at once.
    pub(crate) fn undelay(&mut self, declarations: &Declarations) {
        let queues = std::mem::take(&mut self.queues);
        if let Cow::Owned(sent) = declarations.undelayed(&self.publish, queues.iter().map(Option::as_deref)) {
            self.publish = sent;
        }
    }

    /// What the task sends on is refused for good: it fails instead, and its own message is kept in the dead list.
    pub(crate) fn refuse_publications(&mut self, error: &Error) {
        let kept = if self.acknowledged {
            "its message was acknowledged before and is gone"
        } else {
            "its message is in the dead list"
        };
        log::error!(
            target: logger::REQUEST, task_id = self.task_id.as_str();
            "Task {}: what it sends on was refused: {error}. It fails, and {kept}.", self.task_id,
        );
        self.publish.clear();
        self.queues.clear();
        self.outcome = Outcome::Dead { reason: "rejected", detail: error.to_string() };
        if let Some(store) = &mut self.store {
            outcome::turn_into_failure(&mut store.meta, "OperationalError", &error.to_string());
        }
    }
}

#[derive(Default)]
struct Waiting {
    /// What JavaScript gave, unread.
    texts: Vec<String>,
    /// Nobody reads any more.
    is_ended: bool,
    /// How many deliveries are being read of it.
    reading: usize,
    items: VecDeque<Settling>,
    /// How many are being settled at this moment.
    under_way: usize,
}

/// So many are being settled, until this is dropped: whoever waits for the end of that must not wait for one that panicked.
pub(crate) struct Taken<'queue> {
    queue: &'queue SettleQueue,
    count: usize,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.queue.waiting().under_way -= self.count;
        self.queue.progress.notify_waiters();
    }
}

/// What waits to be settled.
#[derive(Default)]
pub(crate) struct SettleQueue {
    waiting: Mutex<Waiting>,
    /// There is something to read.
    said: Notify,
    /// There is something to settle.
    wake: Notify,
    /// Told after every batch.
    progress: Notify,
}

impl SettleQueue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.waiting)
    }

    pub(crate) fn push(&self, item: Settling) {
        self.waiting().items.push_back(item);
        self.wake.notify_one();
    }

    /// Takes what JavaScript says; it is read on another thread than JavaScript's.
    pub(crate) fn push_text(&self, text: String) {
        let mut waiting = self.waiting();
        if !waiting.is_ended {
            waiting.texts.push(text);
            self.said.notify_one();
        }
    }

    /// Nothing will be read any more: what JavaScript says after this comes too late, and so does what was not read to its end.
    pub(crate) fn end(&self) {
        let mut waiting = self.waiting();
        waiting.is_ended = true;
        waiting.texts.clear();
        waiting.reading = 0;
        drop(waiting);
        self.wake.notify_one();
        self.progress.notify_waiters();
    }

    /// What was given to [`push_text`](Self::push_text), to be answered with [`push_read`](Self::push_read).
    pub(crate) fn take_texts(&self) -> Vec<String> {
        let mut waiting = self.waiting();
        let texts = std::mem::take(&mut waiting.texts);
        waiting.reading = texts.iter().map(|text| text.lines().count()).sum();
        texts
    }

    /// Takes what was read of the texts that were taken.
    pub(crate) fn push_read(&self, items: Vec<Settling>) {
        let mut waiting = self.waiting();
        waiting.reading = 0;
        waiting.items.extend(items);
        drop(waiting);
        self.wake.notify_one();
        self.progress.notify_waiters();
    }

    /// Resolves when there may be something to read.
    pub(crate) async fn said(&self) {
        self.said.notified().await;
    }

    /// At most so many of those that wait, to be answered with [`put_back`](Self::put_back).
    pub(crate) fn take(&self, most: usize) -> (Taken<'_>, Vec<Settling>) {
        let mut waiting = self.waiting();
        let count = waiting.items.len().min(most);
        waiting.under_way += count;
        let items = waiting.items.drain(..count).collect();
        drop(waiting);
        (Taken { queue: self, count }, items)
    }

    /// Takes back what could not be settled of those that were taken, in front of all others.
    pub(crate) fn put_back(&self, taken: Taken<'_>, items: Vec<Settling>) {
        let mut waiting = self.waiting();
        for item in items.into_iter().rev() {
            waiting.items.push_front(item);
        }
        drop(waiting);
        drop(taken);
    }

    /// Resolves when there may be something to settle.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    pub(crate) fn is_empty(&self) -> bool {
        let waiting = self.waiting();
        waiting.under_way == 0 && waiting.reading == 0 && waiting.items.is_empty() && waiting.texts.is_empty()
    }

    /// How many deliveries wait, as far as reading them has begun.
    pub(crate) fn len(&self) -> usize {
        let waiting = self.waiting();
        waiting.under_way + waiting.reading + waiting.items.len()
    }

    /// Whoever waits for something to read or to settle looks again.
    pub(crate) fn wake(&self) {
        self.said.notify_one();
        self.wake.notify_one();
    }

    /// Resolves when nothing waits.
    pub(crate) async fn drained(&self) {
        loop {
            let progress = listen(&self.progress);
            if self.is_empty() {
                return;
            }
            progress.await;
        }
    }
}
