//! A worker from its first connection to its last acknowledgement.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use celeriac_broker::declare::Declarations;
use celeriac_broker::producer::Producer;
use celeriac_broker::{ConsumeOptions, Consumer, DeliveryTag, Outcome, Transport};
use celeriac_error::{Error, Result};
use celeriac_result::ResultStore;
use tokio::sync::{OnceCell, mpsc};

use crate::logger;
use crate::options::WorkerOptions;
use crate::slots::Slots;
use crate::state::Shared;
use crate::{
    begin, connect, consume, control, dead_watch, deliver, intake, lost, outcome_reader, settle, stats,
    watchdog,
};

/// How long closing waits for what JavaScript has finished to be settled. What is not settled by then is handed back.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Consumes queues for one JavaScript environment. Cheap to share.
#[derive(Clone)]
pub struct Worker {
    shared: Arc<Shared>,
    started: Arc<AtomicBool>,
    closing: Arc<OnceCell<Result<()>>>,
}

impl Worker {
    /// A worker that does nothing yet. `producer` builds what settlements publish.
    pub fn new(
        options: WorkerOptions,
        transport: Arc<dyn Transport>,
        store: Option<Arc<dyn ResultStore>>,
        producer: Arc<Producer>,
        declarations: Arc<Declarations>,
    ) -> Self {
        let shared = Arc::new(Shared::new(options, transport, store, producer, declarations));
        Self { shared, started: Arc::default(), closing: Arc::default() }
    }

    /// Connects, declares the queues, and begins to claim.
    ///
    /// # Errors
    /// [`Error::AuthenticationFailed`] and the like at once; what is transient after the retries that the settings allow; [`Error::Closed`] when it was stopped meanwhile.
    pub async fn start(&self) -> Result<()> {
        let shared = &self.shared;
        connect::connect(shared).await?;
        // A server that can be reached may not be ready: it is a replica, or its disk is full.
        let consumer = connect::ensure(shared, || start_consuming(shared)).await?;
        if shared.consumer.set(Arc::clone(&consumer)).is_err() {
            return Err(Error::InvalidArgument {
                what: "worker".to_owned(),
                reason: "it was started before; make a new one".to_owned(),
            });
        }
        self.started.store(true, Ordering::Release);
        // A revoke that was sent after the worker said that it is ready must be heard.
        let (ready, listening) = tokio::sync::oneshot::channel();
        tokio::spawn(control::run(Arc::clone(shared), ready));
        let _ = listening.await;
        if shared.is_stopping() {
            let _ = consumer.close().await;
            settle::finish(shared);
            shared.stopped.notify_waiters();
            return Err(Error::Closed("worker"));
        }
        watchdog::beat(shared);
        self.watch("reading outcomes", outcome_reader::run(Arc::clone(shared)));
        for _ in 0..settle::AT_ONCE {
            self.watch("settling", settle::run(Arc::clone(shared), Arc::clone(&consumer)));
        }
        let (arrive, arrivals) = mpsc::channel(1);
        self.watch("reading messages", consume::read(Arc::clone(shared), arrivals));
        self.watch("claiming", consume::run(Arc::clone(shared), Arc::clone(&consumer), arrive));
        self.watch("the schedule", intake::run_schedule(Arc::clone(shared)));
        self.watch("forgetting what was lost", lost::run(Arc::clone(shared), Arc::clone(&consumer)));
        self.watch("watching the event loop", watchdog::run(Arc::clone(shared), consumer));
        tokio::spawn(dead_watch::run(Arc::clone(shared)));
        Ok(())
    }

    /// Runs what no worker goes on without: where it panics, the worker ends as by [`close`](Self::close), and whoever waits for it
    /// is told.
    fn watch(&self, part: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let (worker, work) = (self.clone(), tokio::spawn(work));
        tokio::spawn(async move {
            let Err(error) = work.await else { return };
            if !error.is_panic() {
                // The runtime ends.
                return;
            }
            log::error!(
                target: logger::WORKER,
                "The worker ends, because {part} failed: {error}. What it holds goes back to its queues, and is run again.",
            );
            // Why handing back failed is of no use without the worker; the leases bring it back.
            let _ = worker.close().await;
        });
    }

    /// Resolves when [`collect`](Self::collect) has something to give; `false` once stopped and everything that
    /// JavaScript had is settled.
    pub async fn wait(&self) -> bool {
        deliver::wait(&self.shared).await
    }

    /// A sign of life of JavaScript's event loop, to be given about once a second: a worker that gets none for ten seconds
    /// hands back what has not begun and claims nothing more until the next one.
    pub fn beat(&self) {
        watchdog::beat(&self.shared);
    }

    /// What JavaScript looks at right before the body of each delivery, once it has set the first word to 1. The word of a
    /// slot is twice the delivery's tag, as a whole number of 32 bits, until the body begins: it may when that could be changed
    /// to one more in one step, and [`lease_left`](Self::lease_left) is not over.
    pub fn slots(&self) -> Arc<Slots> {
        Arc::clone(&self.shared.state().slots)
    }

    /// How long from now bodies may begin without asking [`begin`](Self::begin).
    pub fn lease_left(&self) -> Duration {
        self.shared.consumer.get().map(|consumer| consumer.lease_left()).unwrap_or_default()
    }

    /// Takes what JavaScript can run now: deliveries and notices, as lines. To be called on JavaScript's thread.
    pub fn collect(&self) -> String {
        deliver::collect(&self.shared)
    }

    /// To be called on JavaScript's thread right before the body of a delivery begins: false when it must not, because it went
    /// back to its queue meanwhile, or may have.
    pub fn begin(&self, tag: u64) -> bool {
        begin::begin(&self.shared, DeliveryTag(tag))
    }

    /// Counts a delivery whose flags say that it was handed out before, and gives how often the body of this message has begun,
    /// this time included; 0 when it is no longer ours. [`begin_counted`](Self::begin_counted) follows on JavaScript's thread.
    pub async fn count(&self, tag: u64) -> u32 {
        begin::count(&self.shared, DeliveryTag(tag)).await
    }

    /// [`begin`](Self::begin) for a delivery that was counted; the next one of its kind may be given out then.
    pub fn begin_counted(&self, tag: u64, count: u32) -> bool {
        begin::begin_counted(&self.shared, DeliveryTag(tag), count)
    }

    /// Appends outcomes; they are read and carried out elsewhere.
    pub fn settle(&self, batch: String) {
        self.shared.settle_queue.push_text(batch);
    }

    /// Marks ids as revoked, here only.
    pub fn revoke(&self, ids: Vec<String>) {
        control::revoke(&self.shared, ids, false, "SIGTERM");
    }

    /// Warm: claims nothing more, and hands back at once what JavaScript has not taken.
    pub async fn stop(&self) {
        let shared = &self.shared;
        if shared.stopping.swap(true, Ordering::AcqRel) {
            return;
        }
        shared.stopped.notify_waiters();
        shared.capacity.notify_one();
        shared.rescheduled.notify_one();
        if let Some(consumer) = shared.consumer.get() {
            consumer.stop().await;
        }
        settle::hand_back_unbegun(shared);
        shared.deliverable.notify_one();
    }

    /// Stops, settles what was given to [`settle`](Self::settle), and hands back everything that is still held, also
    /// what JavaScript runs: somebody else will run it again.
    ///
    /// # Errors
    /// What the transport says about handing back; the leases bring back what it could not.
    pub async fn close(&self) -> Result<()> {
        self.closing.get_or_init(|| self.end()).await.clone()
    }

    async fn end(&self) -> Result<()> {
        let shared = &self.shared;
        self.stop().await;
        let mut outcome = Ok(());
        if self.started.load(Ordering::Acquire) {
            let settled = async {
                // What JavaScript has finished is settled before the rest is taken from it.
                shared.settle_queue.drained().await;
                // What runs has begun: whoever gets it next must be able to see that.
                watchdog::take_running(shared, &Outcome::Requeue { redelivered: true }, |_| true);
                shared.settle_queue.drained().await;
            };
            let _ = tokio::time::timeout(CLOSE_PATIENCE, settled).await;
            if let Some(consumer) = shared.consumer.get() {
                outcome = match tokio::time::timeout(CLOSE_PATIENCE, consumer.close()).await {
                    Ok(outcome) => outcome,
                    Err(_) => Err(Error::BrokerUnavailable {
                        url: shared.transport.url().to_owned(),
                        reason: "it did not take back what was held; the leases bring it back".to_owned(),
                    }),
                };
            }
        }
        settle::finish(shared);
        shared.stopped.notify_waiters();
        outcome
    }

    /// Numbers about this worker: one JSON object.
    pub fn stats(&self) -> String {
        stats::render(&self.shared)
    }
}

/// Declares the queues, and begins to consume them. Where delayed delivery cannot be declared, without it, as Celery's workers do
/// (`celery.worker.consumer.delayed_delivery`): what is not delayed is to run all the same.
async fn start_consuming(shared: &Shared) -> Result<Arc<dyn Consumer>> {
    let mut queues = shared.options.queues.clone();
    match shared.declarations.ensure(queues.iter()).await {
        Err(error) if !error.is_transient() && queues.iter().any(|queue| queue.delays.is_some()) => {
            for queue in &mut queues {
                queue.delays = None;
            }
            shared.declarations.ensure(queues.iter()).await?;
            log::error!(
                target: logger::CONSUMER,
                "Delayed delivery could not be set up: {error}. What the broker holds until its time does not come to this worker \
                 unless another one has set it up.",
            );
        }
        outcome => outcome?,
    }
    shared
        .transport
        .consume(ConsumeOptions {
            queues,
            prefetch: shared.options.prefetch as u32,
            node: shared.options.hostname.clone(),
            lease: shared.options.lease,
        })
        .await
}
