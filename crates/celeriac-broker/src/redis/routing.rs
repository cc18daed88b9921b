//! Which lists and channels a message goes to, and the bindings that say so.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use celeriac_error::{Error, Result};

use super::link::{Link, explain};
use super::scripts::{BIND, BIND_LASTING};
use super::settings::Settings;
use crate::sync::lock;
use crate::transport::{ExchangeType, Publication, Queue};
use crate::virtual_exchange::queues_for;

/// How long a table of bindings is believed. kombu reads it for every message; so a new queue of another process gets
/// its messages up to this much later.
const BELIEVED: Duration = Duration::from_secs(1);

/// kombu's `BINDING_EXPIRES_FACTOR` and `MIN_BINDING_TTL`: how long the binding of an expiring queue is kept.
const EXPIRES_FACTOR: u64 = 2;
const MIN_BINDING_MS: u64 = 60 * 60 * 1000;

/// Where one copy of a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// To a queue, by name.
    Queue(Arc<str>),
    /// To whoever listens.
    Channel(String),
}

/// Looks up and writes bindings.
pub(super) struct Router {
    settings: Arc<Settings>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tables: HashMap<Arc<str>, (Instant, Arc<Table>)>,
    /// `x-expires` of the queues declared here, in milliseconds.
    expires: HashMap<String, u64>,
}

type Table = Vec<Binding>;

struct Binding {
    routing_key: String,
    /// kombu writes one for topic exchanges.
    has_pattern: bool,
    queue: Arc<str>,
}

impl Router {
    pub(super) fn new(settings: Arc<Settings>) -> Self {
        Self { settings, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// How long the lists of a queue live without use, in milliseconds, when it was declared so here.
    pub(super) fn expires(&self, queue: &str) -> Option<u64> {
        self.state().expires.get(queue).copied()
    }

    /// Writes the bindings as kombu does (`Channel._queue_bind`). Queues themselves come to be with their first message.
    pub(super) async fn declare(&self, link: &Link, queues: &[Queue]) -> Result<()> {
        let keys = &self.settings.keys;
        for queue in queues {
            keys.check_queue(&queue.name)?;
        }
        let (mut tables, mut bindings) = (Vec::new(), Vec::new());
        for queue in queues {
            let expires = expires(queue);
            {
                let mut state = self.state();
                match expires {
                    Some(milliseconds) => state.expires.insert(queue.name.clone(), milliseconds),
                    None => state.expires.remove(&queue.name),
                };
                state.tables.remove(queue.exchange.name.as_str());
            }
            if queue.exchange.name.is_empty() {
                continue;
            }
            let pattern = match queue.exchange.kind {
                ExchangeType::Topic => pattern(&queue.routing_key),
                ExchangeType::Direct | ExchangeType::Fanout => String::new(),
                ExchangeType::Headers => {
                    return Err(Error::NotSupported {
                        what: format!("the headers exchange `{}`", queue.exchange.name),
                        by: self.settings.url.clone(),
                    });
                }
            };
            let binding = [queue.routing_key.as_str(), &pattern, &queue.name].join(&keys.separator);
            let table = keys.bindings(&queue.exchange.name);
            if let Some(milliseconds) = expires {
                let kept = milliseconds.saturating_mul(EXPIRES_FACTOR).max(MIN_BINDING_MS);
                let mut call = BIND.call(&[table, keys.binding_deadlines()]);
                call.arg(binding).arg(&queue.exchange.name).arg(kept);
                link.script::<()>(&BIND, &call).await?;
            } else {
                tables.extend([table, keys.permanent_bindings(&queue.exchange.name)]);
                bindings.push(binding);
            }
        }
        if tables.is_empty() {
            return Ok(());
        }
        let mut call = BIND_LASTING.call(&tables);
        call.arg(bindings);
        link.script(&BIND_LASTING, &call).await
    }

    /// Reads the tables that these messages need and that are not known, in one write.
    ///
    /// A table that lets one of the messages through nowhere is read again, so that nobody is refused because of what
    /// was true a second ago.
    pub(super) async fn prepare<'a>(
        &self,
        link: &Link,
        publications: impl Iterator<Item = &'a Publication>,
    ) -> Result<()> {
        let mut wanted: Vec<Arc<str>> = Vec::new();
        let mut before: Option<&Publication> = None;
        for publication in publications {
            if before.replace(publication).is_some_and(|other| other.goes_the_same_way(publication)) {
                continue;
            }
            if !wanted.contains(&publication.exchange) && !self.knows(publication) {
                wanted.push(Arc::clone(&publication.exchange));
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        self.read(link, &wanted).await
    }

    /// Whether [`destinations`](Self::destinations) can be asked without reading a table before.
    pub(super) fn knows(&self, publication: &Publication) -> bool {
        if publication.exchange.is_empty()
            || matches!(publication.exchange_type, ExchangeType::Fanout | ExchangeType::Headers)
        {
            return true;
        }
        let known = self.state().tables.get(&publication.exchange).cloned();
        known.is_some_and(|(read, table)| {
            read.elapsed() < BELIEVED
                && !matches(publication.exchange_type, &table, &publication.routing_key).is_empty()
        })
    }

    async fn read(&self, link: &Link, exchanges: &[Arc<str>]) -> Result<()> {
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        for exchange in exchanges {
            pipeline.cmd("SMEMBERS").arg(self.settings.keys.bindings(exchange));
        }
        let replies: Vec<redis::RedisResult<Vec<Vec<u8>>>> = link.commands(&pipeline).await?;
        for (exchange, reply) in exchanges.iter().zip(replies) {
            let members = reply.map_err(|error| explain(&self.settings.url, &error))?;
            let mut table: Table =
                members.iter().filter_map(|member| binding(member, &self.settings.keys.separator)).collect();
            // A set has no order; the same one every time is kinder to whoever reads logs.
            table.sort_by(|left, right| left.queue.cmp(&right.queue));
            self.state().tables.insert(Arc::clone(exchange), (Instant::now(), Arc::new(table)));
        }
        Ok(())
    }

    /// Where a message goes, by the tables that [`prepare`](Self::prepare) has read.
    pub(super) fn destinations(&self, publication: &Publication) -> Result<Vec<Destination>> {
        let destinations = self.places(publication)?;
        for destination in &destinations {
            if let Destination::Queue(queue) = destination {
                self.settings.keys.check_queue(queue)?;
            }
        }
        Ok(destinations)
    }

    fn places(&self, publication: &Publication) -> Result<Vec<Destination>> {
        let (exchange, routing_key) = (&publication.exchange, &publication.routing_key);
        if exchange.is_empty() {
            return Ok(vec![Destination::Queue(Arc::clone(routing_key))]);
        }
        if publication.exchange_type == ExchangeType::Fanout {
            return Ok(vec![Destination::Channel(self.settings.keys.channel(exchange, routing_key))]);
        }
        let table = self.state().tables.get(exchange).map(|(_, table)| Arc::clone(table));
        let queues =
            table.map(|table| matches(publication.exchange_type, &table, routing_key)).unwrap_or_default();
        if !queues.is_empty() {
            return Ok(queues.into_iter().map(Destination::Queue).collect());
        }
        // kombu delivers to it from direct exchanges only.
        if let (ExchangeType::Direct, Some(queue)) =
            (publication.exchange_type, &self.settings.dead_letter_queue)
        {
            return Ok(vec![Destination::Queue(queue.as_str().into())]);
        }
        Err(Error::Unroutable { exchange: exchange.to_string(), routing_key: routing_key.to_string() })
    }

    /// The queues that kombu would restore a message to, read afresh. The table does not say of which type its
    /// exchange is, but only topic exchanges have patterns.
    pub(super) async fn queues_of_claim(
        &self,
        link: &Link,
        exchange: &str,
        routing_key: &str,
    ) -> Result<Vec<Arc<str>>> {
        if exchange.is_empty() {
            return Ok(if routing_key.is_empty() { Vec::new() } else { vec![routing_key.into()] });
        }
        let name: Arc<str> = exchange.into();
        self.read(link, std::slice::from_ref(&name)).await?;
        let table = self.state().tables.get(&name).map(|(_, table)| Arc::clone(table)).unwrap_or_default();
        let kind = if table.iter().any(|binding| binding.has_pattern) {
            ExchangeType::Topic
        } else {
            ExchangeType::Direct
        };
        Ok(matches(kind, &table, routing_key))
    }
}

fn matches(kind: ExchangeType, table: &Table, routing_key: &str) -> Vec<Arc<str>> {
    let rows = table.iter().map(|binding| (binding.routing_key.as_str(), &*binding.queue));
    queues_for(kind, rows, routing_key).into_iter().map(Arc::from).collect()
}

fn binding(member: &[u8], separator: &str) -> Option<Binding> {
    let text = std::str::from_utf8(member).ok()?;
    let mut parts = text.splitn(3, separator);
    let (routing_key, pattern, queue) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Binding {
        routing_key: routing_key.to_owned(),
        has_pattern: !pattern.is_empty(),
        queue: queue.into(),
    })
}

/// The regular expression that kombu stores beside a topic binding (`TopicExchange.key_to_pattern`); Python peers match
/// by it.
fn pattern(routing_key: &str) -> String {
    let mut out = String::from("^");
    for (place, word) in routing_key.split('.').enumerate() {
        if place > 0 {
            out.push_str("\\.");
        }
        match word {
            "*" => out.push_str("[^\\.]+"),
            "#" => out.push_str(".*?"),
            _ => {
                for character in word.chars() {
                    match character {
                        '\0' => out.push_str("\\000"),
                        '#' | '*' => out.push(character),
                        _ if character.is_alphanumeric() => out.push(character),
                        _ => out.extend(['\\', character]),
                    }
                }
            }
        }
    }
    out.push('$');
    out
}

/// `x-expires` of a queue, in milliseconds.
fn expires(queue: &Queue) -> Option<u64> {
    if !queue.arguments.contains("x-expires") {
        return None;
    }
    let arguments: serde_json::Value = serde_json::from_str(&queue.arguments).ok()?;
    match arguments.get("x-expires")? {
        serde_json::Value::Number(number) => number.as_u64().or_else(|| number.as_f64().map(|ms| ms as u64)),
        serde_json::Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_written_as_kombu_writes_them() {
        for (key, expected) in [
            ("stock.#", r"^stock\..*?$"),
            ("*.nasdaq", r"^[^\.]+\.nasdaq$"),
            ("a_b-c.d", r"^a\_b\-c\.d$"),
            ("x#.y", r"^x#\.y$"),
            ("", "^$"),
        ] {
            assert_eq!(pattern(key), expected);
        }
    }

    #[test]
    fn a_queue_expires_only_when_its_arguments_say_so() {
        let queue = |arguments: &str| Queue { arguments: arguments.to_owned(), ..Queue::default() };
        assert_eq!(expires(&queue("")), None);
        assert_eq!(expires(&queue(r#"{"x-max-priority": 5}"#)), None);
        assert_eq!(expires(&queue(r#"{"x-expires": 10000}"#)), Some(10_000));
        assert_eq!(expires(&queue(r#"{"x-expires": 10000.0}"#)), Some(10_000));
    }
}
