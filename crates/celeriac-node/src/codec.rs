//! What JavaScript asks of the core without a connection.

use celeriac_protocol::repr;
use napi::bindgen_prelude::Env;
use napi_derive::napi;

use crate::error::to_js;

/// `saferepr` of a JSON text in Python's sense: how Celery prints a result in a line of its log.
#[napi(catch_unwind)]
pub fn python_repr(env: &Env, json: String, tuple: bool, max_length: u32) -> napi::Result<String> {
    repr::saferepr(json.as_bytes(), tuple, max_length as usize, Some(repr::MAX_LEVELS))
        .map_err(|error| to_js(env, &error))
}

/// The URL with its password as `**`.
#[napi(catch_unwind)]
pub fn mask_url(url: String) -> String {
    celeriac_broker::url::without_password(&url)
}

/// The URL schemes of all transports.
#[napi(catch_unwind)]
pub fn broker_schemes() -> Vec<&'static str> {
    celeriac_broker::schemes()
}

/// The URL schemes of all native result stores.
#[napi(catch_unwind)]
pub fn result_schemes() -> Vec<&'static str> {
    celeriac_result::schemes()
}

/// Every code that the core's errors can have.
#[napi(catch_unwind)]
pub fn error_codes() -> Vec<&'static str> {
    celeriac_error::CODES.to_vec()
}

/// The version of the core; the package's must be the same.
#[napi(catch_unwind)]
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}
