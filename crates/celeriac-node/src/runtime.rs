//! The tokio runtimes of the process, shared by every JavaScript environment in it.

use std::sync::{Mutex, OnceLock};
use std::{future, io, thread};

use celeriac_broker::sync::lock;
use napi::bindgen_prelude::create_custom_tokio_runtime;
use tokio::runtime::{Builder, Handle};

static HANDLE: OnceLock<Handle> = OnceLock::new();

/// I/O threads, unless `CELERIAC_IO_THREADS` says otherwise. Measured, one is as good as two; the second keeps a slow
/// SQLite transaction from holding up timers.
const IO_THREADS: usize = 2;

#[napi_derive::module_init]
fn start() {
    let threads = std::env::var("CELERIAC_IO_THREADS").ok().and_then(|text| text.parse().ok());
    let runtime = Builder::new_multi_thread()
        .worker_threads(threads.unwrap_or(IO_THREADS).max(1))
        .thread_name("celeriac-io")
        .enable_all()
        .build();
    if let Ok(runtime) = runtime {
        let _ = HANDLE.set(runtime.handle().clone());
        create_custom_tokio_runtime(runtime);
    }
}

/// The runtime's handle, for code that runs on JavaScript's threads.
pub(crate) fn handle() -> napi::Result<Handle> {
    HANDLE.get().cloned().ok_or_else(|| napi::Error::from_reason("the I/O threads could not be started"))
}

/// The runtime of what sends messages, on a thread of its own, which is started by the first use. What writes and what reads the
/// answers wake each other at every message, and between two threads that costs more than the rest of it.
pub(crate) fn sending() -> io::Result<Handle> {
    static SENDING: Mutex<Option<Handle>> = Mutex::new(None);
    let mut sending = lock(&SENDING);
    if let Some(handle) = &*sending {
        return Ok(handle.clone());
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new()
        .name("celeriac-send".to_owned())
        .spawn(move || runtime.block_on(future::pending::<()>()))?;
    *sending = Some(handle.clone());
    Ok(handle)
}
