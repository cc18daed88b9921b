//! What the URL and the transport options of kombu's Redis transport say.

use std::time::Duration;

use celeriac_error::{Error, Result};
use serde_json::Value;

use super::keys::Keys;
use crate::redis_url::RedisUrl;
use crate::registry::TransportOptions;

/// How long an answer may take unless `socket_timeout` says otherwise. kombu waits for ever; here others wait behind it.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How many connections wait unless `waiting_connections` says otherwise.
const WAITING_CONNECTIONS: usize = 16;

/// In which order the queues of one priority step are looked at (`queue_order_strategy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueueOrder {
    /// Each in turn; the default.
    RoundRobin,
    /// By name, the first as long as it has messages.
    Sorted,
    /// As given, the first as long as it has messages.
    Priority,
}

/// Everything that stays the same for the life of a transport.
pub(super) struct Settings {
    /// Without its password.
    pub(super) url: String,
    /// `redis://host:port`, or the path of the socket, in lower case.
    pub(super) identity: String,
    pub(super) client: redis::Client,
    pub(super) database: i64,
    pub(super) keys: Keys,
    /// After how long kombu's claims count as lost (`visibility_timeout`, 3600 s).
    pub(super) visibility_timeout: Duration,
    /// How often kombu's claims are looked through (`unacked_restore_interval`, 10 s).
    pub(super) restore_interval: Duration,
    /// How long a connection may take (`socket_connect_timeout`, else `broker_connection_timeout`).
    pub(super) connect_timeout: Duration,
    /// How long an answer may take (`socket_timeout`; 10 s, where kombu waits for ever).
    pub(super) response_timeout: Duration,
    pub(super) order: QueueOrder,
    /// The most connections that one consumer keeps waiting (`waiting_connections`).
    pub(super) waiting_connections: usize,
    /// Where a direct message goes that matches no queue (`deadletter_queue`).
    pub(super) dead_letter_queue: Option<String>,
}

impl Settings {
    pub(super) fn new(broker_url: &str, given: &TransportOptions) -> Result<Self> {
        let options = Options(RedisUrl::parse(broker_url, &given.options)?);
        let database = options.0.database;
        Ok(Self {
            url: options.0.masked().to_owned(),
            identity: options.0.identity(),
            client: options.0.client()?,
            database,
            keys: keys(&options, database)?,
            visibility_timeout: options.seconds("visibility_timeout")?.unwrap_or(Duration::from_secs(3600)),
            restore_interval: options.seconds("unacked_restore_interval")?.unwrap_or(Duration::from_secs(10)),
            connect_timeout: options.seconds("socket_connect_timeout")?.unwrap_or(given.connect_timeout),
            response_timeout: options.seconds("socket_timeout")?.unwrap_or(RESPONSE_TIMEOUT),
            order: match options.text("queue_order_strategy").as_deref() {
                None | Some("round_robin") => QueueOrder::RoundRobin,
                Some("sorted") => QueueOrder::Sorted,
                Some("priority") => QueueOrder::Priority,
                Some(other) => {
                    return Err(options.wrong(&format!(
                        "queue_order_strategy must be round_robin, sorted or priority, not `{other}`"
                    )));
                }
            },
            waiting_connections: match options.text("waiting_connections").map(|text| text.parse()) {
                None => WAITING_CONNECTIONS,
                Some(Ok(number @ 1..)) => number,
                Some(_) => return Err(options.wrong("waiting_connections must be a whole number above zero")),
            },
            dead_letter_queue: options.text("deadletter_queue"),
        })
    }
}

fn keys(options: &Options, database: i64) -> Result<Keys> {
    let mut keys = Keys::default();
    let prefix = options.text("global_keyprefix").unwrap_or_default();
    let named = |name: &str, default: &str| {
        format!("{prefix}{}", options.text(name).unwrap_or_else(|| default.to_owned()))
    };
    keys.unacked = named("unacked_key", "unacked");
    keys.unacked_index = named("unacked_index_key", "unacked_index");
    keys.unacked_mutex = named("unacked_mutex_key", "unacked_mutex");
    if let Some(separator) = options.text("sep") {
        keys.separator = separator;
    }
    match options.value("priority_steps") {
        None | Some(Value::Null) => {}
        Some(Value::Array(steps)) => {
            keys.steps = steps.iter().filter_map(|step| u8::try_from(step.as_u64()?).ok()).collect();
            keys.steps.sort_unstable();
            keys.steps.dedup();
            if keys.steps.len() != steps.len() || steps.is_empty() {
                return Err(options.wrong("priority_steps must be a list of different numbers from 0 to 255"));
            }
        }
        Some(_) => return Err(options.wrong("priority_steps must be a list of numbers, as in [0, 3, 6, 9]")),
    }
    let fanout = match options.value("fanout_prefix") {
        Some(Value::String(text)) if !matches!(text.as_str(), "True" | "true" | "1") => {
            if matches!(text.as_str(), "False" | "false" | "0" | "") { String::new() } else { text.clone() }
        }
        Some(Value::Bool(false)) => String::new(),
        _ => "/{db}.".to_owned(),
    };
    keys.fanout_prefix = format!("{prefix}{}", fanout.replace("{db}", &database.to_string()));
    keys.fanout_patterns = options.flag("fanout_patterns")?.unwrap_or(true);
    keys.prefix = prefix;
    Ok(keys)
}

/// The options by name; those in the URL are texts.
struct Options(RedisUrl);

impl Options {
    fn wrong(&self, reason: &str) -> Error {
        Error::InvalidUrl { url: self.0.masked().to_owned(), reason: reason.to_owned() }
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.0.options.get(name)
    }

    fn text(&self, name: &str) -> Option<String> {
        self.0.text(name)
    }

    fn flag(&self, name: &str) -> Result<Option<bool>> {
        match self.text(name).map(|text| text.to_lowercase()).as_deref() {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(other) => Err(self.wrong(&format!("{name} must be true or false, not `{other}`"))),
        }
    }

    /// Above zero.
    fn seconds(&self, name: &str) -> Result<Option<Duration>> {
        match (self.text(name), self.0.seconds(name)?) {
            (Some(given), None) => Err(self.wrong(&format!("{name} must be above zero, not {given}"))),
            (_, seconds) => Ok(seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(url: &str, options: &Value) -> Result<Settings> {
        let options = options.as_object().cloned().unwrap_or_default();
        Settings::new(url, &TransportOptions { options, ..TransportOptions::default() })
    }

    #[test]
    fn keys_and_times_are_kombus_unless_told_otherwise() {
        let settings = open("redis://host/2", &Value::Null).unwrap();
        assert_eq!(settings.visibility_timeout, Duration::from_secs(3600));
        assert_eq!(settings.restore_interval, Duration::from_secs(10));
        assert_eq!(settings.keys.steps, [0, 3, 6, 9]);
        assert_eq!(settings.keys.unacked, "unacked");
        assert_eq!(settings.keys.fanout_prefix, "/2.");
        assert!(settings.keys.fanout_patterns);
        assert_eq!(settings.order, QueueOrder::RoundRobin);
    }

    #[test]
    fn transport_options_win_over_the_query() {
        let options =
            serde_json::json!({ "visibility_timeout": 60, "priority_steps": [5, 0], "unacked_key": "held" });
        let url = "redis://host/2?visibility_timeout=9&global_keyprefix=pre%3A&fanout_patterns=false";
        let settings = open(url, &options).unwrap();
        assert_eq!(settings.visibility_timeout, Duration::from_secs(60));
        assert_eq!(settings.keys.steps, [0, 5]);
        assert_eq!(settings.keys.unacked, "pre:held");
        assert_eq!(settings.keys.fanout_prefix, "pre:/2.");
        assert!(!settings.keys.fanout_patterns);
    }

    #[test]
    fn the_fanout_prefix_may_be_left_out_or_named() {
        let prefix = |value: Value| {
            open("redis://host/2", &serde_json::json!({ "fanout_prefix": value })).unwrap().keys.fanout_prefix
        };
        assert_eq!(prefix(Value::Bool(true)), "/2.");
        assert_eq!(prefix(Value::Bool(false)), "");
        assert_eq!(prefix("/{db}/mine.".into()), "/2/mine.");
    }

    #[test]
    fn a_wrong_option_is_named() {
        for (query, word) in [
            ("visibility_timeout=soon", "visibility_timeout"),
            ("visibility_timeout=0", "visibility_timeout"),
            ("priority_steps=0", "priority_steps"),
            ("queue_order_strategy=random", "queue_order_strategy"),
            ("fanout_patterns=perhaps", "fanout_patterns"),
            ("waiting_connections=0", "waiting_connections"),
        ] {
            let error = open(&format!("redis://host?{query}"), &Value::Null).err().unwrap();
            assert_eq!(error.code(), "ERR_CELERIAC_INVALID_URL");
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
