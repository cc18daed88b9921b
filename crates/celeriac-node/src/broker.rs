//! The broker as JavaScript sees it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use celeriac_broker::declare::Declarations;
use celeriac_broker::producer::Producer;
use celeriac_broker::publisher::{Publisher, RetryPolicy};
use celeriac_broker::route::Route;
use celeriac_broker::{
    DeadLetter, DelayQueues, Exchange, ExchangeType, Publication, Queue, Transport, TransportOptions,
};
use celeriac_error::{Error, Result};
use celeriac_protocol::task::TaskTemplate;
use celeriac_protocol::{Message, Properties};
use napi::bindgen_prelude::{Buffer, Env, Function, PromiseRaw};
use napi_derive::napi;

use crate::error::{promise, to_js};
use crate::report::{Report, Reporter};
use crate::runtime;

/// An exchange; the default one has an empty name.
#[napi(object)]
pub struct NativeExchange {
    pub name: String,
    /// direct, topic, fanout or headers
    pub kind: String,
    pub durable: bool,
    pub auto_delete: bool,
}

/// A queue with its one binding.
#[napi(object)]
pub struct NativeQueue {
    pub name: String,
    pub exchange: NativeExchange,
    pub routing_key: String,
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    /// JSON object text, or empty
    pub arguments: String,
    /// classic or quorum: the broker's own delayed delivery is declared with it, and leads to it
    pub delays: Option<String>,
}

/// How a broker is opened.
#[napi(object, use_nullable = true)]
pub struct NativeBrokerOptions {
    pub url: String,
    /// JSON object text: `broker_transport_options`
    pub transport_options: String,
    pub connect_timeout_ms: f64,
    /// After this a publish fails with `ERR_CELERIAC_PUBLISH_TIMEOUT`, retries included.
    pub publish_timeout_ms: f64,
    /// `gen<pid>@<host>`
    pub origin: String,
    /// property `reply_to` of every task message
    pub reply_to: String,
}

/// Where the messages of one task go, and what they have in common.
#[napi(object, use_nullable = true)]
pub struct NativeRoute {
    pub task: String,
    /// '' is the default exchange
    pub exchange: String,
    pub exchange_type: String,
    pub routing_key: String,
    /// The queue to declare before the first publish; null declares nothing.
    pub queue: Option<NativeQueue>,
    /// null is null on the wire
    pub ignore_result: Option<bool>,
    /// seconds
    pub time_limit: Option<f64>,
    /// seconds
    pub soft_time_limit: Option<f64>,
    pub delivery_mode: u32,
    pub priority: u32,
    pub repr_max_levels: Option<u32>,
    /// `task_publish_retry` and `task_publish_retry_policy`
    pub retry: bool,
    /// null is until the publish timeout
    pub max_retries: Option<u32>,
    pub interval_start_ms: f64,
    pub interval_step_ms: f64,
    pub interval_max_ms: f64,
}

/// What is known of a message in the dead list.
#[napi(object)]
pub struct NativeDeadLetter {
    pub id: String,
    /// Empty when it is not known.
    pub queue: String,
    pub reason: String,
    pub detail: String,
    /// Where the message says one.
    pub task: Option<String>,
    pub task_id: Option<String>,
    pub at_ms: f64,
    /// In bytes.
    pub size: f64,
    /// The original bytes; only when one message is asked for.
    pub raw: Option<Buffer>,
}

impl NativeDeadLetter {
    fn new(letter: DeadLetter, raw: Option<&[u8]>) -> Self {
        Self {
            id: letter.id,
            queue: letter.queue,
            reason: letter.reason,
            detail: letter.detail,
            task: letter.task,
            task_id: letter.task_id,
            at_ms: letter.at_ms as f64,
            size: letter.size as f64,
            raw: raw.map(|raw| raw.to_vec().into()),
        }
    }
}

/// What a transport can do.
#[napi(object)]
pub struct NativeFeatures {
    pub priority: bool,
    /// Broadcasts between processes, so remote control.
    pub fanout: bool,
    /// Python Celery can be on the other side.
    pub interoperable: bool,
}

/// A broker connection: producing, declaring, purging. Workers are made on it.
#[napi]
pub struct NativeBroker {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) producer: Arc<Producer>,
    pub(crate) declarations: Arc<Declarations>,
    origin: Arc<str>,
    reply_to: Arc<str>,
}

/// Milliseconds from JavaScript.
pub(crate) fn duration(milliseconds: f64) -> Duration {
    Duration::try_from_secs_f64(milliseconds / 1000.0).unwrap_or(Duration::MAX)
}

/// A JSON object from JavaScript.
pub(crate) fn object(what: &str, text: &str) -> Result<serde_json::Map<String, serde_json::Value>> {
    serde_json::from_str(text)
        .map_err(|error| Error::InvalidArgument { what: what.to_owned(), reason: error.to_string() })
}

fn exchange_type(kind: &str) -> Result<ExchangeType> {
    match kind {
        "" | "direct" => Ok(ExchangeType::Direct),
        "topic" => Ok(ExchangeType::Topic),
        "fanout" => Ok(ExchangeType::Fanout),
        "headers" => Ok(ExchangeType::Headers),
        other => Err(Error::InvalidArgument {
            what: "exchange type".to_owned(),
            reason: format!("`{other}` is none of direct, topic, fanout, headers"),
        }),
    }
}

fn delay_queues(kind: &str) -> Result<DelayQueues> {
    match kind {
        "classic" => Ok(DelayQueues::Classic),
        "quorum" => Ok(DelayQueues::Quorum),
        other => Err(Error::InvalidArgument {
            what: "type of the delayed delivery's queues".to_owned(),
            reason: format!("`{other}` is none of classic, quorum"),
        }),
    }
}

pub(crate) fn queue(native: NativeQueue) -> Result<Queue> {
    Ok(Queue {
        name: native.name,
        exchange: Exchange {
            name: native.exchange.name,
            kind: exchange_type(&native.exchange.kind)?,
            durable: native.exchange.durable,
            auto_delete: native.exchange.auto_delete,
        },
        routing_key: native.routing_key,
        durable: native.durable,
        exclusive: native.exclusive,
        auto_delete: native.auto_delete,
        arguments: native.arguments,
        delays: native.delays.as_deref().map(delay_queues).transpose()?,
    })
}

fn byte(what: &str, value: u32) -> Result<u8> {
    u8::try_from(value).map_err(|_| Error::InvalidArgument {
        what: what.to_owned(),
        reason: format!("{value} is not between 0 and 255"),
    })
}

impl NativeBroker {
    fn open_core(options: NativeBrokerOptions, reporter: Reporter) -> Result<Self> {
        let transport = celeriac_broker::open(
            &options.url,
            TransportOptions {
                options: object("broker_transport_options", &options.transport_options)?,
                connect_timeout: duration(options.connect_timeout_ms),
            },
        )?;
        let declarations = Arc::new(Declarations::new(Arc::clone(&transport)));
        let handle = runtime::sending().map_err(|error| Error::Internal(error.to_string()))?;
        let publisher = Publisher::start(
            &handle,
            Arc::clone(&transport),
            Arc::clone(&declarations),
            duration(options.publish_timeout_ms),
            move |report| reporter.finished(report.done, report.failed),
        );
        Ok(Self {
            transport,
            producer: Arc::new(Producer::new(publisher)),
            declarations,
            origin: options.origin.into(),
            reply_to: options.reply_to.into(),
        })
    }

    fn route_core(&self, native: NativeRoute) -> Result<u32> {
        let queue = native.queue.map(queue).transpose()?.map(Arc::new);
        Ok(self.producer.add_route(Route {
            template: TaskTemplate {
                task: native.task.into(),
                origin: Arc::clone(&self.origin),
                lang: "js".into(),
                reply_to: Some(Arc::clone(&self.reply_to)),
                ignore_result: native.ignore_result,
                time_limit: (native.time_limit, native.soft_time_limit),
                delivery_mode: byte("delivery_mode", native.delivery_mode)?,
                priority: byte("priority", native.priority)?,
                repr_max_levels: native.repr_max_levels.map(|levels| levels as usize),
            },
            exchange: native.exchange.into(),
            exchange_type: exchange_type(&native.exchange_type)?,
            routing_key: native.routing_key.into(),
            queue,
            policy: Arc::new(RetryPolicy {
                retry: native.retry,
                max_retries: native.max_retries,
                interval_start: duration(native.interval_start_ms),
                interval_step: duration(native.interval_step_ms),
                interval_max: duration(native.interval_max_ms),
            }),
        }))
    }
}

#[napi]
impl NativeBroker {
    /// Nothing is connected yet. `report` is called for every flush of publishes, and never keeps the process alive.
    #[napi(
        factory,
        catch_unwind,
        ts_args_type = "options: NativeBrokerOptions, report: (runs: number[], documents: string[] | null, failures: NativeFailure[] | null) => void"
    )]
    pub fn open(
        env: &Env,
        options: NativeBrokerOptions,
        report: Function<'_, Report, ()>,
    ) -> napi::Result<Self> {
        let reporter = Reporter::new(&report)?;
        Self::open_core(options, reporter).map_err(|error| to_js(env, &error))
    }

    /// Resolves when the broker has answered.
    #[napi(catch_unwind)]
    pub fn connect<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        let transport = Arc::clone(&self.transport);
        promise(env, async move { transport.connect().await })
    }

    /// Declares queues with their exchanges and bindings.
    #[napi(catch_unwind)]
    pub fn declare<'env>(
        &self,
        env: &'env Env,
        queues: Vec<NativeQueue>,
    ) -> napi::Result<PromiseRaw<'env, ()>> {
        let declarations = Arc::clone(&self.declarations);
        promise(env, async move {
            let queues = queues.into_iter().map(queue).collect::<Result<Vec<_>>>()?;
            declarations.ensure(queues.iter()).await
        })
    }

    /// Registers a route; the number stands for it in `publish` and in settlements.
    #[napi(catch_unwind)]
    pub fn route(&self, env: &Env, route: NativeRoute) -> napi::Result<u32> {
        self.route_core(route).map_err(|error| to_js(env, &error))
    }

    /// Publishes task messages. `calls` is five lines for each: the number of its route, the task's id (as JSON where it
    /// begins with a quotation mark or has a line feed), its arguments as JSON in Python's sense, its keyword arguments or
    /// nothing, a JSON object with the fields of `TaskOptions` or nothing. They come back in reports as `first` and the numbers
    /// after it.
    #[napi(catch_unwind)]
    pub fn publish(&self, env: &Env, first: u32, calls: String) -> napi::Result<()> {
        self.producer.publish(first, calls).map_err(|error| to_js(env, &error))
    }

    /// A socket for JavaScript's event loop, when there is one that nobody watches yet: its descriptor, which belongs to the
    /// caller, and a number for `answer`. On it come the answers to calls that are made one at a time.
    #[napi(catch_unwind)]
    pub fn watch(&self) -> Option<Vec<i32>> {
        let watch = self.producer.watch()?;
        Some(vec![watch.descriptor, watch.connection as i32])
    }

    /// The socket of `watch` cannot be read: there will be none again, and the core reads the answers.
    #[napi(catch_unwind)]
    pub fn unwatch(&self) {
        self.producer.unwatch();
    }

    /// Takes what was read from the socket of `watch`, nothing when it has ended. Gives the call that is done, or -1.
    #[napi(catch_unwind)]
    pub fn answer(&self, connection: u32, bytes: String) -> f64 {
        self.producer.answer(connection, bytes.as_bytes()).map_or(-1.0, f64::from)
    }

    /// Reads the socket of `watch` without waiting, for a thread that stays awake. Gives the call that is done, or -1.
    #[napi(catch_unwind)]
    pub fn read_answer(&self) -> f64 {
        self.producer.read_answer().map_or(-1.0, f64::from)
    }

    /// Publishes any message: a command of remote control. `body`, `headers` and `properties` are JSON texts.
    #[napi(catch_unwind)]
    #[allow(clippy::too_many_arguments, reason = "flat values cross faster than an object")]
    pub fn publish_message(
        &self,
        env: &Env,
        call: u32,
        exchange: String,
        exchange_type_name: String,
        routing_key: String,
        body: String,
        headers: String,
        properties: String,
    ) -> napi::Result<()> {
        let publication = || {
            Ok(Publication {
                exchange: exchange.into(),
                exchange_type: exchange_type(&exchange_type_name)?,
                routing_key: routing_key.into(),
                message: Message {
                    body: Bytes::from(body),
                    content_type: "application/json".to_owned(),
                    content_encoding: "utf-8".to_owned(),
                    headers,
                    properties: Properties {
                        delivery_mode: Some(2),
                        priority: Some(0),
                        other: inside(&properties)?,
                        ..Properties::default()
                    },
                },
            })
        };
        let policy = Arc::new(RetryPolicy {
            retry: true,
            max_retries: None,
            interval_start: Duration::ZERO,
            interval_step: Duration::from_millis(200),
            interval_max: Duration::from_millis(200),
        });
        publication()
            .and_then(|publication| self.producer.publish_message(call, publication, policy))
            .map_err(|error: Error| to_js(env, &error))
    }

    /// How many messages wait in a queue.
    #[napi(catch_unwind)]
    pub fn queue_length<'env>(&self, env: &'env Env, queue: String) -> napi::Result<PromiseRaw<'env, f64>> {
        let transport = Arc::clone(&self.transport);
        promise(env, async move { transport.queue_length(&queue).await.map(|length| length as f64) })
    }

    /// Removes what waits in a queue; says how many messages that were.
    #[napi(catch_unwind)]
    pub fn purge<'env>(&self, env: &'env Env, queue: String) -> napi::Result<PromiseRaw<'env, f64>> {
        let transport = Arc::clone(&self.transport);
        promise(env, async move { transport.purge(&queue).await.map(|count| count as f64) })
    }

    /// The dead list, oldest first.
    #[napi(catch_unwind)]
    pub fn dead_letters<'env>(
        &self,
        env: &'env Env,
        offset: u32,
        limit: u32,
    ) -> napi::Result<PromiseRaw<'env, Vec<NativeDeadLetter>>> {
        let transport = Arc::clone(&self.transport);
        promise(env, async move {
            let letters = transport.dead_letters(offset as usize, limit as usize).await?;
            Ok(letters.into_iter().map(|letter| NativeDeadLetter::new(letter, None)).collect())
        })
    }

    /// How many messages the dead list has.
    #[napi(catch_unwind)]
    pub fn dead_count<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, f64>> {
        let transport = Arc::clone(&self.transport);
        promise(env, async move { transport.dead_count().await.map(|count| count as f64) })
    }

    /// One message of the dead list with its original bytes; null when it is not there.
    #[napi(catch_unwind)]
    pub fn dead_letter<'env>(
        &self,
        env: &'env Env,
        id: String,
    ) -> napi::Result<PromiseRaw<'env, Option<NativeDeadLetter>>> {
        let transport = Arc::clone(&self.transport);
        promise(env, async move {
            let found = transport.dead_letter(&id).await?;
            Ok(found.map(|(letter, raw)| NativeDeadLetter::new(letter, Some(&raw))))
        })
    }

    /// Moves messages from the dead list back to their queues, or to `queue`; says of each whether it was there.
    #[napi(catch_unwind)]
    pub fn replay_dead<'env>(
        &self,
        env: &'env Env,
        ids: Vec<String>,
        #[napi(ts_arg_type = "string | null")] queue: Option<String>,
    ) -> napi::Result<PromiseRaw<'env, Vec<bool>>> {
        let transport = Arc::clone(&self.transport);
        promise(env, async move { transport.replay_dead(&ids, queue.as_deref()).await })
    }

    /// Removes messages from the dead list for good; says of each whether it was there.
    #[napi(catch_unwind)]
    pub fn drop_dead<'env>(
        &self,
        env: &'env Env,
        ids: Vec<String>,
    ) -> napi::Result<PromiseRaw<'env, Vec<bool>>> {
        let transport = Arc::clone(&self.transport);
        promise(env, async move { transport.drop_dead(&ids).await })
    }

    /// What the transport can do.
    #[napi(catch_unwind)]
    pub fn features(&self) -> NativeFeatures {
        let features = self.transport.features();
        NativeFeatures {
            priority: features.priority,
            fanout: features.fanout,
            interoperable: features.interoperable,
        }
    }

    /// Settles what waits in the buffer, one way or the other, then closes.
    #[napi(catch_unwind)]
    pub fn close<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        let producer = Arc::clone(&self.producer);
        let transport = Arc::clone(&self.transport);
        promise(env, async move {
            producer.close().await;
            transport.close().await;
            Ok(())
        })
    }
}

/// The environment has ended, or JavaScript has let go of it without closing it: what it was given is still sent, and the
/// connections of the sender go. Workers on the same transport keep theirs.
impl Drop for NativeBroker {
    fn drop(&mut self) {
        let producer = Arc::clone(&self.producer);
        if let Ok(sending) = runtime::sending() {
            sending.spawn(async move { producer.close().await });
        }
    }
}

/// The inside of a JSON object, without its braces.
fn inside(text: &str) -> Result<String> {
    let text = text.trim();
    text.strip_prefix('{')
        .and_then(|text| text.strip_suffix('}'))
        .map(|text| text.trim().to_owned())
        .ok_or_else(|| Error::InvalidArgument {
            what: "properties".to_owned(),
            reason: "not a JSON object".to_owned(),
        })
}
