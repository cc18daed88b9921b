//! Task calls and where they go.

use std::sync::Arc;

use celeriac_error::Result;
use celeriac_protocol::task::{self, TaskOptions, TaskTemplate};

use crate::delay;
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
        let message = task::encode(&self.template, task_id, args, kwargs, &options)?;
        Ok(match options.delay.filter(|seconds| *seconds > 0) {
            None => Publication {
                exchange: Arc::clone(&self.exchange),
                exchange_type: self.exchange_type,
                routing_key: Arc::clone(&self.routing_key),
                message,
            },
            Some(seconds) => Publication {
                exchange: delay::entrance(),
                exchange_type: ExchangeType::Topic,
                routing_key: delay::routing_key(seconds, &self.routing_key).into(),
                message,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_to_be_held_goes_to_the_queues_of_delayed_delivery() {
        let route = Route {
            template: TaskTemplate {
                task: "t".into(),
                origin: "gen1@host".into(),
                lang: "js".into(),
                reply_to: None,
                ignore_result: None,
                time_limit: (None, None),
                delivery_mode: 2,
                priority: 0,
                repr_max_levels: None,
            },
            exchange: "x".into(),
            exchange_type: ExchangeType::Fanout,
            routing_key: "k".into(),
            queue: None,
            policy: Arc::new(RetryPolicy {
                retry: false,
                max_retries: None,
                interval_start: Duration::ZERO,
                interval_step: Duration::ZERO,
                interval_max: Duration::ZERO,
            }),
        };
        let place = |options| {
            let sent = route.publication("id", "[]", "{}", Some(options)).unwrap();
            (sent.exchange.to_string(), sent.exchange_type, sent.routing_key.to_string())
        };
        let delayed = (delay::entrance().to_string(), ExchangeType::Topic, delay::routing_key(5, "k"));
        assert_eq!(place(r#"{"delay": 5}"#), delayed);
        let usual = ("x".to_owned(), ExchangeType::Fanout, "k".to_owned());
        assert_eq!(place(r#"{"delay": 0}"#), usual);
        assert_eq!(place("{}"), usual);
    }
}
