//! Task messages of other clients: protocol 2, protocol 1, and the hybrid of both.
//!
//! Source of the rules: `celery.worker.consumer.consumer.Consumer.create_task_handler`, `celery.worker.strategy`
//! (`hybrid_to_proto2`, `proto1_to_proto2`), `celery.worker.request.Request`.

use std::borrow::Cow;

use celeriac_error::{Error, Result};

use super::TaskRequest;
use crate::Message;
use crate::json::source::Source;
use crate::json::{array_items, excerpt, first_byte, object_members, push_string, string_value};
use crate::time::parse_datetime;

const JSON: &str = "application/json";

impl TaskRequest {
    /// Reads a message of protocol 2, 1 or the hybrid of both. `accept` holds the content types that may be
    /// decoded (`accept_content` as MIME types).
    ///
    /// Tags inside the arguments are not looked at: [`to_javascript`](crate::json::to_javascript) does that.
    ///
    /// # Errors
    /// - [`Error::ContentDisallowed`]: the content type is not accepted;
    /// - [`Error::Decode`]: the body is not what the content type says;
    /// - [`Error::InvalidTask`]: no task message, or a field of a wrong type.
    pub fn decode(message: &Message, accept: &[String]) -> Result<Self> {
        let headers = match message.headers.as_str() {
            "" => Vec::new(),
            headers => object_members(headers.as_bytes())
                .map_err(|error| Error::Decode { reason: format!("the headers: {error}") })?,
        };
        check_content(message, &headers, accept)?;
        let body = std::str::from_utf8(&message.body)
            .map_err(|error| Error::Decode { reason: format!("the body is not UTF-8: {error}") })?;
        let names_task = headers.iter().any(|(name, _)| name == "task");
        let mut fields = Fields::default();
        let mut request = match first_byte(body) {
            Some(b'[') if names_task => protocol_2(body)?,
            Some(b'{') => protocol_1(body, names_task, &mut fields)?,
            Some(b'[') => return Err(invalid("neither the headers nor the body name a `task`")),
            _ => {
                Source::of(body).validate()?;
                return Err(invalid("the body is neither an array nor an object"));
            }
        };
        let mut custom = String::new();
        for (name, value) in headers {
            if !fields.set(&name, value) && !matches!(name.as_ref(), "compression" | "redelivered" | "meth") {
                custom.push_str(if custom.is_empty() { "{" } else { ", " });
                push_string(&mut custom, &name);
                custom.push_str(": ");
                custom.push_str(value);
            }
        }
        if !custom.is_empty() {
            custom.push('}');
            request.headers_json = Some(custom);
        }
        fields.fill(&mut request)?;
        let properties = &message.properties;
        request.reply_to = properties.reply_to.clone().filter(|queue| !queue.is_empty());
        request.correlation_id.clone_from(&properties.correlation_id);
        request.priority = properties.priority;
        Ok(request)
    }
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::InvalidTask { reason: reason.into() }
}

fn check_content(message: &Message, headers: &[(Cow<'_, str>, &str)], accept: &[String]) -> Result<()> {
    let content_type = message.content_type.as_str();
    if !accept.iter().any(|accepted| accepted == content_type) {
        return Err(Error::ContentDisallowed {
            content_type: content_type.to_owned(),
            accepted: accept.join(", "),
        });
    }
    if content_type != JSON {
        return Err(Error::Decode {
            reason: format!("content type `{content_type}` is not supported; {JSON} is"),
        });
    }
    match headers.iter().rfind(|(name, _)| name == "compression") {
        Some((_, compression)) if *compression != "null" => {
            Err(Error::Decode { reason: format!("compression {} is not supported", excerpt(compression)) })
        }
        _ => Ok(()),
    }
}

/// The body is `[args, kwargs, embed]`.
fn protocol_2(body: &str) -> Result<TaskRequest> {
    let items = array_items(body.as_bytes())?;
    let [args, kwargs, embed] = items.as_slice() else {
        return Err(invalid(format!("the body has {} items instead of [args, kwargs, embed]", items.len())));
    };
    let mut request = TaskRequest {
        args_json: array("args", args)?,
        kwargs_json: object("kwargs", kwargs)?,
        ..TaskRequest::default()
    };
    if *embed == "null" {
        return Ok(request);
    }
    let members = object_members(embed.as_bytes()).map_err(|_| wrong_type("embed", "an object", embed))?;
    for (name, value) in members {
        match name.as_ref() {
            "callbacks" => request.callbacks_json = optional("callbacks", value, array)?,
            "errbacks" => request.errbacks_json = optional("errbacks", value, array)?,
            "chain" => request.chain_json = optional("chain", value, array)?,
            "chord" => request.chord_json = optional("chord", value, object)?,
            _ => {}
        }
    }
    Ok(request)
}

/// The body is an object with everything in it. When the headers name the task (the hybrid) it must have `args`.
fn protocol_1<'a>(body: &'a str, names_task: bool, fields: &mut Fields<'a>) -> Result<TaskRequest> {
    let mut request =
        TaskRequest { args_json: "[]".to_owned(), kwargs_json: "{}".to_owned(), ..TaskRequest::default() };
    let mut has_args = false;
    let mut taskset = None;
    let members = object_members(body.as_bytes())?;
    if !names_task && !members.iter().any(|(name, _)| name == "task") {
        return Err(invalid("neither the headers nor the body name a `task`"));
    }
    for (name, value) in members {
        match name.as_ref() {
            "args" => {
                has_args = true;
                request.args_json = array("args", value)?;
            }
            "kwargs" => request.kwargs_json = object("kwargs", value)?,
            "callbacks" => request.callbacks_json = optional("callbacks", value, array)?,
            "errbacks" => request.errbacks_json = optional("errbacks", value, array)?,
            "chord" => request.chord_json = optional("chord", value, object)?,
            "taskset" => taskset = Some(value),
            // These come in headers only.
            "ignore_result" | "replaced_task_nesting" | "stamped_headers" | "stamps" => {}
            name => {
                fields.set(name, value);
            }
        }
    }
    if names_task && !has_args {
        return Err(invalid("the body has no `args`"));
    }
    if fields.group.is_none_or(|group| group == "null") {
        fields.group = taskset;
    }
    Ok(request)
}

fn wrong_type(name: &str, expected: &str, value: &str) -> Error {
    invalid(format!("`{name}` must be {expected}, not {}", excerpt(value)))
}

fn array(name: &str, value: &str) -> Result<String> {
    if value.starts_with('[') { Ok(value.to_owned()) } else { Err(wrong_type(name, "an array", value)) }
}

fn object(name: &str, value: &str) -> Result<String> {
    if value.starts_with('{') { Ok(value.to_owned()) } else { Err(wrong_type(name, "an object", value)) }
}

fn optional(name: &str, value: &str, check: fn(&str, &str) -> Result<String>) -> Result<Option<String>> {
    if value == "null" { Ok(None) } else { check(name, value).map(Some) }
}

/// The protocol's fields as they stand in the message.
#[derive(Default)]
struct Fields<'a> {
    lang: Option<&'a str>,
    task: Option<&'a str>,
    id: Option<&'a str>,
    shadow: Option<&'a str>,
    eta: Option<&'a str>,
    expires: Option<&'a str>,
    group: Option<&'a str>,
    group_index: Option<&'a str>,
    retries: Option<&'a str>,
    timelimit: Option<&'a str>,
    root_id: Option<&'a str>,
    parent_id: Option<&'a str>,
    argsrepr: Option<&'a str>,
    kwargsrepr: Option<&'a str>,
    origin: Option<&'a str>,
    ignore_result: Option<&'a str>,
    replaced_task_nesting: Option<&'a str>,
    stamped_headers: Option<&'a str>,
    stamps: Option<&'a str>,
}

impl<'a> Fields<'a> {
    /// False when there is no such field.
    fn set(&mut self, name: &str, value: &'a str) -> bool {
        let field = match name {
            "lang" => &mut self.lang,
            "task" => &mut self.task,
            "id" => &mut self.id,
            "shadow" => &mut self.shadow,
            "eta" => &mut self.eta,
            "expires" => &mut self.expires,
            "group" => &mut self.group,
            "group_index" => &mut self.group_index,
            "retries" => &mut self.retries,
            "timelimit" => &mut self.timelimit,
            "root_id" => &mut self.root_id,
            "parent_id" => &mut self.parent_id,
            "argsrepr" => &mut self.argsrepr,
            "kwargsrepr" => &mut self.kwargsrepr,
            "origin" => &mut self.origin,
            "ignore_result" => &mut self.ignore_result,
            "replaced_task_nesting" => &mut self.replaced_task_nesting,
            "stamped_headers" => &mut self.stamped_headers,
            "stamps" => &mut self.stamps,
            _ => return false,
        };
        *field = Some(value);
        true
    }

    fn fill(&self, request: &mut TaskRequest) -> Result<()> {
        request.task = required("task", self.task)?;
        request.id = required("id", self.id)?;
        request.root_id = string("root_id", self.root_id)?
            .filter(|id| !id.is_empty())
            .unwrap_or_else(|| request.id.clone());
        request.parent_id = string("parent_id", self.parent_id)?;
        request.group = string("group", self.group)?;
        request.group_index = integer("group_index", self.group_index)?;
        request.retries = integer("retries", self.retries)?.unwrap_or_default();
        request.replaced_task_nesting =
            integer("replaced_task_nesting", self.replaced_task_nesting)?.unwrap_or_default();
        request.eta = moment("eta", self.eta)?;
        request.expires = moment("expires", self.expires)?;
        request.time_limit = time_limit(self.timelimit)?;
        request.ignore_result = boolean("ignore_result", self.ignore_result)?;
        request.stamped_headers_json = present(self.stamped_headers, "stamped_headers", array)?;
        request.stamps_json = present(self.stamps, "stamps", object)?.filter(|stamps| stamps != "{}");
        // What is only ever shown is not worth a refusal.
        request.shadow = shown(self.shadow);
        request.lang = shown(self.lang);
        request.origin = shown(self.origin);
        request.argsrepr = shown(self.argsrepr);
        request.kwargsrepr = shown(self.kwargsrepr);
        Ok(())
    }
}

fn present(
    value: Option<&str>,
    name: &str,
    check: fn(&str, &str) -> Result<String>,
) -> Result<Option<String>> {
    value.map_or(Ok(None), |value| optional(name, value, check))
}

fn required(name: &str, value: Option<&str>) -> Result<String> {
    let Some(value) = value else { return Err(invalid(format!("there is no `{name}`"))) };
    string(name, Some(value))?
        .filter(|text| !text.is_empty())
        .ok_or_else(|| wrong_type(name, "a string", value))
}

fn string(name: &str, value: Option<&str>) -> Result<Option<String>> {
    match value {
        None | Some("null") => Ok(None),
        Some(value) => match string_value(value) {
            Ok(text) => Ok(Some(text.into_owned())),
            Err(_) => Err(wrong_type(name, "a string", value)),
        },
    }
}

fn shown(value: Option<&str>) -> Option<String> {
    value.and_then(|value| string_value(value).ok()).map(Cow::into_owned)
}

fn integer<T: std::str::FromStr>(name: &str, value: Option<&str>) -> Result<Option<T>> {
    match value {
        None | Some("null") => Ok(None),
        Some(value) => {
            value.parse().map(Some).map_err(|_| wrong_type(name, "a whole number, not negative", value))
        }
    }
}

fn boolean(name: &str, value: Option<&str>) -> Result<Option<bool>> {
    match value {
        None | Some("null") => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(value) => Err(wrong_type(name, "true, false or null", value)),
    }
}

/// Celery takes an empty text for none.
fn moment(name: &str, value: Option<&str>) -> Result<Option<String>> {
    let Some(text) = string(name, value)?.filter(|text| !text.is_empty()) else { return Ok(None) };
    match parse_datetime(&text) {
        Ok(_) => Ok(Some(text)),
        Err(_) => Err(wrong_type(name, "an ISO 8601 date and time", &text)),
    }
}

fn time_limit(value: Option<&str>) -> Result<(Option<f64>, Option<f64>)> {
    let Some(value) = value.filter(|value| *value != "null") else { return Ok((None, None)) };
    let wrong = || wrong_type("timelimit", "[hard, soft] in seconds", value);
    let seconds = |json: &str| match json {
        "null" => Ok(None),
        _ => json.parse::<f64>().ok().filter(|seconds| seconds.is_finite()).map(Some).ok_or_else(wrong),
    };
    match array_items(value.as_bytes()).as_deref() {
        Ok([hard, soft]) => Ok((seconds(hard)?, seconds(soft)?)),
        _ => Err(wrong()),
    }
}
