//! Every native result store, by the URL schemes that it answers to.

use std::sync::Arc;
use std::time::Duration;

use celeriac_broker::url;
use celeriac_error::{Error, Result};

use crate::store::ResultStore;
use crate::{memory, redis, rpc, sqlite};

/// What a result store is opened with, beside its URL.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// `result_backend_transport_options` and the query of the URL, the first winning: one JSON object.
    pub options: serde_json::Map<String, serde_json::Value>,
    /// How long connecting may take (`redis_socket_connect_timeout`).
    pub connect_timeout: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { options: serde_json::Map::new(), connect_timeout: Duration::from_secs(4) }
    }
}

type Open = fn(&str, &StoreOptions) -> Result<Arc<dyn ResultStore>>;

/// A new store adds its line.
static STORES: &[(&[&str], Open)] = &[
    (memory::SCHEMES, memory::open),
    (redis::SCHEMES, redis::open),
    (rpc::SCHEMES, rpc::open),
    (sqlite::SCHEMES, sqlite::open),
];

/// Opens the result store that the scheme of `url` names. Nothing is connected yet.
///
/// # Errors
/// [`Error::UnknownScheme`] names the known ones; [`Error::InvalidUrl`] says what is wrong with the rest.
#[allow(clippy::needless_pass_by_value)] // They belong to the store; what a store keeps of them is its affair.
pub fn open(store_url: &str, options: StoreOptions) -> Result<Arc<dyn ResultStore>> {
    let scheme = url::scheme(store_url);
    for (schemes, open) in STORES {
        if schemes.contains(&scheme) {
            return open(store_url, &options);
        }
    }
    Err(Error::UnknownScheme {
        role: "result backend",
        scheme: scheme.to_owned(),
        known: schemes().join(", "),
    })
}

/// The schemes of all stores.
pub fn schemes() -> Vec<&'static str> {
    STORES.iter().flat_map(|(schemes, _)| *schemes).copied().collect()
}
