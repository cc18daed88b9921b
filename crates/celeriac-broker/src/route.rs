//! Task calls and where they go.

use std::sync::Arc;

use celeriac_error::Result;
use celeriac_protocol::task::{self, TaskOptions, TaskTemplate};

use crate::publisher::RetryPolicy;
use crate::transport::{ExchangeType, Publication, Queue};

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

impl Route {
    /// Builds the message of a call that goes this way.
    ///
    /// # Errors
    /// [`Error::Encode`](celeriac_error::Error::Encode) for texts that are not JSON of the expected kind.
    pub fn publication(
        &self,
        task_id: &str,
        args: &str,
        kwargs: &str,
        options: Option<&str>,
    ) -> Result<Publication> {
        let options = match options {
            Some(text) => TaskOptions::from_json(text)?,
            None => TaskOptions::default(),
        };
        Ok(Publication {
            exchange: Arc::clone(&self.exchange),
            exchange_type: self.exchange_type,
            routing_key: Arc::clone(&self.routing_key),
            message: task::encode(&self.template, task_id, args, kwargs, &options)?,
        })
    }
}
