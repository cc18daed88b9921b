//! Documents as rows of `celery_taskmeta`, and back.
//!
//! Source of the rules: `celery.backends.database.DatabaseBackend._update_result` and `_get_task_meta_for`.

use std::borrow::Cow;

use celeriac_error::{Error, Result};
use celeriac_protocol::TaskMeta;
use celeriac_protocol::json::{object_members, push_string, to_javascript};
use celeriac_protocol::result_meta::ExtendedMeta;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rusqlite::Row;
use rusqlite::types::ValueRef;

/// The columns that are written and read, in the order of [`Columns`].
pub(super) const COLUMNS: &str = "task_id, status, result, date_done, traceback, children, name, args, kwargs, worker, \
                                  retries, queue, stamps";

/// What is written for one document, beside what is written as it stands.
#[derive(Debug, PartialEq)]
pub(super) struct Columns {
    /// Texts that Python keeps as bytes.
    pub(super) result: Vec<u8>,
    pub(super) date_done: Option<String>,
    pub(super) children: Option<Vec<u8>>,
    pub(super) args: Option<Vec<u8>>,
    pub(super) kwargs: Option<Vec<u8>>,
    pub(super) stamps: Option<Vec<u8>>,
}

impl Columns {
    pub(super) fn of(meta: &TaskMeta) -> Result<Self> {
        let extended = meta.extended.as_deref();
        let value = |json: &str| if json.is_empty() { b"null".to_vec() } else { json.as_bytes().to_vec() };
        // An empty list is kept as NULL, like none.
        let children = Some(meta.children_json.trim()).filter(|json| !matches!(*json, "" | "null" | "[]"));
        Ok(Self {
            result: value(&meta.result_json),
            date_done: meta.date_done.as_deref().map(date_to_sql).transpose()?,
            children: children.map(|json| json.as_bytes().to_vec()),
            args: extended.map(|extended| value(&extended.args_json)),
            kwargs: extended.map(|extended| value(&extended.kwargs_json)),
            stamps: extended
                .and_then(|extended| stamps_to_sql(&extended.stamps_json).transpose())
                .transpose()?,
        })
    }
}

/// Reads a row of [`COLUMNS`]. The inner error is about this document only.
pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<(String, Result<TaskMeta>)> {
    let task_id: String = row.get(0)?;
    let status = row.get::<_, Option<String>>(1)?.unwrap_or_else(|| "PENDING".to_owned());
    let meta =
        read_meta(row, &task_id, &status).map_err(|error| crate::of_task(&task_id, Some(&status), error));
    Ok((task_id, meta))
}

fn read_meta(row: &Row<'_>, task_id: &str, status: &str) -> Result<TaskMeta> {
    let null = || "null".to_owned();
    let result_json = json(row, 2)?.unwrap_or_else(null);
    let extended = ExtendedMeta {
        name: text(row, 6)?,
        args_json: json(row, 7)?.unwrap_or_else(null),
        kwargs_json: json(row, 8)?.unwrap_or_else(null),
        worker: text(row, 9)?,
        retries: row.get::<_, Option<u32>>(10).map_err(wrong)?.unwrap_or_default(),
        queue: text(row, 11)?,
        stamps_json: json(row, 12)?.map(|json| stamps_from_sql(&json)).transpose()?.unwrap_or_default(),
    };
    let is_extended = (6..=12).any(|column| !matches!(row.get_ref(column), Ok(ValueRef::Null)));
    Ok(TaskMeta {
        task_id: task_id.to_owned(),
        status: status.to_owned(),
        result_json,
        traceback: text(row, 4)?,
        children_json: json(row, 5)?.unwrap_or_else(null),
        date_done: text(row, 3)?.map(|date| date_from_sql(&date)),
        group_id: None,
        parent_id: None,
        extended: is_extended.then(|| Box::new(extended)),
    })
}

#[allow(clippy::needless_pass_by_value)] // For `map_err`.
fn wrong(error: rusqlite::Error) -> Error {
    Error::Decode { reason: error.to_string() }
}

fn text(row: &Row<'_>, column: usize) -> Result<Option<String>> {
    row.get(column).map_err(wrong)
}

/// A column of bytes that are JSON. Whoever wrote it by hand may have written text.
fn json(row: &Row<'_>, column: usize) -> Result<Option<String>> {
    let bytes = match row.get_ref(column).map_err(wrong)? {
        ValueRef::Null => return Ok(None),
        ValueRef::Blob(bytes) | ValueRef::Text(bytes) => bytes,
        other => return Err(Error::Decode { reason: format!("a {} instead of bytes", other.data_type()) }),
    };
    // Until Celery 5.6 the result was always a pickle. It may hold anything, so it is not opened.
    if bytes.first() == Some(&0x80) {
        let reason = "it is a Python pickle, which is not read: set result_serializer to json in the Python workers \
                      (this backend of Celery honours it since 5.7)";
        return Err(Error::Decode { reason: reason.to_owned() });
    }
    let not_json = |error: &dyn std::fmt::Display| Error::Decode {
        reason: format!("it is no JSON ({error}): set result_serializer to json in all workers"),
    };
    let text = std::str::from_utf8(bytes).map_err(|error| not_json(&error))?;
    to_javascript(bytes).map_err(|error| not_json(&error))?;
    Ok(Some(text.to_owned()))
}

/// The time as SQLAlchemy keeps it: UTC without saying so, always with microseconds.
pub(super) fn date_to_sql(date: &str) -> Result<String> {
    let time = date.parse::<Timestamp>().or_else(|error| {
        let without_offset = date.parse::<DateTime>().map_err(|_| error)?;
        without_offset.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp())
    });
    let time = time.map_err(|error| Error::InvalidArgument {
        what: "date_done".to_owned(),
        reason: format!("`{date}` is no date in ISO 8601: {error}"),
    })?;
    Ok(sql_time(time))
}

pub(super) fn sql_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S%.6f").to_string()
}

/// The time as the key-value stores write it. What is no time in SQLAlchemy's form is shown as it is.
fn date_from_sql(date: &str) -> String {
    let Ok(time) = date.parse::<DateTime>() else { return date.to_owned() };
    let form =
        if time.subsec_nanosecond() == 0 { "%Y-%m-%dT%H:%M:%S+00:00" } else { "%Y-%m-%dT%H:%M:%S%.6f+00:00" };
    time.strftime(form).to_string()
}

/// From the fields of a document, `"stamped_headers": ["a"], "a": 1`, to those of the column,
/// `{"stamped_headers": ["a"], "stamps": {"a": 1}}`.
fn stamps_to_sql(fields: &str) -> Result<Option<Vec<u8>>> {
    if fields.trim().is_empty() {
        return Ok(None);
    }
    let document = format!("{{{fields}}}");
    let mut headers = "[]";
    let mut stamps = String::new();
    for (name, value) in object_members(document.as_bytes())? {
        if name == "stamped_headers" {
            headers = value;
        } else {
            push_member(&mut stamps, &name, value);
        }
    }
    Ok(Some(format!("{{\"stamped_headers\": {headers}, \"stamps\": {{{stamps}}}}}").into_bytes()))
}

fn stamps_from_sql(column: &str) -> Result<String> {
    let mut fields = String::new();
    let mut stamps: Vec<(Cow<'_, str>, &str)> = Vec::new();
    for (name, value) in object_members(column.as_bytes())? {
        match name.as_ref() {
            "stamped_headers" => push_member(&mut fields, &name, value),
            "stamps" => stamps = object_members(value.as_bytes())?,
            _ => {}
        }
    }
    for (name, value) in stamps {
        push_member(&mut fields, &name, value);
    }
    Ok(fields)
}

fn push_member(out: &mut String, name: &str, value: &str) {
    if !out.is_empty() {
        out.push_str(", ");
    }
    push_string(out, name);
    out.push_str(": ");
    out.push_str(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_kept_in_utc_with_microseconds() {
        for (date, kept) in [
            ("2026-11-21T10:02:33.770854+00:00", "2026-11-21 10:02:33.770854"),
            ("2026-11-21T12:02:33+02:00", "2026-11-21 10:02:33.000000"),
            ("2026-11-21T10:02:33.5Z", "2026-11-21 10:02:33.500000"),
            ("2026-11-21T10:02:33", "2026-11-21 10:02:33.000000"),
        ] {
            assert_eq!(date_to_sql(date).unwrap(), kept, "{date}");
        }
        assert!(date_to_sql("yesterday").unwrap_err().to_string().contains("yesterday"));
    }

    #[test]
    fn a_date_is_read_as_utc_and_shown_as_python_shows_it() {
        assert_eq!(date_from_sql("2026-11-21 10:02:33.770854"), "2026-11-21T10:02:33.770854+00:00");
        assert_eq!(date_from_sql("2026-11-21 10:02:33.000000"), "2026-11-21T10:02:33+00:00");
        assert_eq!(date_from_sql("some day"), "some day");
    }

    #[test]
    fn stamps_change_their_shape_and_nothing_else() {
        let fields = r#""stamped_headers": ["tenant", "n"], "tenant": "acme \"x\"", "n": [1.0, NaN]"#;
        let column = stamps_to_sql(fields).unwrap().unwrap();
        let column = String::from_utf8(column).unwrap();
        assert_eq!(
            column,
            r#"{"stamped_headers": ["tenant", "n"], "stamps": {"tenant": "acme \"x\"", "n": [1.0, NaN]}}"#
        );
        assert_eq!(stamps_from_sql(&column).unwrap(), fields);
        assert_eq!(stamps_to_sql("").unwrap(), None);
    }
}
