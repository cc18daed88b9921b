//! What the parts of a consumer share: what is held, what is ready to be handed out, and what is asked for.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use celeriac_error::{Error, Result};
use celeriac_protocol::envelope;
use tokio::sync::{Notify, watch};

use super::lease::{self, Leases};
use super::link::Link;
use super::listener::Listener;
use super::malformed;
use super::routing::Router;
use super::settings::{QueueOrder, Settings};
use super::settle;
use super::unanswered::Unanswered;
use super::waiting::{Plan, Waiter};
use crate::moment::Moment;
pub(super) use crate::sync::lock;
use crate::transport::{Delivery, DeliveryTag, ExchangeType, Queue};

/// One unsettled delivery.
#[derive(Clone)]
pub(super) struct Held {
    /// Its tag in Redis, used by no other claim ever; in the dead list its id there.
    pub(super) id: Arc<str>,
    pub(super) raw: Bytes,
    /// The list it was taken from.
    pub(super) list: Arc<str>,
    pub(super) queue: Arc<str>,
    /// It could not be read and lies in the dead list already: kombu's restore ends at the first record that it cannot
    /// parse, so no such message stays in `unacked` for longer than it takes to see that.
    pub(super) buried: bool,
    /// The key that counts how often the body of its task has begun, when this delivery was counted there.
    pub(super) counted: Option<Arc<str>>,
    /// How many settlements of it are under way.
    pub(super) settling: u32,
    /// A settlement was sent and its answer lost: when the claim is gone, it was that settlement.
    pub(super) unsure: bool,
}

/// A claim ends with the message that reaches this: its answer has to come in time, whatever the messages' size.
pub(super) const BYTES_PER_CLAIM: usize = 16 << 20;

/// What a claiming script gave us.
pub(super) struct Claimed {
    /// Its tag in Redis.
    pub(super) id: Arc<str>,
    pub(super) queue: Arc<str>,
    /// The list it was taken from.
    pub(super) list: Arc<str>,
    pub(super) raw: Bytes,
}

/// One queue that is consumed.
pub(super) struct Source {
    pub(super) queue: Arc<str>,
    /// The name as JSON text, for the record of a claim.
    pub(super) json: String,
    /// Its lists, the most urgent first.
    pub(super) lists: Vec<Arc<str>>,
}

/// The queues that are consumed.
pub(super) struct Sources {
    pub(super) queues: Vec<Arc<Source>>,
    /// The queue that a sweep begins with.
    pub(super) first: AtomicUsize,
    /// How it waits for their messages.
    pub(super) plan: Plan,
}

impl Sources {
    pub(super) fn new(settings: &Settings, queues: &[Queue]) -> Result<Self> {
        let mut names: Vec<&str> = Vec::new();
        for queue in queues {
            if queue.exchange.kind == ExchangeType::Fanout && !queue.exchange.name.is_empty() {
                return Err(Error::NotSupported {
                    what: format!("consuming the queue `{}` of a fanout exchange", queue.name),
                    by: settings.url.clone(),
                });
            }
            settings.keys.check_queue(&queue.name)?;
            if !names.contains(&queue.name.as_str()) {
                names.push(&queue.name);
            }
        }
        if settings.order == QueueOrder::Sorted {
            names.sort_unstable();
        }
        let source = |name: &str| {
            Arc::new(Source {
                queue: name.into(),
                json: serde_json::Value::from(name).to_string(),
                lists: settings.keys.lists(name).into_iter().map(Arc::from).collect(),
            })
        };
        let queues: Vec<_> = names.into_iter().map(source).collect();
        Ok(Self { plan: Plan::new(settings, &queues), queues, first: AtomicUsize::new(0) })
    }
}

/// Whether the server lets waiting connections claim.
#[derive(Clone, Copy, Default)]
pub(super) struct Grant {
    /// Grows with each one.
    pub(super) number: u64,
    /// How many messages; 0 once it was used.
    pub(super) credit: usize,
    /// How many of them could begin at once.
    pub(super) slots: isize,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Running,
    Stopped,
    Closed,
}

pub(super) struct Core {
    pub(super) settings: Arc<Settings>,
    pub(super) router: Arc<Router>,
    pub(super) link: Link,
    /// Names this consumer in Redis.
    pub(super) name: String,
    pub(super) lease: Duration,
    calls: AtomicU64,
    tags: AtomicU64,
    pub(super) held: Mutex<HashMap<u64, Held>>,
    pub(super) leases: Leases,
    pub(super) ready: Mutex<VecDeque<Delivery>>,
    /// Rung when a waiting receive should look again.
    pub(super) arrived: Notify,
    pub(super) grant: watch::Sender<Grant>,
    /// How often a waiting connection told us that it has used a credit.
    uses: AtomicU64,
    /// Whether a look at all lists is worth it before waiting.
    pub(super) sweep: Mutex<bool>,
    /// Why waiting came to nothing.
    pub(super) fault: Mutex<Option<Error>>,
    pub(super) stage: watch::Sender<Stage>,
    /// Held by whoever changes what the server may give us.
    pub(super) asking: tokio::sync::Mutex<()>,
    pub(super) sources: Mutex<Arc<Sources>>,
    pub(super) waiters: Mutex<Vec<Waiter>>,
    pub(super) listener: Mutex<Option<Listener>>,
    pub(super) unanswered: Unanswered,
}

impl Core {
    pub(super) fn new(
        settings: Arc<Settings>,
        router: Arc<Router>,
        name: String,
        lease: Duration,
        sources: Sources,
    ) -> Self {
        Self {
            link: Link::new(Arc::clone(&settings)),
            settings,
            router,
            name,
            lease,
            calls: AtomicU64::new(0),
            tags: AtomicU64::new(0),
            held: Mutex::default(),
            leases: Leases::new(),
            ready: Mutex::default(),
            arrived: Notify::new(),
            grant: watch::Sender::new(Grant::default()),
            uses: AtomicU64::new(0),
            sweep: Mutex::new(true),
            fault: Mutex::default(),
            stage: watch::Sender::new(Stage::Running),
            asking: tokio::sync::Mutex::new(()),
            sources: Mutex::new(Arc::new(sources)),
            waiters: Mutex::default(),
            listener: Mutex::default(),
            unanswered: Unanswered::default(),
        }
    }

    pub(super) fn sources(&self) -> Arc<Sources> {
        Arc::clone(&lock(&self.sources))
    }

    pub(super) fn is_running(&self) -> bool {
        *self.stage.borrow() == Stage::Running
    }

    /// The prefix of the tags of one call of a claiming script.
    pub(super) fn next_call(&self) -> String {
        format!("{}:{}:", self.name, self.calls.fetch_add(1, Ordering::SeqCst))
    }

    /// How many calls of a claiming script have been numbered.
    pub(super) fn calls_so_far(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// The lease in milliseconds.
    pub(super) fn lease_ms(&self) -> u64 {
        self.lease.as_millis() as u64
    }

    pub(super) fn sweep_next(&self) {
        *lock(&self.sweep) = true;
    }

    /// To be given to [`open_grant`](Self::open_grant), from before the server was asked.
    pub(super) fn uses(&self) -> u64 {
        self.uses.load(Ordering::SeqCst)
    }

    /// The server lets waiting connections take this many. But when one of them was faster than the server's answer to us, the
    /// credit may be used already: then we do not count on it, and the next receive asks for another.
    pub(super) fn open_grant(&self, credit: usize, slots: isize, uses: u64) {
        self.grant.send_modify(|grant| {
            let credit = if self.uses() == uses { credit } else { 0 };
            *grant = Grant { number: grant.number + 1, credit, slots };
        });
    }

    /// A waiting connection used the credit; gives how much it was, as far as we know. Nobody is told before
    /// [`accept`](Self::accept) has what came for it.
    pub(super) fn use_grant(&self) -> usize {
        self.uses.fetch_add(1, Ordering::SeqCst);
        self.take_grant()
    }

    /// The server lets nobody take anything, or we do not know. Whoever waits for the credit is told, and asks anew: it need not
    /// be he who has it taken back, since a claim goes on whose receive was dropped. Says whether there was one.
    pub(super) fn close_grant(&self) -> bool {
        let was_open = self.take_grant() > 0;
        if was_open {
            self.arrived.notify_waiters();
        }
        was_open
    }

    fn take_grant(&self) -> usize {
        let mut credit = 0;
        self.grant.send_modify(|grant| credit = std::mem::take(&mut grant.credit));
        credit
    }

    /// A claim was limited by what may be claimed, so there may be more: the next one looks at all lists.
    pub(super) fn expect_more(&self, claimed: &[Claimed], credit: usize) {
        let bytes: usize = claimed.iter().map(|one| one.raw.len()).sum();
        if claimed.len() >= credit || bytes >= BYTES_PER_CLAIM {
            self.sweep_next();
        }
    }

    /// A waiting connection broke: whoever waits is told, and asks anew when it comes back.
    pub(super) fn fail(&self, error: Error) {
        self.sweep_next();
        // Whoever is told looks there first.
        let mut fault = lock(&self.fault);
        if self.close_grant() {
            *fault = Some(error);
        }
    }

    /// Makes deliveries of what a script claimed that was sent then.
    pub(super) async fn accept(&self, claimed: Vec<Claimed>, sent: Moment) {
        let mut deliveries = Vec::with_capacity(claimed.len());
        let (mut doubtful, mut aside) = (Vec::with_capacity(claimed.len()), Vec::new());
        for Claimed { id, queue, list, raw } in claimed {
            let tag = self.tags.fetch_add(1, Ordering::Relaxed) + 1;
            let put_aside = !malformed::may_be_message(&raw);
            let held = Held {
                id,
                raw: raw.clone(),
                list,
                queue: Arc::clone(&queue),
                buried: false,
                counted: None,
                // What the script put aside is no claim that a renewal could find: it is being settled already.
                settling: u32::from(put_aside),
                unsure: false,
            };
            lock(&self.held).insert(tag, held);
            let mut message = envelope::decode(&raw);
            if put_aside {
                aside.push(tag);
                // Whatever the decoder thinks of it: what lies in the dead list must not begin.
                message = message.and_then(|_| Err(malformed::refused()));
            } else {
                doubtful.push(tag);
            }
            deliveries.push(Delivery { tag: DeliveryTag(tag), queue, raw, message });
        }
        let lost = lease::doubt(self, &doubtful, sent).await;
        deliveries.retain(|delivery| !lost.contains(&delivery.tag.0));
        let unreadable: Vec<(u64, String)> = deliveries
            .iter()
            .filter_map(|delivery| Some((delivery.tag.0, delivery.message.as_ref().err()?.to_string())))
            .collect();
        if !unreadable.is_empty() {
            settle::bury(self, &unreadable).await;
        }
        {
            // Both at once: a renewal takes what is lost from the one, then from the other.
            let mut all = lock(&self.held);
            for tag in aside {
                if let Some(held) = all.get_mut(&tag) {
                    held.settling = held.settling.saturating_sub(1);
                }
            }
            // A renewal may have told meanwhile that it is lost.
            deliveries.retain(|delivery| all.contains_key(&delivery.tag.0));
            lock(&self.ready).extend(deliveries);
        }
        self.arrived.notify_waiters();
    }

    pub(super) fn take_ready(&self, max: usize) -> Vec<Delivery> {
        let mut ready = lock(&self.ready);
        let count = ready.len().min(max);
        ready.drain(..count).collect()
    }
}

/// The number of the call that made a tag: see [`Core::next_call`].
pub(super) fn call_number(id: &str) -> u64 {
    id.rsplit(':').nth(1).and_then(|number| number.parse().ok()).unwrap_or_default()
}
