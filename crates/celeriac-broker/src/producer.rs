//! Task calls on their way out: routes, the messages made from them, and the queues they need.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use celeriac_error::{Error, Result};
use celeriac_protocol::task::{self, TaskOptions, TaskTemplate};

use crate::publisher::{Pending, Publisher, RetryPolicy};
use crate::transport::{ExchangeType, Publication, Queue, Transport};

/// Where the messages of one task go, and what they have in common.
#[derive(Debug)]
pub struct Route {
    /// The part of the message that every call shares.
    pub template: TaskTemplate,
    /// Name of the exchange; empty for the default one.
    pub exchange: Arc<str>,
    /// How that exchange finds its queues.
    pub exchange_type: ExchangeType,
    /// The routing key; the queue's name on the default exchange.
    pub routing_key: Arc<str>,
    /// The queue that must exist before the first message goes.
    pub queue: Option<Arc<Queue>>,
    /// When a failed publish is tried again.
    pub policy: Arc<RetryPolicy>,
}

/// One task call: which route, and the texts that the message is made of.
#[derive(Clone, Copy, Debug)]
pub struct TaskCall<'a> {
    /// What [`Producer::add_route`] returned.
    pub route: u32,
    /// The task's id.
    pub task_id: &'a str,
    /// A JSON array in Python's sense.
    pub args: &'a str,
    /// A JSON object in Python's sense.
    pub kwargs: &'a str,
    /// See [`TaskOptions::from_json`].
    pub options: Option<&'a str>,
}

/// The queues that this process has declared, so that each is declared once.
pub struct Declarations {
    transport: Arc<dyn Transport>,
    declared: Mutex<HashSet<String>>,
}

impl Declarations {
    /// Nothing is declared yet.
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, declared: Mutex::default() }
    }

    /// Declares those of `queues` that were not declared before.
    ///
    /// # Errors
    /// What the transport says.
    pub async fn ensure<'a>(&self, queues: impl Iterator<Item = &'a Queue> + Send) -> Result<()> {
        let missing: Vec<Queue> = {
            let declared = self.declared.lock().unwrap_or_else(PoisonError::into_inner);
            let mut missing: Vec<Queue> = Vec::new();
            for queue in queues {
                if !declared.contains(&queue.name) && missing.iter().all(|known| known.name != queue.name) {
                    missing.push(queue.clone());
                }
            }
            missing
        };
        if missing.is_empty() {
            return Ok(());
        }
        self.transport.declare(&missing).await?;
        let mut declared = self.declared.lock().unwrap_or_else(PoisonError::into_inner);
        declared.extend(missing.into_iter().map(|queue| queue.name));
        Ok(())
    }
}

/// Makes messages from task calls and hands them to the [`Publisher`].
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

    /// Builds the message of a call, for a caller that publishes it itself.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an unknown route, [`Error::Encode`] for texts that are not JSON.
    pub fn message(&self, call: &TaskCall<'_>) -> Result<(Arc<Route>, Publication)> {
        let route = {
            let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
            routes.get(call.route as usize).cloned()
        };
        let Some(route) = route else {
            return Err(Error::InvalidArgument {
                what: "route".to_owned(),
                reason: format!("{} was not registered on this connection", call.route),
            });
        };
        let options = match call.options {
            Some(text) => TaskOptions::from_json(text)?,
            None => TaskOptions::default(),
        };
        let message = task::encode(&route.template, call.task_id, call.args, call.kwargs, &options)?;
        let publication = Publication {
            exchange: Arc::clone(&route.exchange),
            exchange_type: route.exchange_type,
            routing_key: Arc::clone(&route.routing_key),
            message,
        };
        Ok((route, publication))
    }

    /// Builds the message of a call and appends it to the publisher's buffer; the outcome comes with a report under
    /// `number`.
    ///
    /// # Errors
    /// As [`message`](Self::message), and [`Error::Closed`] after [`close`](Self::close).
    pub fn publish(&self, number: u32, call: &TaskCall<'_>) -> Result<()> {
        let (route, publication) = self.message(call)?;
        self.publisher.publish(Pending {
            call: number,
            publication,
            queue: route.queue.clone(),
            policy: Arc::clone(&route.policy),
        })
    }

    /// Appends any message, such as a command of remote control.
    ///
    /// # Errors
    /// [`Error::Closed`] after [`close`](Self::close).
    pub fn publish_message(&self, pending: Pending) -> Result<()> {
        self.publisher.publish(pending)
    }

    /// Takes nothing more, and resolves once everything that was taken is settled one way or the other.
    pub async fn close(&self) {
        self.publisher.close().await;
    }
}
