//! The result store as JavaScript sees it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use celeriac_broker::sync::lock;
use celeriac_protocol::{result_meta, time};
use celeriac_result::{ResultStore, StoreOptions, StoreRequest};
use napi::bindgen_prelude::{Env, Function, PromiseRaw};
use napi_derive::napi;
use tokio::task::AbortHandle;

use crate::broker::{duration, object};
use crate::error::{promise, to_js};
use crate::report::{Report, Reporter};
use crate::runtime;

/// How a result store is opened.
#[napi(object)]
pub struct NativeResultsOptions {
    pub url: String,
    /// JSON object text: `result_backend_transport_options` and the `redis_*` settings
    pub options: String,
    pub connect_timeout_ms: f64,
}

type Waits = Arc<Mutex<HashMap<u32, AbortHandle>>>;

/// A result store.
#[napi]
pub struct NativeResults {
    pub(crate) store: Arc<dyn ResultStore>,
    reporter: Reporter,
    waits: Waits,
}

#[napi]
impl NativeResults {
    /// Nothing is connected yet. `report` is called with the documents of finished waits, and never keeps the process
    /// alive.
    #[napi(
        factory,
        catch_unwind,
        ts_args_type = "options: NativeResultsOptions, report: (runs: number[], documents: string[] | null, failures: NativeFailure[] | null) => void"
    )]
    pub fn open(
        env: &Env,
        options: NativeResultsOptions,
        report: Function<'_, Report, ()>,
    ) -> napi::Result<Self> {
        let reporter = Reporter::new(&report)?;
        let open = || {
            celeriac_result::open(
                &options.url,
                StoreOptions {
                    options: object("result_backend_transport_options", &options.options)?,
                    connect_timeout: duration(options.connect_timeout_ms),
                },
            )
        };
        let store = open().map_err(|error| to_js(env, &error))?;
        Ok(Self { store, reporter, waits: Waits::default() })
    }

    /// Resolves when the server has answered.
    #[napi(catch_unwind)]
    pub fn connect<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        let store = Arc::clone(&self.store);
        promise(env, async move { store.connect().await })
    }

    /// Waits until the task is ready; `call` comes back in a report with its document.
    #[napi(catch_unwind)]
    pub fn wait(&self, call: u32, task_id: String) -> napi::Result<()> {
        let store = Arc::clone(&self.store);
        let reporter = self.reporter.clone();
        let waits = Arc::clone(&self.waits);
        let handle = runtime::handle()?;
        let mut entries = lock(&self.waits);
        let task = handle.spawn(async move {
            let outcome = store.wait(&task_id).await.and_then(|meta| result_meta::to_javascript(&meta));
            lock(&waits).remove(&call);
            match outcome {
                Ok(document) => reporter.document(call, document),
                Err(error) => reporter.finished(Vec::new(), vec![(call, Arc::new(error))]),
            }
        });
        entries.insert(call, task.abort_handle());
        Ok(())
    }

    /// Ends a wait without a report.
    #[napi(catch_unwind)]
    pub fn cancel_wait(&self, call: u32) {
        let wait = lock(&self.waits).remove(&call);
        if let Some(wait) = wait {
            wait.abort();
        }
    }

    /// The documents of these ids in their order, null where nothing is stored.
    #[napi(catch_unwind, ts_return_type = "Promise<Array<string | null>>")]
    pub fn get<'env>(
        &self,
        env: &'env Env,
        task_ids: Vec<String>,
    ) -> napi::Result<PromiseRaw<'env, Vec<Option<String>>>> {
        let store = Arc::clone(&self.store);
        promise(env, async move {
            let ids: Vec<&str> = task_ids.iter().map(String::as_str).collect();
            let metas = store.get(&ids).await?;
            metas.iter().map(|meta| meta.as_ref().map(result_meta::to_javascript).transpose()).collect()
        })
    }

    /// Stores a document: JSON in Python's sense. `expires_ms` null keeps it for ever.
    #[napi(catch_unwind)]
    pub fn store<'env>(
        &self,
        env: &'env Env,
        meta: String,
        #[napi(ts_arg_type = "number | null")] expires_ms: Option<f64>,
    ) -> napi::Result<PromiseRaw<'env, ()>> {
        let store = Arc::clone(&self.store);
        promise(env, async move {
            let mut meta = result_meta::decode(meta.as_bytes())?;
            if meta.date_done.is_none() && result_meta::is_ready(&meta.status) {
                meta.date_done = Some(time::format_timestamp(jiff::Timestamp::now()));
            }
            let request = StoreRequest { meta, expires: expires_ms.map(duration), ..StoreRequest::default() };
            store.store(&[request]).await.into_iter().collect()
        })
    }

    /// Removes the documents of these ids.
    #[napi(catch_unwind)]
    pub fn forget<'env>(&self, env: &'env Env, task_ids: Vec<String>) -> napi::Result<PromiseRaw<'env, ()>> {
        let store = Arc::clone(&self.store);
        promise(env, async move {
            let ids: Vec<&str> = task_ids.iter().map(String::as_str).collect();
            store.forget(&ids).await
        })
    }

    /// Removes what is older than `expires_ms`, where the store does not do so by itself; says how many.
    #[napi(catch_unwind)]
    pub fn cleanup<'env>(&self, env: &'env Env, expires_ms: f64) -> napi::Result<PromiseRaw<'env, f64>> {
        let store = Arc::clone(&self.store);
        promise(env, async move { store.cleanup(duration(expires_ms)).await.map(|count| count as f64) })
    }

    /// Ends every wait with an error, then closes.
    #[napi(catch_unwind)]
    pub fn close<'env>(&self, env: &'env Env) -> napi::Result<PromiseRaw<'env, ()>> {
        let store = Arc::clone(&self.store);
        promise(env, async move {
            store.close().await;
            Ok(())
        })
    }
}
