//! The one place where an error of the core becomes an error of JavaScript.

use std::future::Future;

use celeriac_error::{Error, Result};
use napi::JsError;
use napi::bindgen_prelude::{Env, PromiseRaw, ToNapiValue};

/// Runs `work` on the I/O threads and hands JavaScript a promise of its outcome.
///
/// Exports return this promise and are no `async fn`: the macro behind those knows only the statuses of Node-API, and
/// our `code` would not survive it.
pub(crate) fn promise<T, F>(env: &Env, work: F) -> napi::Result<PromiseRaw<'_, T>>
where
    T: ToNapiValue + Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    env.spawn_future_with_callback(async move { Ok(supervise(work).await) }, |env, outcome| {
        outcome.map_err(|error| to_js(env, &error))
    })
}

/// A panic in a task of ours is an error with a message, not a promise that is never settled.
async fn supervise<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    match tokio::spawn(work).await {
        Ok(outcome) => outcome,
        Err(failure) => Err(Error::Internal(failure.to_string())),
    }
}

/// An error of the core as JavaScript throws it: with its `code`.
pub(crate) fn to_js(env: &Env, error: &Error) -> napi::Error {
    let error = napi::Error::new(error.code(), error.to_string());
    // Rust sees an opaque value from here on, so the status cannot replace the code.
    JsError::from(error).into_unknown(*env).into()
}
