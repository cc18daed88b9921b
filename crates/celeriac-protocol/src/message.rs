//! A message as every transport carries it, before and after the transport's own wrapping.

use bytes::Bytes;

/// A kombu message: a body, how to read it, headers and properties.
///
/// `headers` stays text because most of it is only ever handed on: a dictionary in Python's JSON (which knows
/// `NaN` and integers of any size), as it arrived or as it will be sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// The body, after the transport's `body_encoding` (base64 on virtual transports) was undone.
    pub body: Bytes,
    /// MIME type of the body, such as `application/json`.
    pub content_type: String,
    /// Character set of the body: `utf-8` or `binary`.
    pub content_encoding: String,
    /// The headers: text of one JSON object.
    pub headers: String,
    /// The AMQP properties, or what stands for them on a virtual transport.
    pub properties: Properties,
}

/// The AMQP basic properties, and the two that kombu's virtual transports add.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Properties {
    /// The task id.
    pub correlation_id: Option<String>,
    /// The queue that a reply goes to.
    pub reply_to: Option<String>,
    /// 2 persistent, 1 transient.
    pub delivery_mode: Option<u8>,
    /// 0 to 9, or up to 255 on `RabbitMQ`.
    pub priority: Option<u8>,
    /// Milliseconds as text, as AMQP has it.
    pub expiration: Option<String>,
    /// Where the message was sent. Virtual transports only; AMQP has it in the frame.
    pub delivery_info: DeliveryInfo,
    /// The id under which kombu keeps it unacked. Virtual transports only.
    pub delivery_tag: Option<String>,
    /// Any further properties: the inside of a JSON object without its braces, or empty.
    pub other: String,
}

/// Where a message was sent, and whether the broker handed it out before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeliveryInfo {
    /// The exchange; empty for the default one.
    pub exchange: String,
    /// The routing key; the queue's name on the default exchange.
    pub routing_key: String,
    /// True once a broker or a restorer has put it back.
    pub redelivered: bool,
}
