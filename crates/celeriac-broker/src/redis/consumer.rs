//! Handing out what was claimed, and the end of a consumer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use celeriac_error::{Error, Result};
use celeriac_protocol::{Message, envelope};
use redis::Value;
use tokio::task::AbortHandle;

use super::core::{BYTES_PER_CLAIM, Claimed, Core, Sources, Stage, lock};
use super::scripts::{ABANDONED, CLAIM};
use super::settings::QueueOrder;
use super::{begin, lease, listener, restore, settle, unanswered, waiting};
use crate::fault_point;
use crate::moment::Moment;
use crate::sync::listen;
use crate::transport::{Consumer, Delivery, DeliveryTag, Outcome, Queue, Settled, Settlement};

/// The most messages of one call of the claiming script: the server does nothing else meanwhile.
const MESSAGES_PER_CLAIM: usize = 4096;

/// Takes messages from lists. Dropped without [`close`](Consumer::close) it lets its leases run out.
pub(super) struct RedisConsumer {
    core: Arc<Core>,
    /// One receive at a time.
    turn: tokio::sync::Mutex<()>,
    tasks: Vec<AbortHandle>,
    /// Whether every connection that waited has ended in good order: of two ends the first one finds them.
    in_order: AtomicBool,
}

impl RedisConsumer {
    /// Makes itself known, then begins to wait.
    pub(super) async fn start(core: Core) -> Result<Self> {
        let core = Arc::new(core);
        restore::announce_new(&core).await?;
        waiting::arrange(&core).await;
        let tasks = vec![
            tokio::spawn(lease::keep(Arc::clone(&core))).abort_handle(),
            tokio::spawn(restore::keep(Arc::clone(&core))).abort_handle(),
            tokio::spawn(unanswered::keep(Arc::clone(&core))).abort_handle(),
        ];
        Ok(Self { core, turn: tokio::sync::Mutex::new(()), tasks, in_order: AtomicBool::new(true) })
    }

    async fn stop_core(&self) -> Result<()> {
        let (in_order, outcome) = self.core.stop().await;
        self.in_order.fetch_and(in_order, Ordering::SeqCst);
        outcome
    }

    fn end_tasks(&self) {
        for task in &self.tasks {
            task.abort();
        }
        for waiter in lock(&self.core.waiters).drain(..) {
            waiter.abort();
        }
        if let Some(listener) = &*lock(&self.core.listener) {
            listener.abort();
        }
    }
}

impl Drop for RedisConsumer {
    fn drop(&mut self) {
        self.end_tasks();
    }
}

impl Core {
    /// Claims what is there, or lets the server give us what comes.
    async fn ask(&self, max: usize, slots: isize) -> Result<()> {
        let _asking = self.asking.lock().await;
        if !self.is_running() || !lock(&self.ready).is_empty() {
            return Ok(());
        }
        if self.unanswered.has_new() && unanswered::look(self).await? {
            return Ok(());
        }
        if std::mem::take(&mut *lock(&self.sweep)) || slots <= 0 {
            let outcome = self.sweep(max, slots).await;
            if outcome.is_err() {
                self.sweep_next();
                self.close_grant();
            }
            return outcome;
        }
        let uses = self.uses();
        let mut credit = redis::cmd("HSET");
        credit.arg(self.settings.keys.credits()).arg(&self.name).arg(format!("{max}:{slots}"));
        let outcome = self.link.command::<()>(&credit).await;
        match outcome {
            Ok(()) => self.open_grant(max, slots, uses),
            Err(_) => self.sweep_next(),
        }
        outcome
    }

    /// Looks at all lists at once.
    async fn sweep(&self, max: usize, slots: isize) -> Result<()> {
        let sources = self.sources();
        let count = sources.queues.len();
        if count == 0 {
            return Ok(());
        }
        let first = sources.first.load(Ordering::Relaxed) % count;
        let order: Vec<_> = sources.queues.iter().cycle().skip(first).take(count).collect();
        let (keys, steps) = (&self.settings.keys, self.settings.keys.steps.len());
        let mut places = vec![
            keys.unacked.clone(),
            keys.unacked_index.clone(),
            keys.leases(),
            keys.credits(),
            keys.workers(),
        ];
        for step in 0..steps {
            places.extend(order.iter().map(|source| source.lists[step].to_string()));
        }
        let fair = self.settings.order == QueueOrder::RoundRobin;
        let prefix = self.next_call();
        let mut call = CLAIM.call(&places);
        call.arg(&self.name).arg(&prefix).arg(self.lease_ms()).arg(max).arg(slots).arg(BYTES_PER_CLAIM);
        call.arg(i32::from(fair)).arg(count);
        for source in &order {
            call.arg(&source.json);
        }
        fault_point!("redis.claim.before");
        // After this an error says nothing about whether the script ran.
        self.link.open().await?;
        let (uses, sent) = (self.uses(), Moment::now());
        let reply: Vec<Value> = match self.link.script(&CLAIM, &call).await {
            Ok(reply) => reply,
            Err(error) => {
                if error.is_transient() {
                    self.unanswered.add(prefix);
                }
                return Err(error);
            }
        };
        let mut claimed = Vec::new();
        let mut taken: usize = 0;
        let mut parts = reply.into_iter();
        while let (Some(place), Some(messages)) = (parts.next(), parts.next()) {
            let (Value::Int(place), Some(messages)) = (place, bulks(messages)) else {
                return Err(Error::Internal("the claiming script gave something else".to_owned()));
            };
            let place = place as usize;
            if claimed.is_empty() && fair {
                sources.first.store((first + place % count + 1) % count, Ordering::Relaxed);
            }
            let source = order[place % count];
            claimed.extend(messages.into_iter().zip(taken + 1..).map(|(raw, number)| Claimed {
                id: format!("{prefix}{number}").into(),
                queue: Arc::clone(&source.queue),
                list: Arc::clone(&source.lists[place / count]),
                raw,
            }));
            taken = claimed.len();
        }
        if taken == 0 {
            if slots > 0 {
                self.open_grant(max, slots, uses);
            } else {
                self.close_grant();
            }
            return Ok(());
        }
        fault_point!("redis.claim.after");
        self.close_grant();
        self.expect_more(&claimed, max);
        self.take_in(claimed, sent).await;
        Ok(())
    }

    /// Lets nobody claim for us any more; what moves meanwhile is put back.
    pub(super) async fn withdraw(&self) -> Result<()> {
        self.close_grant();
        let mut credit = redis::cmd("HDEL");
        credit.arg(self.settings.keys.credits()).arg(&self.name);
        self.link.command(&credit).await
    }

    /// Puts back what lies in our private lists. `forget` when nothing can come there any more.
    async fn empty_private_lists(&self, forget: bool) -> Result<()> {
        let keys = &self.settings.keys;
        let mut call = ABANDONED.call(&[keys.workers(), keys.credits()]);
        let forgotten_after = if forget { -1 } else { restore::FORGOTTEN_AFTER.as_secs() as i64 };
        call.arg(keys.own("claim:")).arg(&self.name).arg(0).arg(forgotten_after);
        self.link.script(&ABANDONED, &call).await
    }

    /// Makes deliveries of what a script claimed that was sent then. What comes when nobody takes it any more goes back at once.
    pub(super) async fn take_in(&self, claimed: Vec<Claimed>, sent: Moment) {
        self.accept(claimed, sent).await;
        if !self.is_running() {
            // What could not be put back comes back after its lease.
            let _ = self.hand_back_untold().await;
        }
    }

    /// Puts back what nobody was told of, so that nobody else will settle it.
    async fn hand_back_untold(&self) -> Result<()> {
        let untold: Vec<_> = lock(&self.ready).drain(..).map(|delivery| delivery.tag.0).collect();
        settle::hand_back(self, untold).await
    }

    /// Says whether every connection that waited has ended in good order, and whether all could be put back.
    async fn stop(&self) -> (bool, Result<()>) {
        self.stage.send_modify(|stage| *stage = (*stage).max(Stage::Stopped));
        self.arrived.notify_waiters();
        let _asking = self.asking.lock().await;
        let withdrawn = self.withdraw().await;
        let in_order = waiting::end(self, |_| true).await;
        listener::end(self).await;
        // What is not found now comes back after its lease.
        let _ = unanswered::look(self).await;
        let back = self.hand_back_untold().await;
        let emptied = self.empty_private_lists(false).await;
        (in_order, withdrawn.and(back).and(emptied))
    }
}

/// The messages in an array of them.
pub(super) fn bulks(value: Value) -> Option<Vec<Bytes>> {
    let Value::Array(items) = value else { return None };
    let mut messages = Vec::with_capacity(items.len());
    for item in items {
        match item {
            Value::BulkString(bytes) => messages.push(Bytes::from(bytes)),
            _ => return None,
        }
    }
    Some(messages)
}

#[async_trait]
impl Consumer for RedisConsumer {
    async fn receive(&self, max: usize) -> Result<Vec<Delivery>> {
        self.receive_share(max, isize::try_from(max).unwrap_or(isize::MAX)).await
    }

    async fn receive_share(&self, max: usize, slots: isize) -> Result<Vec<Delivery>> {
        let _turn = self.turn.lock().await;
        let (core, max) = (&self.core, max.clamp(1, MESSAGES_PER_CLAIM));
        let slots = slots.min(max as isize);
        // Without a free slot nobody claims for us later: we look once.
        let mut looks = slots <= 0;
        let mut stage = core.stage.subscribe();
        loop {
            let arrived = listen(&core.arrived);
            if *stage.borrow_and_update() != Stage::Running {
                return Ok(Vec::new());
            }
            let batch = core.take_ready(max);
            if !batch.is_empty() {
                return Ok(batch);
            }
            let fault = lock(&core.fault).take();
            if let Some(error) = fault {
                return Err(error);
            }
            let granted = *core.grant.borrow();
            if *lock(&core.sweep) || looks || (slots > 0 && (granted.credit, granted.slots) != (max, slots)) {
                looks = false;
                // In a task of its own: what it claims is kept even when this future is dropped.
                let asking = Arc::clone(core);
                match tokio::spawn(async move { asking.ask(max, slots).await }).await {
                    Ok(outcome) => outcome?,
                    Err(error) => return Err(Error::Internal(format!("claiming ended early: {error}"))),
                }
                continue;
            }
            tokio::select! {
                () = arrived => {}
                _ = stage.changed() => {}
            }
        }
    }

    async fn settle(&self, batch: &[Settlement]) -> Vec<Result<Settled>> {
        settle::settle(&self.core, batch).await
    }

    async fn still_held(&self, tags: &[DeliveryTag]) -> Result<Vec<bool>> {
        let core = &self.core;
        let held: HashMap<u64, _> = {
            let all = lock(&core.held);
            tags.iter().filter_map(|tag| Some((tag.0, all.get(&tag.0)?.clone()))).collect()
        };
        let asked: Vec<_> =
            tags.iter().filter(|tag| held.get(&tag.0).is_some_and(|held| !held.buried)).collect();
        let mut ours: HashMap<u64, bool> = held.keys().map(|&tag| (tag, true)).collect();
        if !asked.is_empty() {
            // A restorer of either kind takes it out of this index.
            let mut scores = redis::cmd("ZMSCORE");
            scores.arg(&core.settings.keys.unacked_index);
            for tag in &asked {
                scores.arg(&*held[&tag.0].id);
            }
            let scores: Vec<Option<f64>> = core.link.command(&scores).await?;
            ours.extend(asked.into_iter().zip(scores).map(|(tag, score)| (tag.0, score.is_some())));
        }
        Ok(tags.iter().map(|tag| ours.get(&tag.0).copied().unwrap_or(false)).collect())
    }

    async fn begin(&self, batch: &[(DeliveryTag, &str)]) -> Result<Vec<Option<u32>>> {
        begin::begin(&self.core, batch).await
    }

    fn leases_stand(&self) -> bool {
        lease::stand(&self.core)
    }

    fn lease_left(&self) -> Duration {
        lease::left(&self.core)
    }

    fn read(&self, raw: &Bytes) -> Option<Result<Message>> {
        Some(envelope::decode(raw))
    }

    async fn lost(&self) -> Vec<DeliveryTag> {
        lease::lost(&self.core).await
    }

    async fn set_queues(&self, queues: Vec<Queue>) -> Result<()> {
        let core = &self.core;
        let sources = Sources::new(&core.settings, &queues)?;
        let asking = core.asking.lock().await;
        if !core.is_running() {
            return Ok(());
        }
        // Until the credit is given anew, waiting connections put back what they get.
        core.withdraw().await?;
        *lock(&core.sources) = Arc::new(sources);
        restore::announce(core).await?;
        waiting::arrange(core).await;
        core.sweep_next();
        drop(asking);
        core.arrived.notify_waiters();
        Ok(())
    }

    async fn pause(&self) -> Vec<Delivery> {
        let core = &self.core;
        let _asking = core.asking.lock().await;
        // A credit that could not be withdrawn brings messages that the next pause, or receive, gives.
        let _ = core.withdraw().await;
        core.take_ready(usize::MAX)
    }

    async fn stop(&self) {
        // What could not be put back comes back after its lease.
        let _ = self.stop_core().await;
    }

    async fn close(&self) -> Result<()> {
        let core = &self.core;
        let stopped = self.stop_core().await;
        let closed_before = core.stage.send_replace(Stage::Closed) == Stage::Closed;
        self.end_tasks();
        let held: Vec<u64> = lock(&core.held).keys().copied().collect();
        let back = settle::hand_back(core, held).await;
        stopped?;
        if !closed_before {
            core.empty_private_lists(self.in_order.load(Ordering::SeqCst)).await?;
        }
        back
    }
}

/// One outcome for one delivery, with nothing else to do.
pub(super) fn only(tag: u64, outcome: Outcome) -> Settlement {
    Settlement { tag: DeliveryTag(tag), publish: Vec::new(), store: None, outcome }
}
