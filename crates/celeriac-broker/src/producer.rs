//! Task calls on their way out: the routes that are known, and the buffer that calls go into.

use std::sync::{Arc, PoisonError, RwLock};

use celeriac_error::{Error, Result};

use crate::calls::Call;
use crate::publisher::{Payload, Pending, Publisher, RetryPolicy};
use crate::route::{Route, TaskCall};
use crate::transport::{Publication, Watch};

/// Knows routes by number, and hands task calls to the [`Publisher`].
pub struct Producer {
    publisher: Publisher,
    routes: RwLock<Vec<Arc<Route>>>,
}

impl Producer {
    /// A producer without routes.
    pub fn new(publisher: Publisher) -> Self {
        Self { publisher, routes: RwLock::default() }
    }

    /// Registers a route; the number stands for it from now on.
    pub fn add_route(&self, route: Route) -> u32 {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        routes.push(Arc::new(route));
        (routes.len() - 1) as u32
    }

    fn route(&self, number: u32) -> Result<Arc<Route>> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        routes.get(number as usize).cloned().ok_or_else(|| Error::InvalidArgument {
            what: "route".to_owned(),
            reason: format!("{number} was not registered on this connection"),
        })
    }

    /// Builds the message of a call, for a caller that publishes it itself.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an unknown route, [`Error::Encode`] for texts that are not JSON.
    pub fn message(&self, call: &TaskCall<'_>) -> Result<(Arc<Route>, Publication)> {
        let route = self.route(call.route)?;
        let publication = route.publication(call.task_id, call.args, call.kwargs, call.options)?;
        Ok((route, publication))
    }

    /// Hands calls to the publisher: all, or after an error none. Their outcomes come with reports under `first` and the numbers
    /// after it. Messages are built by the publisher.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a text that is not of [`Call`]'s form or has an unknown route, and [`Error::Closed`]
    /// after [`close`](Self::close).
    pub fn publish(&self, first: u32, calls: String) -> Result<()> {
        let numbers = std::iter::successors(Some(first), |number| Some(number.wrapping_add(1)));
        let mut pending = Vec::new();
        for (number, call) in numbers.zip(Call::read_all(calls)?) {
            let route = self.route(call.route)?;
            pending.push(Pending {
                call: number,
                policy: Arc::clone(&route.policy),
                queue: route.queue.clone(),
                payload: Payload::Call { route, call },
            });
        }
        self.publisher.publish_all(pending)
    }

    /// [`Publisher::watch`].
    pub fn watch(&self) -> Option<Watch> {
        self.publisher.watch()
    }

    /// [`Publisher::unwatch`].
    pub fn unwatch(&self) {
        self.publisher.unwatch();
    }

    /// [`Publisher::answer`].
    pub fn answer(&self, connection: u32, bytes: &[u8]) -> Option<u32> {
        self.publisher.answer(connection, bytes)
    }

    /// [`Publisher::read_answer`].
    pub fn read_answer(&self) -> Option<u32> {
        self.publisher.read_answer()
    }

    /// Appends any message, such as a command of remote control.
    ///
    /// # Errors
    /// [`Error::Closed`] after [`close`](Self::close).
    pub fn publish_message(
        &self,
        number: u32,
        publication: Publication,
        policy: Arc<RetryPolicy>,
    ) -> Result<()> {
        self.publisher.publish(Pending {
            call: number,
            policy,
            queue: None,
            payload: Payload::Message(Box::new(publication)),
        })
    }

    /// Takes nothing more, and resolves once everything that was taken is settled one way or the other.
    pub async fn close(&self) {
        self.publisher.close().await;
    }
}
