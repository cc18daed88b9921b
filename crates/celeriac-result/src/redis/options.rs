//! The options of `result_backend_transport_options` that the Redis store honours.

use std::time::Duration;

use celeriac_broker::redis_url::RedisUrl;
use celeriac_error::{Error, Result};
use serde_json::Value;

/// How often a connection on which nothing happens is tried, in seconds, unless `health_check_interval`
/// (`redis_backend_health_check_interval`) says otherwise.
const HEALTH_CHECK: Duration = Duration::from_secs(25);

/// What is read from the URL and the options.
pub(super) struct Options {
    pub(super) key_prefix: String,
    pub(super) retry: RetryPolicy,
    pub(super) connect_timeout: Duration,
    pub(super) health_check: Duration,
}

impl Options {
    pub(super) fn read(url: &RedisUrl, connect_timeout: Duration) -> Result<Self> {
        Ok(Self {
            key_prefix: key_prefix(url.text("global_keyprefix").as_deref()),
            retry: RetryPolicy::read(url.options.get("retry_policy"))?,
            connect_timeout: url.seconds("socket_connect_timeout")?.unwrap_or(connect_timeout),
            health_check: url.seconds("health_check_interval")?.unwrap_or(HEALTH_CHECK),
        })
    }
}

/// `BaseKeyValueStoreBackend._add_global_keyprefix`: an underscore separates, unless the prefix ends in a separator.
fn key_prefix(global: Option<&str>) -> String {
    let global = global.unwrap_or_default();
    let separator = if global.is_empty() || global.ends_with([':', '_', '-', '.']) { "" } else { "_" };
    format!("{global}{separator}celery-task-meta-")
}

/// `retry_policy`: how often a lost connection is opened again while somebody waits, and how far apart.
///
/// Unless told otherwise the attempts begin at once and get a tenth of a second further apart, up to one second, for
/// some twenty seconds in all; Celery's take as long.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RetryPolicy {
    /// `max_retries`; `None` is without end.
    max_retries: Option<u32>,
    /// `interval_start`, in seconds.
    start: f64,
    /// `interval_step`, in seconds.
    step: f64,
    /// `interval_max`, in seconds.
    max: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_retries: Some(25), start: 0.0, step: 0.1, max: 1.0 }
    }
}

impl RetryPolicy {
    fn read(given: Option<&Value>) -> Result<Self> {
        let mut policy = Self::default();
        let invalid = |key: &str, reason: &str| Error::InvalidArgument {
            what: key.to_owned(),
            reason: reason.to_owned(),
        };
        let members = match given {
            None | Some(Value::Null) => return Ok(policy),
            Some(Value::Object(members)) => members,
            Some(_) => return Err(invalid("retry_policy", "must be an object such as { max_retries: 20 }")),
        };
        for (key, value) in members {
            let number = || {
                value
                    .as_f64()
                    .filter(|number| *number >= 0.0)
                    .ok_or_else(|| invalid(&format!("retry_policy.{key}"), "must be a number of at least 0"))
            };
            match key.as_str() {
                "max_retries" if value.is_null() => policy.max_retries = None,
                "max_retries" => policy.max_retries = Some(number()? as u32),
                "interval_start" => policy.start = number()?,
                "interval_step" => policy.step = number()?,
                "interval_max" => policy.max = number()?,
                // kombu's other members, such as `timeout`, mean nothing here.
                _ => {}
            }
        }
        Ok(policy)
    }

    /// How long to stay away after this many failures; `None` is to give up.
    pub(super) fn delay(&self, failures: u32) -> Option<Duration> {
        if self.max_retries.is_some_and(|most| failures >= most) {
            return None;
        }
        let seconds = (self.start + f64::from(failures) * self.step).min(self.max + self.start);
        Duration::try_from_secs_f64(seconds).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_prefix_is_separated_unless_it_ends_in_a_separator() {
        assert_eq!(key_prefix(None), "celery-task-meta-");
        assert_eq!(key_prefix(Some("app")), "app_celery-task-meta-");
        for prefix in ["app:", "app_", "app-", "app."] {
            assert_eq!(key_prefix(Some(prefix)), format!("{prefix}celery-task-meta-"));
        }
    }

    #[test]
    fn the_attempts_get_further_apart_and_end() {
        let policy = RetryPolicy::default();
        let delays: Vec<u128> =
            (0..30).map_while(|n| policy.delay(n)).map(|delay| delay.as_millis()).collect();
        assert_eq!((delays[0], delays[1], delays[24], delays.len()), (0, 100, 1000, 25));
    }

    #[test]
    fn celerys_policy_is_honoured() {
        let given = json!({ "max_retries": 3, "interval_start": 0, "interval_step": 1, "interval_max": 1, "timeout": 5 });
        let policy = RetryPolicy::read(Some(&given)).unwrap();
        let delays: Vec<u64> = (0..9).map_while(|n| policy.delay(n)).map(|delay| delay.as_secs()).collect();
        assert_eq!(delays, [0, 1, 1]);
        let endless = RetryPolicy::read(Some(&json!({ "max_retries": null }))).unwrap();
        assert!(endless.delay(1_000_000).is_some());
        let error = RetryPolicy::read(Some(&json!({ "interval_max": "long" }))).unwrap_err();
        assert!(error.to_string().contains("retry_policy.interval_max"), "{error}");
    }
}
