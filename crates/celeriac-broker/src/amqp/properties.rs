//! Messages as AMQP has them: the body as it is, the properties in the header frame, the headers as a table.
//!
//! Source of the rules: `kombu.transport.pyamqp.Channel.prepare_message`.

use std::fmt::Write as _;

use bytes::Bytes;
use celeriac_error::{Error, Result};
use celeriac_protocol::{DeliveryInfo, Message, Properties, json};
use lapin::BasicProperties;
use lapin::types::ShortString;

use super::table::{self, from_json, short, to_json, to_json_without};

/// What goes into the header frame.
///
/// # Errors
/// [`Error::Encode`](celeriac_error::Error::Encode) for what AMQP has no form for.
pub(super) fn to_amqp(message: &Message) -> Result<BasicProperties> {
    let given = &message.properties;
    let mut properties = BasicProperties::default()
        .with_headers(from_json(&message.headers)?)
        // kombu gives it always.
        .with_priority(given.priority.unwrap_or(0));
    if !message.content_type.is_empty() {
        properties = properties.with_content_type(short(message.content_type.as_str())?);
    }
    if !message.content_encoding.is_empty() {
        properties = properties.with_content_encoding(short(message.content_encoding.as_str())?);
    }
    if let Some(mode) = given.delivery_mode {
        properties = properties.with_delivery_mode(mode);
    }
    if let Some(id) = &given.correlation_id {
        properties = properties.with_correlation_id(short(id.as_str())?);
    }
    if let Some(queue) = &given.reply_to {
        properties = properties.with_reply_to(short(queue.as_str())?);
    }
    if let Some(milliseconds) = &given.expiration {
        properties = expiring(properties, milliseconds)?;
    }
    if given.other.is_empty() { Ok(properties) } else { others(properties, &given.other) }
}

/// The broker ends the channel for everybody on it over an expiration that it does not understand, or that is beyond its
/// longest, some 50 days; what lives longer expires by its header `expires` alone.
fn expiring(properties: BasicProperties, milliseconds: &str) -> Result<BasicProperties> {
    if milliseconds.is_empty() || !milliseconds.bytes().all(|byte| byte.is_ascii_digit()) {
        let reason = format!("the expiration must be a whole number of milliseconds, not `{milliseconds}`");
        return Err(Error::Encode { reason });
    }
    Ok(match milliseconds.parse::<u32>() {
        Ok(_) => properties.with_expiration(short(milliseconds)?),
        Err(_) => properties,
    })
}

/// How many bytes the properties have on the wire, with the flags that say which are there.
pub(super) fn wire_size(properties: &BasicProperties) -> usize {
    let texts = [
        properties.content_type(),
        properties.content_encoding(),
        properties.correlation_id(),
        properties.reply_to(),
        properties.expiration(),
        properties.message_id(),
        properties.kind(),
        properties.user_id(),
        properties.app_id(),
        properties.cluster_id(),
    ];
    let texts: usize = texts.into_iter().flatten().map(|text| 1 + text.as_str().len()).sum();
    let small =
        usize::from(properties.delivery_mode().is_some()) + usize::from(properties.priority().is_some());
    let timestamp = if properties.timestamp().is_some() { 8 } else { 0 };
    2 + texts + small + timestamp + properties.headers().as_ref().map_or(0, table::wire_size)
}

/// The rarer ones; as in kombu, names that AMQP does not have are left out.
fn others(mut properties: BasicProperties, other: &str) -> Result<BasicProperties> {
    let object = format!("{{{other}}}");
    for (name, value) in json::object_members(object.as_bytes())? {
        if name == "timestamp" {
            if let Ok(seconds) = value.parse() {
                properties = properties.with_timestamp(seconds);
            }
            continue;
        }
        let Ok(text) = json::string_value(value) else { continue };
        let text = || short(text.as_ref());
        properties = match name.as_ref() {
            "message_id" => properties.with_message_id(text()?),
            "type" => properties.with_type(text()?),
            "user_id" => properties.with_user_id(text()?),
            "app_id" => properties.with_app_id(text()?),
            "cluster_id" => properties.with_cluster_id(text()?),
            _ => properties,
        };
    }
    Ok(properties)
}

/// Where a message came from.
pub(super) struct Origin<'a> {
    pub(super) exchange: &'a str,
    pub(super) routing_key: &'a str,
    pub(super) redelivered: bool,
}

/// What the header frame and the body say. `left_out` is a header that is ours.
pub(super) fn from_amqp(
    properties: &BasicProperties,
    body: Bytes,
    origin: &Origin<'_>,
    left_out: Option<&str>,
) -> Message {
    let text = |value: &Option<ShortString>| value.as_ref().map(|text| text.as_str().to_owned());
    let headers = match (properties.headers(), left_out) {
        (None, _) => "{}".to_owned(),
        (Some(table), None) => to_json(table),
        (Some(table), Some(name)) => to_json_without(table, name),
    };
    let mut other = String::new();
    for (name, value) in [
        ("message_id", properties.message_id()),
        ("type", properties.kind()),
        ("user_id", properties.user_id()),
        ("app_id", properties.app_id()),
        ("cluster_id", properties.cluster_id()),
    ] {
        if let Some(value) = value {
            push_name(&mut other, name);
            json::push_string(&mut other, value.as_str());
        }
    }
    if let Some(seconds) = properties.timestamp() {
        push_name(&mut other, "timestamp");
        // Writing to a string cannot fail.
        _ = write!(other, "{seconds}");
    }
    Message {
        body,
        content_type: text(properties.content_type()).unwrap_or_default(),
        content_encoding: text(properties.content_encoding()).unwrap_or_default(),
        headers,
        properties: Properties {
            correlation_id: text(properties.correlation_id()),
            reply_to: text(properties.reply_to()),
            delivery_mode: *properties.delivery_mode(),
            priority: *properties.priority(),
            expiration: text(properties.expiration()),
            delivery_info: DeliveryInfo {
                exchange: origin.exchange.to_owned(),
                routing_key: origin.routing_key.to_owned(),
                redelivered: origin.redelivered,
            },
            // In AMQP it names a delivery, not a message. Empty, so that an envelope made of the message is always the same.
            delivery_tag: Some(String::new()),
            other,
        },
    }
}

fn push_name(out: &mut String, name: &str) {
    if !out.is_empty() {
        out.push_str(", ");
    }
    _ = write!(out, "\"{name}\": ");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_come_back_as_they_were() {
        let message = Message {
            body: Bytes::from_static(b"\xff"),
            content_type: "application/json".to_owned(),
            content_encoding: "utf-8".to_owned(),
            headers: r#"{"id": "1"}"#.to_owned(),
            properties: Properties {
                correlation_id: Some("c".to_owned()),
                reply_to: Some("r".to_owned()),
                delivery_mode: Some(2),
                priority: Some(5),
                expiration: Some("60000".to_owned()),
                delivery_info: DeliveryInfo {
                    exchange: "e".to_owned(),
                    routing_key: "k".to_owned(),
                    redelivered: true,
                },
                delivery_tag: Some(String::new()),
                other: r#""message_id": "m", "type": "t", "timestamp": 7"#.to_owned(),
            },
        };
        let origin = Origin { exchange: "e", routing_key: "k", redelivered: true };
        assert_eq!(from_amqp(&to_amqp(&message).unwrap(), message.body.clone(), &origin, None), message);
    }

    #[test]
    fn the_priority_is_always_there_and_names_of_virtual_transports_are_not() {
        let mut message = Message::default();
        message.properties.other = r#""body_encoding": "base64", "user_id": "me""#.to_owned();
        let properties = to_amqp(&message).unwrap();
        assert_eq!(*properties.priority(), Some(0));
        assert_eq!(properties.user_id().as_ref().map(ShortString::as_str), Some("me"));
        assert_eq!(*properties.content_type(), None);
    }

    #[test]
    fn an_expiration_that_ends_the_channel_is_not_sent() {
        let with = |expiration: &str| {
            let mut message = Message::default();
            message.properties.expiration = Some(expiration.to_owned());
            to_amqp(&message).map(|properties| properties.expiration().as_ref().map(ToString::to_string))
        };
        assert_eq!(with("4294967295").unwrap().as_deref(), Some("4294967295"));
        assert_eq!(with("5184000000").unwrap(), None);
        for wrong in ["", "-1", "1.5", "soon"] {
            assert_eq!(with(wrong).unwrap_err().code(), "ERR_CELERIAC_ENCODE", "{wrong}");
        }
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let mut message = Message::default();
        message.properties.correlation_id = Some("c".repeat(256));
        assert_eq!(to_amqp(&message).unwrap_err().code(), "ERR_CELERIAC_ENCODE");
    }
}
