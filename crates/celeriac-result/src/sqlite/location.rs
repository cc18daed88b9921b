//! Which file a URL names, with which options it is opened, and what SQLite's errors mean there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use celeriac_error::{Error, Result};
use rusqlite::ErrorCode;
use serde_json::{Map, Value};

/// How long another process may hold the lock, unless `busy_timeout` (or `timeout`, as Python's `sqlite3` calls it)
/// says otherwise.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that is known before the file is opened.
#[derive(Clone, Debug)]
pub(super) struct Location {
    /// As the user wrote it; there is no password in it.
    pub(super) url: String,
    /// Absolute, so that a later change of the working directory does not move it.
    pub(super) path: PathBuf,
    pub(super) busy_timeout: Duration,
    /// `polling_interval`, as kombu calls it: look this often instead of watching the file, as on a network drive.
    pub(super) polling_interval: Option<Duration>,
    /// `database_table_names["task"]`.
    pub(super) task_table: String,
    /// `database_table_names["group"]`.
    pub(super) group_table: String,
}

impl Location {
    /// Reads `db+sqlite:///relative.db` and `db+sqlite:////absolute.db`, as SQLAlchemy does: the path is not
    /// percent-decoded.
    pub(super) fn parse(url: &str, options: &Map<String, Value>) -> Result<Self> {
        let invalid = |reason: &str| Error::InvalidUrl { url: url.to_owned(), reason: reason.to_owned() };
        let rest = url.split_once("://").map_or("", |(_, rest)| rest);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let file = rest.strip_prefix('/').filter(|file| !file.is_empty() && *file != ":memory:");
        let file = file.ok_or_else(|| {
            invalid(
                "name a file: `db+sqlite:///results.db` is relative to the working directory, \
                 `db+sqlite:////var/lib/results.db` is absolute; for results inside one process use cache+memory://",
            )
        })?;
        let mut merged: Map<String, Value> = url::form_urlencoded::parse(query.as_bytes())
            .map(|(key, value)| (key.into_owned(), Value::String(value.into_owned())))
            .collect();
        merged.extend(options.iter().map(|(key, value)| (key.clone(), value.clone())));
        let tables = merged.get("database_table_names");
        Ok(Self {
            url: url.to_owned(),
            path: std::path::absolute(file).map_err(|error| invalid(&error.to_string()))?,
            busy_timeout: seconds(&merged, "busy_timeout")?
                .or(seconds(&merged, "timeout")?)
                .unwrap_or(BUSY_TIMEOUT),
            polling_interval: seconds(&merged, "polling_interval")?.filter(|pause| !pause.is_zero()),
            task_table: table(tables, "task", "celery_taskmeta")?,
            group_table: table(tables, "group", "celery_tasksetmeta")?,
        })
    }

    /// The folder of the file.
    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// What an error of SQLite means: a file that is not to be had now, or one that cannot be used.
    pub(super) fn error(&self, error: &rusqlite::Error) -> Error {
        let path = self.path.display();
        let folder = self.folder().display();
        let (transient, reason) = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                let limit = self.busy_timeout.as_secs_f64();
                (true, format!("another process has locked {path} for more than {limit} s (busy_timeout)"))
            }
            Some(ErrorCode::DiskFull) => (true, format!("the disk of {path} is full")),
            Some(ErrorCode::SystemIoFailure | ErrorCode::FileLockingProtocolFailed) => {
                (true, format!("{path} cannot be read or written: {error}"))
            }
            Some(ErrorCode::CannotOpen) if !self.folder().is_dir() => {
                (false, format!("the folder {folder} does not exist: create it"))
            }
            Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                (false, format!("the file {path} and its folder must be writable: {error}"))
            }
            Some(ErrorCode::NotADatabase) => {
                (false, format!("{path} is no SQLite database: name another file, or move it away"))
            }
            _ => (false, format!("{path}: {error}")),
        };
        let url = self.url.clone();
        if transient { Error::ResultStoreNotReady { url, reason } } else { Error::Refused { url, reason } }
    }
}

fn seconds(options: &Map<String, Value>, option: &str) -> Result<Option<Duration>> {
    let Some(given) = options.get(option) else { return Ok(None) };
    let seconds = given.as_f64().or_else(|| given.as_str()?.parse().ok());
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.map(Some).ok_or_else(|| Error::InvalidArgument {
        what: option.to_owned(),
        reason: format!("{given} is no number of seconds"),
    })
}

fn table(names: Option<&Value>, which: &str, default: &str) -> Result<String> {
    let Some(name) = names.and_then(|names| names.get(which)) else { return Ok(default.to_owned()) };
    let text = name.as_str().unwrap_or_default();
    // The name becomes part of statements.
    if text.is_empty() || !text.chars().all(|character| character.is_alphanumeric() || character == '_') {
        return Err(Error::InvalidArgument {
            what: format!("database_table_names.{which}"),
            reason: format!("{name} is no name of a table: letters, digits and underscores"),
        });
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(url: &str, options: Value) -> Result<Location> {
        let Value::Object(options) = options else { panic!("options are an object") };
        Location::parse(url, &options)
    }

    #[test]
    fn three_slashes_are_relative_and_four_absolute_as_in_sqlalchemy() {
        let path = |url| parse(url, json!({})).unwrap().path;
        assert_eq!(path("db+sqlite:///a%20b.db"), std::env::current_dir().unwrap().join("a%20b.db"));
        assert_eq!(path("db+sqlite:////var/x/results.db?timeout=3"), Path::new("/var/x/results.db"));
    }

    #[test]
    fn a_url_without_a_file_is_refused_with_the_right_form() {
        for url in ["db+sqlite://", "db+sqlite:///", "db+sqlite:///:memory:", "db+sqlite://host/f.db"] {
            let error = parse(url, json!({})).unwrap_err();
            assert_eq!(error.code(), "ERR_CELERIAC_INVALID_URL");
            assert!(error.to_string().contains("db+sqlite:///results.db"), "{error}");
        }
    }

    #[test]
    fn options_win_over_the_query_and_are_checked_by_name() {
        let location = parse("db+sqlite:///f.db?timeout=3", json!({ "timeout": 0.5 })).unwrap();
        assert_eq!(location.busy_timeout, Duration::from_millis(500));
        assert_eq!(
            parse("db+sqlite:///f.db?timeout=3", json!({})).unwrap().busy_timeout,
            Duration::from_secs(3)
        );
        let error = parse("db+sqlite:///f.db?timeout=soon", json!({})).unwrap_err();
        assert!(error.to_string().contains("timeout: "), "{error}");
        let names = json!({ "database_table_names": { "task": "t; DROP TABLE x" } });
        let error = parse("db+sqlite:///f.db", names).unwrap_err();
        assert!(error.to_string().contains("database_table_names.task"), "{error}");
    }
}
