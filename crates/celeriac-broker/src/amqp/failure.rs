//! What lapin's errors mean.

use celeriac_error::Error;
use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};

/// An error of a call on a connection that was open.
pub(super) fn explain(url: &str, error: &lapin::Error) -> Error {
    let unavailable = |reason: String| Error::BrokerUnavailable { url: url.to_owned(), reason };
    match error.kind() {
        ErrorKind::ProtocolError(said) => match said.kind() {
            AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED | AMQPHardError::INTERNALERROR) => {
                unavailable(said.get_message().to_string())
            }
            _ => refused(url, said.get_message().as_str()),
        },
        ErrorKind::SerialisationError(_) => Error::Encode { reason: error.to_string() },
        ErrorKind::ChannelsLimitReached => refused(url, "it allows no more channels on this connection"),
        _ => unavailable(reason(error)),
    }
}

/// An error while connecting.
pub(super) fn explain_connecting(url: &str, error: &lapin::Error) -> Error {
    match error.kind() {
        ErrorKind::ProtocolError(said) => match said.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
                Error::AuthenticationFailed { url: url.to_owned(), reason: said.get_message().to_string() }
            }
            _ => explain(url, error),
        },
        ErrorKind::IOError(io) if is_tls(io) => refused(url, &format!("no TLS connection: {io}")),
        _ => explain(url, error),
    }
}

/// Whether an error is about the encryption: a certificate does not become right by waiting.
fn is_tls(error: &std::io::Error) -> bool {
    let mut source = error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static));
    while let Some(inner) = source {
        if inner.is::<rustls::Error>() {
            return true;
        }
        source = inner.source();
    }
    false
}

fn refused(url: &str, reason: &str) -> Error {
    Error::Refused { url: url.to_owned(), reason: reason.to_owned() }
}

fn reason(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::IOError(io) => io.to_string(),
        ErrorKind::InvalidChannelState(..) | ErrorKind::InvalidConnectionState(_) => {
            "the connection was lost".to_owned()
        }
        _ => error.to_string(),
    }
}

/// What the broker said when it closed the channel, and why.
pub(super) fn soft(error: &lapin::Error) -> Option<(AMQPSoftError, &str)> {
    match error.kind() {
        ErrorKind::ProtocolError(said) => match said.kind() {
            AMQPErrorKind::Soft(kind) => Some((kind.clone(), said.get_message().as_str())),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    }
}
