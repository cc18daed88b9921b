//! Every built-in transport, by the URL schemes that it answers to.

use std::sync::Arc;
use std::time::Duration;

use celeriac_error::{Error, Result};

use crate::transport::Transport;
use crate::{amqp, memory, redis, sqlite, url};

/// What a transport is opened with, beside its URL.
#[derive(Clone, Debug)]
pub struct TransportOptions {
    /// `broker_transport_options` and the query of the URL, the first winning: one JSON object.
    pub options: serde_json::Map<String, serde_json::Value>,
    /// `broker_connection_timeout`.
    pub connect_timeout: Duration,
}

impl Default for TransportOptions {
    fn default() -> Self {
        Self { options: serde_json::Map::new(), connect_timeout: Duration::from_secs(4) }
    }
}

type Open = fn(&str, TransportOptions) -> Result<Arc<dyn Transport>>;

/// A new transport adds its line.
static TRANSPORTS: &[(&[&str], Open)] = &[
    (amqp::SCHEMES, amqp::open),
    (memory::SCHEMES, memory::open),
    (redis::SCHEMES, redis::open),
    (sqlite::SCHEMES, sqlite::open),
];

/// Opens the transport that the scheme of `url` names. Nothing is connected yet.
///
/// # Errors
/// [`Error::UnknownScheme`] names the known ones; [`Error::InvalidUrl`] says what is wrong with the rest.
pub fn open(broker_url: &str, options: TransportOptions) -> Result<Arc<dyn Transport>> {
    let scheme = url::scheme(broker_url);
    for (schemes, open) in TRANSPORTS {
        if schemes.contains(&scheme) {
            return open(broker_url, options);
        }
    }
    Err(Error::UnknownScheme { role: "broker", scheme: scheme.to_owned(), known: schemes().join(", ") })
}

/// The schemes of all transports.
pub fn schemes() -> Vec<&'static str> {
    TRANSPORTS.iter().flat_map(|(schemes, _)| *schemes).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_scheme_names_the_known_ones() {
        let error = open("carrier-pigeon://roof", TransportOptions::default())
            .err()
            .map(|e| (e.code(), e.to_string()));
        let (code, message) = error.unwrap_or_default();
        assert_eq!(code, "ERR_CELERIAC_UNKNOWN_SCHEME");
        assert!(message.contains("redis"), "{message}");
    }
}
