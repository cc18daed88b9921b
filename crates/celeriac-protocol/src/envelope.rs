//! The wrapping that kombu's virtual transports (Redis, SQLAlchemy, memory, filesystem, SQS) put around a
//! message: one JSON text with `body`, `content-encoding`, `content-type`, `headers` and `properties`.

use celeriac_error::Result;

use crate::Message;

/// Wraps `message` for a virtual transport, as `kombu.transport.virtual` does: the body in base64.
///
/// `exchange` and `routing_key` go into `properties.delivery_info`; the delivery tag is the message's own, or a
/// fresh UUID when it has none.
pub fn encode(message: &Message, exchange: &str, routing_key: &str) -> String {
    let _ = (message, exchange, routing_key);
    unimplemented!("protocol")
}

/// Reads what [`encode`] or kombu wrote. Tolerates any order of keys, missing properties, and `body_encoding`
/// absent (the body is then plain text).
///
/// # Errors
/// [`Error::Decode`](celeriac_error::Error::Decode) for anything that is not such an envelope: the caller keeps
/// the original bytes.
pub fn decode(raw: &[u8]) -> Result<Message> {
    let _ = raw;
    unimplemented!("protocol")
}

/// The same envelope marked as handed out before, where kombu looks: `redelivered: true` in the headers and in
/// `properties.delivery_info`. Everything else keeps its bytes. Returns `None` when `raw` is no envelope.
pub fn mark_redelivered(raw: &[u8]) -> Option<Vec<u8>> {
    let _ = raw;
    unimplemented!("protocol")
}
