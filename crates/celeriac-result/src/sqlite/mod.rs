//! `db+sqlite:///FILE`: Celery's SQLAlchemy tables in an SQLite file, for several processes without a server.
//!
//! Celery's tables have no place for `group_id` and `parent_id`, so these do not come back.
//!
//! Source of the rules: `celery.backends.database.DatabaseBackend`.

mod location;
mod rows;
mod session;
mod thread;
mod watch;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use celeriac_broker::sync::lock;
use celeriac_error::{Error, Result};
use celeriac_protocol::TaskMeta;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::oneshot;

use self::location::Location;
use self::thread::{Job, Thread};
use crate::registry::StoreOptions;
use crate::store::{ResultStore, StoreRequest};
use crate::waiters::{WHAT, Waiters};

pub(crate) const SCHEMES: &[&str] = &["db+sqlite", "database+sqlite"];

/// Opens a store; the file is opened with the first call.
pub(crate) fn open(url: &str, options: &StoreOptions) -> Result<Arc<dyn ResultStore>> {
    let location = Arc::new(Location::parse(url, &options.options)?);
    let waiters = Arc::new(Waiters::tracking());
    let woken = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = channel();
    let thread = Thread::new(
        Arc::clone(&location),
        (sender.clone(), receiver),
        Arc::clone(&waiters),
        Arc::clone(&woken),
    );
    std::thread::Builder::new()
        .name("celeriac-results".to_owned())
        .spawn(move || thread.run())
        .map_err(|error| Error::Internal(format!("no thread for the SQLite result store: {error}")))?;
    Ok(Arc::new(SqliteStore { location, waiters, woken, sender: Mutex::new(sender) }))
}

struct SqliteStore {
    location: Arc<Location>,
    waiters: Arc<Waiters>,
    woken: Arc<AtomicBool>,
    sender: Mutex<Sender<Job>>,
}

#[async_trait]
impl ResultStore for SqliteStore {
    fn url(&self) -> &str {
        &self.location.url
    }

    async fn connect(&self) -> Result<()> {
        self.ask(Job::Connect).await?
    }

    async fn store(&self, batch: &[StoreRequest]) -> Vec<Result<()>> {
        // The tables have no column for the time when a document goes: the cleanup is by the date of its end.
        let metas = batch.iter().map(|request| request.meta.clone()).collect();
        match self.ask(|reply| Job::Store(metas, reply)).await {
            Ok(results) => results,
            Err(error) => batch.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn get(&self, task_ids: &[&str]) -> Result<Vec<Option<TaskMeta>>> {
        let ids = task_ids.iter().map(|id| (*id).to_owned()).collect();
        self.ask(|reply| Job::Get(ids, reply)).await?
    }

    async fn wait(&self, task_id: &str) -> Result<TaskMeta> {
        let wait = self.waiters.begin(task_id)?;
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.send(Job::WaitBegan)?;
        }
        wait.finish().await
    }

    fn waiting(&self) -> usize {
        self.waiters.len()
    }

    async fn forget(&self, task_ids: &[&str]) -> Result<()> {
        let ids = task_ids.iter().map(|id| (*id).to_owned()).collect();
        self.ask(|reply| Job::Forget(ids, reply)).await?
    }

    async fn cleanup(&self, expires: Duration) -> Result<u64> {
        let age = SignedDuration::try_from(expires).unwrap_or(SignedDuration::MAX);
        let before = Timestamp::now().checked_sub(age).unwrap_or(Timestamp::MIN);
        self.ask(|reply| Job::Cleanup(rows::sql_time(before), reply)).await?
    }

    async fn close(&self) {
        if self.waiters.check_open().is_err() {
            return;
        }
        self.waiters.close();
        let (reply, ended) = oneshot::channel();
        if self.send(Job::End(Some(reply))).is_ok() {
            let _ = ended.await;
        }
    }
}

impl SqliteStore {
    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Result<T> {
        self.waiters.check_open()?;
        let (reply, answer) = oneshot::channel();
        self.send(job(reply))?;
        answer.await.map_err(|_| Error::Closed(WHAT))
    }

    fn send(&self, job: Job) -> Result<()> {
        let sender = lock(&self.sender);
        sender.send(job).map_err(|_| Error::Closed(WHAT))
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        // The thread may have ended with `close`.
        let _ = self.send(Job::End(None));
    }
}
