//! The wrapping that kombu's virtual transports (Redis, `SQLAlchemy`, memory, filesystem, SQS) put around a
//! message: one JSON text with `body`, `content-encoding`, `content-type`, `headers` and `properties`.

use std::borrow::Cow;
use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use celeriac_error::{Error, Result};
use uuid::Uuid;

use crate::json::{first_byte, object_members, push_optional_string, push_string, string_value};
use crate::{DeliveryInfo, Message, Properties};

/// Wraps `message` for a virtual transport, as `kombu.transport.virtual` does: the body in base64.
///
/// `exchange` and `routing_key` go into `properties.delivery_info`; the delivery tag is the message's own, or a
/// fresh UUID when it has none.
pub fn encode(message: &Message, exchange: &str, routing_key: &str) -> String {
    let properties = &message.properties;
    let length = message.body.len() * 4 / 3 + message.headers.len() + properties.other.len() + 512;
    let mut out = String::with_capacity(length);
    out.push_str("{\"body\": \"");
    STANDARD.encode_string(&message.body, &mut out);
    out.push_str("\", \"content-encoding\": ");
    push_string(&mut out, &message.content_encoding);
    out.push_str(", \"content-type\": ");
    push_string(&mut out, &message.content_type);
    out.push_str(", \"headers\": ");
    out.push_str(if message.headers.is_empty() { "{}" } else { &message.headers });
    out.push_str(", \"properties\": {");
    push_properties(&mut out, properties);
    out.push_str("\"delivery_info\": {\"exchange\": ");
    push_string(&mut out, exchange);
    out.push_str(", \"routing_key\": ");
    push_string(&mut out, routing_key);
    if properties.delivery_info.redelivered {
        out.push_str(", \"redelivered\": true");
    }
    // Writing to a string cannot fail.
    let _ = write!(out, "}}, \"priority\": {}", properties.priority.unwrap_or(0));
    out.push_str(", \"body_encoding\": \"base64\", \"delivery_tag\": ");
    if let Some(tag) = &properties.delivery_tag {
        push_string(&mut out, tag);
    } else {
        let mut buffer = Uuid::encode_buffer();
        push_string(&mut out, Uuid::new_v4().hyphenated().encode_lower(&mut buffer));
    }
    out.push_str("}}");
    out
}

/// Those that kombu's producer gives, in its order, each followed by a comma.
fn push_properties(out: &mut String, properties: &Properties) {
    for (name, value) in
        [("\"correlation_id\": ", &properties.correlation_id), ("\"reply_to\": ", &properties.reply_to)]
    {
        if value.is_some() {
            out.push_str(name);
            push_optional_string(out, value.as_deref());
            out.push_str(", ");
        }
    }
    if !properties.other.is_empty() {
        out.push_str(&properties.other);
        out.push_str(", ");
    }
    if let Some(mode) = properties.delivery_mode {
        let _ = write!(out, "\"delivery_mode\": {mode}, ");
    }
    if let Some(expiration) = &properties.expiration {
        out.push_str("\"expiration\": ");
        push_string(out, expiration);
        out.push_str(", ");
    }
}

/// Reads what [`encode`] or kombu wrote. Tolerates any order of keys, missing properties, and `body_encoding`
/// absent (the body is then plain text).
///
/// # Errors
/// [`Error::Decode`] for anything that is not such an envelope: the caller keeps
/// the original bytes.
pub fn decode(raw: &[u8]) -> Result<Message> {
    let mut body = None;
    let mut message = Message { headers: "{}".to_owned(), ..Message::default() };
    let mut encoding = Cow::Borrowed("");
    for (name, value) in object_members(raw)? {
        match name.as_ref() {
            "body" => body = Some(value),
            "content-type" => message.content_type = text(&name, value)?.unwrap_or_default().into_owned(),
            "content-encoding" => {
                message.content_encoding = text(&name, value)?.unwrap_or_default().into_owned();
            }
            // Of two equal keys the last counts, also when it is null, as in Python.
            "headers" if value == "null" => "{}".clone_into(&mut message.headers),
            "properties" if value == "null" => {
                (message.properties, encoding) = (Properties::default(), Cow::Borrowed(""));
            }
            "headers" => value_object(&name, value)?.clone_into(&mut message.headers),
            "properties" => {
                (message.properties, encoding) = properties(value_object(&name, value)?)?;
            }
            _ => {}
        }
    }
    let body = body.ok_or_else(|| wrong("it has no `body`"))?;
    let body = text("body", body)?.ok_or_else(|| wrong("its `body` is null"))?;
    message.body = match encoding.to_ascii_lowercase().as_str() {
        "base64" => from_base64(&body)?,
        "" | "utf-8" => Bytes::from(body.into_owned()),
        other => return Err(wrong(&format!("`body_encoding` is `{other}`; known are base64 and utf-8"))),
    };
    if !message.properties.delivery_info.redelivered {
        message.properties.delivery_info.redelivered = says_redelivered(&message.headers)?;
    }
    Ok(message)
}

fn wrong(reason: &str) -> Error {
    Error::Decode { reason: format!("no message envelope: {reason}") }
}

/// A string, or `None` for null.
fn text<'a>(name: &str, value: &'a str) -> Result<Option<Cow<'a, str>>> {
    match first_byte(value) {
        Some(b'"') => string_value(value).map(Some),
        _ if value == "null" => Ok(None),
        _ => Err(wrong(&format!("`{name}` must be a string"))),
    }
}

fn value_object<'a>(name: &str, value: &'a str) -> Result<&'a str> {
    if value.starts_with('{') { Ok(value) } else { Err(wrong(&format!("`{name}` must be an object"))) }
}

/// Python's decoder passes over line breaks, which MIME-style encoders write.
fn from_base64(body: &str) -> Result<Bytes> {
    let decoded = STANDARD.decode(body.as_bytes()).or_else(|error| {
        if !body.contains(['\n', '\r', ' ', '\t']) {
            return Err(error);
        }
        STANDARD.decode(body.split_ascii_whitespace().collect::<String>())
    });
    decoded.map(Bytes::from).map_err(|error| wrong(&format!("its `body` is not base64: {error}")))
}

fn properties(value: &str) -> Result<(Properties, Cow<'_, str>)> {
    let mut properties = Properties::default();
    let mut encoding = Cow::Borrowed("");
    for (name, value) in object_members(value.as_bytes())? {
        match name.as_ref() {
            "correlation_id" => properties.correlation_id = text(&name, value)?.map(Cow::into_owned),
            "reply_to" => properties.reply_to = text(&name, value)?.map(Cow::into_owned),
            "delivery_mode" => properties.delivery_mode = small_number(&name, value)?,
            "priority" => properties.priority = small_number(&name, value)?,
            "expiration" if !value.starts_with('"') => {
                properties.expiration = (value != "null").then(|| value.to_owned());
            }
            "expiration" => properties.expiration = text(&name, value)?.map(Cow::into_owned),
            "delivery_info" if value.starts_with('{') => properties.delivery_info = delivery_info(value)?,
            "delivery_info" => {}
            // Celery makes UUIDs; other clients number their messages.
            "delivery_tag" if !value.starts_with('"') => {
                properties.delivery_tag = (value != "null").then(|| value.to_owned());
            }
            "delivery_tag" => properties.delivery_tag = text(&name, value)?.map(Cow::into_owned),
            "body_encoding" => encoding = text(&name, value)?.unwrap_or_default(),
            _ => {
                if !properties.other.is_empty() {
                    properties.other.push_str(", ");
                }
                push_string(&mut properties.other, &name);
                properties.other.push_str(": ");
                properties.other.push_str(value);
            }
        }
    }
    Ok((properties, encoding))
}

/// A whole number as kombu takes it: what is out of range counts as the nearest that is in it.
fn small_number(name: &str, value: &str) -> Result<Option<u8>> {
    if value == "null" {
        return Ok(None);
    }
    let number: f64 = value.parse().map_err(|_| wrong(&format!("`{name}` must be a number")))?;
    // The cast saturates, and makes NaN zero.
    Ok(Some(number as u8))
}

fn delivery_info(value: &str) -> Result<DeliveryInfo> {
    let mut info = DeliveryInfo::default();
    for (name, value) in object_members(value.as_bytes())? {
        match name.as_ref() {
            "exchange" => info.exchange = text(&name, value)?.unwrap_or_default().into_owned(),
            "routing_key" => info.routing_key = text(&name, value)?.unwrap_or_default().into_owned(),
            "redelivered" => info.redelivered = value == "true",
            _ => {}
        }
    }
    Ok(info)
}

fn says_redelivered(headers: &str) -> Result<bool> {
    if memchr::memmem::find(headers.as_bytes(), b"redelivered").is_none() {
        return Ok(false);
    }
    let members = object_members(headers.as_bytes())?;
    Ok(members.iter().any(|(name, value)| name == "redelivered" && *value == "true"))
}

/// The same envelope marked as handed out before, where kombu looks: `redelivered: true` in the headers and in
/// `properties.delivery_info`. Everything else keeps its bytes. Returns `None` when `raw` is no envelope.
pub fn mark_redelivered(raw: &[u8]) -> Option<Vec<u8>> {
    const MARK: &str = "true";
    let whole = std::str::from_utf8(raw).ok()?;
    let members = object_members(raw).ok()?;
    members.iter().find(|(name, value)| name == "body" && value.starts_with('"'))?;
    let whole =
        with_member(whole, "headers", |headers| with_member(headers, "redelivered", |_| Some(MARK.into())))?;
    let whole = with_member(&whole, "properties", |properties| {
        with_member(properties, "delivery_info", |info| {
            with_member(info, "redelivered", |_| Some(MARK.into()))
        })
    })?;
    Some(whole.into_bytes())
}

/// An object in which `change` was done to the value of `name`; an object that is not there, or null, is made.
fn with_member(object: &str, name: &str, change: impl FnOnce(&str) -> Option<String>) -> Option<String> {
    let object = if object == "null" { "{}" } else { object };
    let members = object_members(object.as_bytes()).ok()?;
    let mut out = String::with_capacity(object.len() + 64);
    // Of equal keys Python takes the last.
    if let Some((_, value)) = members.iter().rev().find(|(key, _)| key == name) {
        let start = value.as_ptr().addr() - object.as_ptr().addr();
        out.push_str(&object[..start]);
        out.push_str(&change(value)?);
        out.push_str(&object[start + value.len()..]);
    } else {
        let end = object.rfind('}')?;
        out.push_str(&object[..end]);
        if !members.is_empty() {
            out.push_str(", ");
        }
        push_string(&mut out, name);
        out.push_str(": ");
        out.push_str(&change("null")?);
        out.push_str(&object[end..]);
    }
    Some(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_keys_the_last_counts_also_when_it_is_null() {
        let raw = br#"{"body": "", "headers": {"task": "t"}, "properties": {"priority": 3}, "headers": null, "properties": null}"#;
        let message = decode(raw).unwrap();
        assert_eq!((message.headers.as_str(), message.properties.priority), ("{}", None));
    }
}
