//! The message of one call, in message protocol 2.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;
use celeriac_error::{Error, Result};
use memchr::memchr2_iter;

use super::{TaskOptions, TaskTemplate};
use crate::json::{
    MAX_DEPTH, excerpt, expect_kind, first_byte, object_members, push_optional_string, push_string,
    string_value,
};
use crate::repr::{MAX_LENGTH, push_float, saferepr};
use crate::{DeliveryInfo, Message, Properties};

/// Builds the message of one call: protocol 2, JSON.
///
/// `args_json` is a JSON array, `kwargs_json` a JSON object, both in Python's sense; they are copied, not
/// re-encoded.
///
/// As in Celery, custom headers win over those of the protocol, `argsrepr`, `kwargsrepr` and `origin` also go into
/// the properties when they are given as options, and a `correlation_id` among the properties replaces the task id.
///
/// # Errors
/// [`Error::Encode`] when a text is not JSON of the expected kind.
pub fn encode(
    template: &TaskTemplate,
    task_id: &str,
    args_json: &str,
    kwargs_json: &str,
    options: &TaskOptions,
) -> Result<Message> {
    let argsrepr = representation("args", args_json, b'[', options.argsrepr.as_deref(), template)?;
    let kwargsrepr = representation("kwargs", kwargs_json, b'{', options.kwargsrepr.as_deref(), template)?;
    let mut properties = Properties {
        correlation_id: Some(task_id.to_owned()),
        reply_to: Some(
            options.reply_to.as_deref().or(template.reply_to.as_deref()).unwrap_or_default().to_owned(),
        ),
        delivery_mode: Some(options.delivery_mode.unwrap_or(template.delivery_mode)),
        priority: Some(options.priority.unwrap_or(template.priority)),
        expiration: options.expiration_ms.map(|milliseconds| milliseconds.to_string()),
        delivery_info: DeliveryInfo::default(),
        delivery_tag: None,
        other: String::new(),
    };
    add_properties(&mut properties, options)?;
    Ok(Message {
        body: body(args_json, kwargs_json, options)?,
        content_type: "application/json".to_owned(),
        content_encoding: "utf-8".to_owned(),
        headers: headers(template, task_id, &argsrepr, &kwargsrepr, options)?,
        properties,
    })
}

/// Checks the arguments, and prints them unless the caller did.
fn representation<'a>(
    name: &str,
    json: &str,
    first: u8,
    given: Option<&'a str>,
    template: &TaskTemplate,
) -> Result<Cow<'a, str>> {
    if let Some(given) = given {
        check(name, json, first)?;
        return Ok(Cow::Borrowed(given));
    }
    match json {
        "{}" if first == b'{' => return Ok(Cow::Borrowed("{}")),
        "[]" if first == b'[' => return Ok(Cow::Borrowed("()")),
        _ => {}
    }
    // What is too deep to be printed is not looked into; too deep to be read it may be all the same.
    let may_be_too_deep = memchr2_iter(b'[', b'{', json.as_bytes()).nth(usize::from(MAX_DEPTH)).is_some();
    if may_be_too_deep || first_byte(json) != Some(first) {
        check(name, json, first)?;
    }
    let printed = saferepr(json.as_bytes(), first == b'[', MAX_LENGTH, template.repr_max_levels);
    printed.map(Cow::Owned).map_err(|error| wrong(name, &error))
}

fn check(name: &str, json: &str, first: u8) -> Result<()> {
    expect_kind(json, first).map_err(|error| wrong(name, &error))
}

fn wrong(name: &str, error: &Error) -> Error {
    Error::Encode { reason: format!("`{name}`: {error}") }
}

fn body(args_json: &str, kwargs_json: &str, options: &TaskOptions) -> Result<Bytes> {
    let embedded = [
        ("callbacks", &options.callbacks_json, b'['),
        ("errbacks", &options.errbacks_json, b'['),
        ("chain", &options.chain_json, b'['),
        ("chord", &options.chord_json, b'{'),
    ];
    let length = embedded.iter().filter_map(|(_, json, _)| json.as_ref()).map(String::len).sum::<usize>();
    let mut out = String::with_capacity(args_json.len() + kwargs_json.len() + length + 80);
    out.push('[');
    out.push_str(args_json);
    out.push_str(", ");
    out.push_str(kwargs_json);
    let mut separator = ", {\"";
    for (name, json, first) in embedded {
        out.push_str(separator);
        out.push_str(name);
        out.push_str("\": ");
        out.push_str(nullable(name, json.as_deref(), first)?);
        separator = ", \"";
    }
    out.push_str("}]");
    Ok(Bytes::from(out))
}

fn nullable<'a>(name: &str, json: Option<&'a str>, first: u8) -> Result<&'a str> {
    match json {
        None | Some("null") => Ok("null"),
        Some(json) => check(name, json, first).map(|()| json),
    }
}

fn headers(
    template: &TaskTemplate,
    task_id: &str,
    argsrepr: &str,
    kwargsrepr: &str,
    options: &TaskOptions,
) -> Result<String> {
    let stamped_headers = nullable("stamped_headers", options.stamped_headers_json.as_deref(), b'[')?;
    let stamps = match nullable("stamps", options.stamps_json.as_deref(), b'{')? {
        "null" => "{}",
        stamps => stamps,
    };
    let custom = match options.headers_json.as_deref() {
        None | Some("null") => Vec::new(),
        Some(json) => object_members(json.as_bytes()).map_err(|error| wrong("headers", &error))?,
    };
    let time_limit = options.time_limit.unwrap_or(template.time_limit);
    let length = 640 + argsrepr.len() + kwargsrepr.len() + stamps.len() + template.task.len();
    let mut headers = Headers { out: String::with_capacity(length), custom };
    headers.string("lang", &template.lang);
    headers.string("task", &template.task);
    headers.string("id", task_id);
    headers.optional_string("shadow", options.shadow.as_deref());
    headers.optional_string("eta", options.eta.as_deref());
    headers.optional_string("expires", options.expires.as_deref());
    headers.optional_string("group", options.group.as_deref());
    headers.write("group_index", |out| match options.group_index {
        Some(index) => push_integer(out, index),
        None => out.push_str("null"),
    });
    headers.write("retries", |out| push_integer(out, u64::from(options.retries)));
    let mut limits = Ok(());
    headers.write("timelimit", |out| limits = push_time_limit(out, time_limit));
    limits?;
    // Celery takes an empty one for none.
    let root_id = options.root_id.as_deref().filter(|id| !id.is_empty());
    headers.string("root_id", root_id.unwrap_or(task_id));
    headers.optional_string("parent_id", options.parent_id.as_deref());
    headers.string("argsrepr", argsrepr);
    headers.string("kwargsrepr", kwargsrepr);
    headers.string("origin", options.origin.as_deref().unwrap_or(&template.origin));
    headers.raw(
        "ignore_result",
        match options.ignore_result.unwrap_or(template.ignore_result) {
            None => "null",
            Some(true) => "true",
            Some(false) => "false",
        },
    );
    headers.write("replaced_task_nesting", |out| push_integer(out, u64::from(options.replaced_task_nesting)));
    headers.raw("stamped_headers", stamped_headers);
    headers.raw("stamps", stamps);
    Ok(headers.finish())
}

/// Writes headers in Celery's order, each with the custom value when there is one.
struct Headers<'a> {
    out: String,
    custom: Vec<(Cow<'a, str>, &'a str)>,
}

impl Headers<'_> {
    fn write(&mut self, name: &str, value: impl FnOnce(&mut String)) {
        self.out.push_str(if self.out.is_empty() { "{\"" } else { ", \"" });
        self.out.push_str(name);
        self.out.push_str("\": ");
        if self.custom.is_empty() {
            return value(&mut self.out);
        }
        match self.custom.iter().rfind(|(key, _)| key == name) {
            Some((_, json)) => {
                self.out.push_str(json);
                self.custom.retain(|(key, _)| key != name);
            }
            None => value(&mut self.out),
        }
    }

    fn raw(&mut self, name: &str, json: &str) {
        self.write(name, |out| out.push_str(json));
    }

    fn string(&mut self, name: &str, value: &str) {
        self.write(name, |out| push_string(out, value));
    }

    fn optional_string(&mut self, name: &str, value: Option<&str>) {
        self.write(name, |out| push_optional_string(out, value));
    }

    fn finish(mut self) -> String {
        for (name, json) in &self.custom {
            push_member(&mut self.out, name, json);
        }
        self.out.push('}');
        self.out
    }
}

/// Appends a member to what is not the first of its object.
fn push_member(out: &mut String, name: &str, json: &str) {
    if !out.is_empty() {
        out.push_str(", ");
    }
    push_string(out, name);
    out.push_str(": ");
    out.push_str(json);
}

fn push_integer(out: &mut String, value: u64) {
    if value < 10 {
        out.push(char::from(b'0' + value as u8));
    } else {
        // Writing to a string cannot fail.
        let _ = write!(out, "{value}");
    }
}

fn push_time_limit(out: &mut String, (hard, soft): (Option<f64>, Option<f64>)) -> Result<()> {
    out.push('[');
    push_seconds(out, hard)?;
    out.push_str(", ");
    push_seconds(out, soft)?;
    out.push(']');
    Ok(())
}

/// Whole numbers as Python prints integers: JavaScript does not tell 300 from 300.0.
fn push_seconds(out: &mut String, seconds: Option<f64>) -> Result<()> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match seconds {
        None => out.push_str("null"),
        Some(seconds) if !seconds.is_finite() => {
            return Err(Error::Encode {
                reason: format!("`time_limit` must be finite seconds, not {seconds}"),
            });
        }
        Some(seconds) if seconds.fract() == 0.0 && seconds.abs() < EXACT => {
            let _ = write!(out, "{}", seconds as i64);
        }
        Some(seconds) => push_float(out, seconds),
    }
    Ok(())
}

fn add_properties(properties: &mut Properties, options: &TaskOptions) -> Result<()> {
    for (name, given) in
        [("argsrepr", &options.argsrepr), ("kwargsrepr", &options.kwargsrepr), ("origin", &options.origin)]
    {
        if let Some(given) = given {
            let mut json = String::with_capacity(given.len() + 2);
            push_string(&mut json, given);
            push_member(&mut properties.other, name, &json);
        }
    }
    let Some(json) = options.properties_json.as_deref().filter(|json| *json != "null") else { return Ok(()) };
    for (name, value) in object_members(json.as_bytes()).map_err(|error| wrong("properties", &error))? {
        match name.as_ref() {
            "correlation_id" => {
                let id = string_value(value).map_err(|error| wrong("properties.correlation_id", &error))?;
                properties.correlation_id = Some(id.into_owned());
            }
            "reply_to" | "delivery_mode" | "priority" | "expiration" => {
                let value = excerpt(value);
                return Err(Error::Encode {
                    reason: format!("`{name}` is an option of its own, not one of `properties` ({value})"),
                });
            }
            "delivery_info" | "delivery_tag" | "body_encoding" => {
                return Err(Error::Encode {
                    reason: format!("the property `{name}` is the transport's own"),
                });
            }
            "argsrepr" if options.argsrepr.is_some() => {}
            "kwargsrepr" if options.kwargsrepr.is_some() => {}
            "origin" if options.origin.is_some() => {}
            _ => push_member(&mut properties.other, &name, value),
        }
    }
    Ok(())
}
