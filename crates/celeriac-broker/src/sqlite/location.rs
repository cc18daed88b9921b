//! Which file a URL names, and with which options it is opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use celeriac_error::{Error, Result};
use serde_json::Value;

use crate::registry::TransportOptions;

/// As long as Python's sqlite3 waits.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that is known before the file is opened.
#[derive(Clone, Debug)]
pub(super) struct Location {
    /// As the user wrote it; there is no password in it.
    pub(super) url: String,
    /// Absolute, so that a later change of the working directory does not move it.
    pub(super) path: PathBuf,
    /// `PRAGMA synchronous`.
    pub(super) synchronous: &'static str,
    /// How long another process may hold the lock before it is an error.
    pub(super) busy_timeout: Duration,
    /// Whether another process holds the lock that is wanted now.
    pub(super) locked: Arc<AtomicBool>,
    /// kombu's option of the same name: look this often instead of watching the file.
    pub(super) polling_interval: Option<Duration>,
    /// kombu's option of the same name.
    pub(super) queue_table: String,
    /// kombu's option of the same name.
    pub(super) message_table: String,
}

impl Location {
    pub(super) fn parse(url: &str, options: &TransportOptions) -> Result<Self> {
        let invalid = |reason: &str| Error::InvalidUrl { url: url.to_owned(), reason: reason.to_owned() };
        let rest = url.split_once("://").map_or("", |(_, rest)| rest);
        // SQLAlchemy takes the path as it stands, without percent-decoding.
        let rest = rest.split_once('?').map_or(rest, |(path, _)| path);
        let path = rest.strip_prefix('/').filter(|path| !path.is_empty() && *path != ":memory:").ok_or_else(|| {
            invalid(
                "name a file: `sqla+sqlite:///celeriac.db` is relative to the working directory, \
                 `sqla+sqlite:////var/lib/celeriac.db` is absolute; for a broker inside one process use memory://",
            )
        })?;
        let path = std::path::absolute(path).map_err(|error| invalid(&error.to_string()))?;
        Ok(Self {
            url: url.to_owned(),
            path,
            synchronous: synchronous(options.options.get("synchronous"))?,
            busy_timeout: seconds(options, "busy_timeout")?.unwrap_or(BUSY_TIMEOUT),
            locked: Arc::default(),
            polling_interval: seconds(options, "polling_interval")?,
            queue_table: table("queue_tablename", options.options.get("queue_tablename"), "kombu_queue")?,
            message_table: table(
                "message_tablename",
                options.options.get("message_tablename"),
                "kombu_message",
            )?,
        })
    }

    /// The name of the file without its folder; the write-ahead log's name begins with it.
    pub(super) fn file_name(&self) -> &std::ffi::OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// The folder of the file.
    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }
}

fn synchronous(value: Option<&Value>) -> Result<&'static str> {
    let Some(value) = value else { return Ok("NORMAL") };
    let text = value.as_str().unwrap_or_default().to_ascii_uppercase();
    ["OFF", "NORMAL", "FULL", "EXTRA"].into_iter().find(|known| *known == text).ok_or_else(|| {
        Error::InvalidArgument {
            what: "broker_transport_options.synchronous".to_owned(),
            reason: format!("{value} is none of off, normal (the default), full and extra"),
        }
    })
}

fn seconds(options: &TransportOptions, option: &str) -> Result<Option<Duration>> {
    let Some(value) = options.options.get(option) else { return Ok(None) };
    let seconds = value.as_f64().or_else(|| value.as_str()?.parse().ok());
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.map(Some).ok_or_else(|| Error::InvalidArgument {
        what: format!("broker_transport_options.{option}"),
        reason: format!("{value} is not a number of seconds"),
    })
}

fn table(option: &str, value: Option<&Value>, default: &str) -> Result<String> {
    let Some(value) = value else { return Ok(default.to_owned()) };
    let name = value.as_str().unwrap_or_default();
    if name.is_empty() || !name.chars().all(|character| character.is_alphanumeric() || character == '_') {
        return Err(Error::InvalidArgument {
            what: format!("broker_transport_options.{option}"),
            reason: format!("{value} is not the name of a table: letters, digits and underscores"),
        });
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str, options: &Value) -> Result<Location> {
        let options = TransportOptions {
            options: options.as_object().cloned().unwrap_or_default(),
            ..TransportOptions::default()
        };
        Location::parse(url, &options)
    }

    #[test]
    fn three_slashes_are_relative_and_four_absolute_as_in_sqlalchemy() {
        let here = std::env::current_dir().unwrap();
        let path = |url| parse(url, &Value::Null).unwrap().path;
        assert_eq!(path("sqla+sqlite:///a%20b.db"), here.join("a%20b.db"));
        assert_eq!(
            path("sqlalchemy+sqlite:////var/x/celeriac.db?timeout=3"),
            Path::new("/var/x/celeriac.db")
        );
    }

    #[test]
    fn a_url_without_a_file_is_refused_with_the_right_form() {
        for url in ["sqla+sqlite://", "sqla+sqlite:///", "sqla+sqlite:///:memory:", "sqla+sqlite://host/f.db"]
        {
            let error = parse(url, &Value::Null).unwrap_err();
            assert_eq!(error.code(), "ERR_CELERIAC_INVALID_URL");
            assert!(error.to_string().contains("sqla+sqlite:///celeriac.db"), "{error}");
        }
    }

    #[test]
    fn options_are_checked_by_name() {
        for (option, value) in [
            ("synchronous", serde_json::json!("sometimes")),
            ("busy_timeout", serde_json::json!(-1)),
            ("message_tablename", serde_json::json!("x; DROP TABLE y")),
        ] {
            let error = parse("sqla+sqlite:///f.db", &serde_json::json!({ option: value })).unwrap_err();
            assert_eq!(error.code(), "ERR_CELERIAC_INVALID_ARGUMENT");
            assert!(error.to_string().contains(option), "{error}");
        }
        let location = parse(
            "sqla+sqlite:///f.db",
            &serde_json::json!({"synchronous": "full", "busy_timeout": 0.5, "queue_tablename": "q"}),
        )
        .unwrap();
        assert_eq!((location.synchronous, location.queue_table.as_str()), ("FULL", "q"));
        assert_eq!(location.busy_timeout, Duration::from_millis(500));
    }
}
