//! Consuming: one channel for each consumer, one `basic.consume` for each queue, acknowledged by hand. What the broker has
//! pushed waits in a buffer until it is asked for.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use celeriac_error::{Error, Result};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::begin;
use super::certain::keep;
use super::consume::Need;
use super::core::{Core, Source, State};
use super::dead::DeadList;
use super::link::{ANSWER_TIMEOUT, lock};
use super::publish::Lane;
use super::settle;
use super::topology::Topology;
use crate::fault_point;
use crate::sync::listen;
use crate::transport::{ConsumeOptions, Consumer, Delivery, DeliveryTag, Queue, Settled, Settlement};

/// The prefetch of each queue where the consumer has no limit.
const UNLIMITED: u32 = 1024;

/// A consumer of `RabbitMQ`.
pub(super) struct AmqpConsumer {
    core: Arc<Core>,
    keeper: JoinHandle<()>,
}

impl AmqpConsumer {
    pub(super) async fn start(
        url: &str,
        topology: Arc<Topology>,
        lane: Lane,
        dead: Arc<DeadList>,
        options: ConsumeOptions,
    ) -> Result<Self> {
        let core = Arc::new(Core {
            url: url.to_owned(),
            topology,
            lane,
            dead,
            prefetch: if options.prefetch == 0 {
                UNLIMITED
            } else {
                options.prefetch.min(u32::from(u16::MAX))
            },
            state: Mutex::new(State { queues: options.queues, ..State::default() }),
            arrived: Notify::new(),
            told: Notify::new(),
            opening: tokio::sync::Mutex::default(),
            beginning: tokio::sync::Mutex::default(),
            settling: tokio::sync::Mutex::default(),
            forgetting: tokio::sync::Mutex::default(),
        });
        core.open().await?;
        let keeper = tokio::spawn(keep(Arc::downgrade(&core)));
        Ok(Self { core, keeper })
    }
}

impl Drop for AmqpConsumer {
    fn drop(&mut self) {
        self.keeper.abort();
        let mut state = lock(&self.core.state);
        state.stopped = true;
        // The channel closes with it, and the broker puts back what was held.
        state.session = None;
    }
}

#[async_trait]
impl Consumer for AmqpConsumer {
    async fn receive(&self, max: usize) -> Result<Vec<Delivery>> {
        let core = &self.core;
        loop {
            let arrived = listen(&core.arrived);
            let need = match core.take(max) {
                None => return Ok(Vec::new()),
                Some(Ok((deliveries, is_overdue))) => {
                    if is_overdue {
                        // Beside other queues that always have something.
                        tokio::spawn(grow(Arc::clone(core)));
                    }
                    fault_point!("amqp.receive.after");
                    return Ok(deliveries);
                }
                Some(Err(need)) => need,
            };
            if let Some(error) = lock(&core.state).failure.take() {
                return Err(error);
            }
            match need {
                Need::Nothing => arrived.await,
                // Finished even when this receive is dropped meanwhile.
                Need::Open => run(core, |core| async move { core.open().await }).await?,
                Need::Shrink => run(core, |core| async move { core.resize().await }).await?,
                Need::Grow(left) => {
                    if left.is_zero() || tokio::time::timeout(left, arrived).await.is_err() {
                        run(core, |core| async move { core.resize().await }).await?;
                    }
                }
            }
        }
    }

    async fn settle(&self, batch: &[Settlement]) -> Vec<Result<Settled>> {
        settle::settle(&self.core, batch).await
    }

    async fn still_held(&self, tags: &[DeliveryTag]) -> Result<Vec<bool>> {
        self.core.make_certain().await;
        let state = lock(&self.core.state);
        Ok(tags.iter().map(|tag| state.held.contains_key(&tag.0)).collect())
    }

    async fn begin(&self, batch: &[(DeliveryTag, &str)]) -> Result<Vec<Option<u32>>> {
        begin::begin(&self.core, batch).await
    }

    fn leases_stand(&self) -> bool {
        self.core.stands()
    }

    async fn lost(&self) -> Vec<DeliveryTag> {
        loop {
            let told = listen(&self.core.told);
            {
                let mut state = lock(&self.core.state);
                if std::mem::take(&mut state.looked) || !state.lost.is_empty() {
                    return std::mem::take(&mut state.lost);
                }
            }
            told.await;
        }
    }

    async fn set_queues(&self, queues: Vec<Queue>) -> Result<()> {
        lock(&self.core.state).queues = queues;
        run(&self.core, |core| async move {
            let (others, session) = {
                let _opening = core.opening.lock().await;
                let mut state = lock(&core.state);
                let State { queues, session, .. } = &mut *state;
                let Some(session) = session.as_mut() else { return Ok(()) };
                let gone: Vec<String> = session
                    .sources
                    .keys()
                    .filter(|name| queues.iter().all(|queue| queue.name != **name))
                    .cloned()
                    .collect();
                let others: Vec<Source> =
                    gone.iter().filter_map(|name| session.sources.remove(name)).collect();
                (others, (Arc::clone(&session.live), Arc::clone(&session.channel)))
            };
            for source in others {
                core.cancel(&session.0, &session.1, source).await?;
            }
            let unwanted: Vec<Delivery> = {
                let mut state = lock(&core.state);
                let State { queues, buffer, .. } = &mut *state;
                let (wanted, unwanted) = buffer
                    .drain(..)
                    .partition(|delivery| queues.iter().any(|queue| queue.name == *delivery.queue));
                *buffer = wanted;
                Vec::from(unwanted)
            };
            core.put_back(unwanted).await;
            if !lock(&core.state).stopped {
                core.open().await?;
            }
            core.ask().await
        })
        .await
    }

    async fn pause(&self) -> Vec<Delivery> {
        // Finished even when nobody waits for it, so that no queue is consumed twice afterwards.
        let ceased = run(&self.core, |core| async move {
            core.cease().await;
            Ok(())
        });
        if let Err(error) = ceased.await {
            log::warn!("{error}");
        }
        self.core.unseen()
    }

    async fn stop(&self) {
        lock(&self.core.state).stopped = true;
        self.core.arrived.notify_waiters();
        let core = Arc::clone(&self.core);
        let stopping = tokio::spawn(async move {
            core.cease().await;
            let unseen = core.unseen();
            if !unseen.is_empty() {
                core.put_back(unseen).await;
                // Once this is answered the queues have them again.
                let _ = core.ask().await;
            }
        });
        let _ = stopping.await;
    }

    async fn close(&self) -> Result<()> {
        self.stop().await;
        let _opening = self.core.opening.lock().await;
        let session = {
            let mut state = lock(&self.core.state);
            state.held.clear();
            state.buffer.clear();
            state.session.take()
        };
        begin::all_forgotten(&self.core).await;
        let Some(session) = session else { return Ok(()) };
        if session.live.is_up() {
            // The broker answers once everything is back in its queue. Where it does not, that is back all the same.
            let closing = session.channel.close(200, "OK".into());
            let _ = tokio::time::timeout(ANSWER_TIMEOUT, closing).await;
        }
        Ok(())
    }
}

/// Consumes anew whose prefetch is used up, unless that is under way.
async fn grow(core: Arc<Core>) {
    let is_under_way = core.opening.try_lock().is_err();
    if !is_under_way && let Err(error) = core.resize().await {
        log::debug!("{error}");
    }
}

/// Runs to its end, whoever waits for it.
async fn run<F: Future<Output = Result<()>> + Send + 'static>(
    core: &Arc<Core>,
    what: impl FnOnce(Arc<Core>) -> F,
) -> Result<()> {
    let running = tokio::spawn(what(Arc::clone(core)));
    running.await.unwrap_or_else(|error| Err(Error::Internal(format!("the consumer: {error}"))))
}
