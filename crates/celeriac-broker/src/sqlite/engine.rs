//! The handle of the thread that owns the file, and what it is asked for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use celeriac_error::{Error, Result};
use tokio::sync::oneshot;

use super::consumer::ConsumerState;
use super::location::Location;
use super::session::Session;
use super::subscription::Listener;
use super::thread::Thread;
use crate::sync::lock;

/// One piece of work on the tables. It may run again after a rollback, so it must not change anything else.
pub(super) trait Job: Send {
    /// Whether it needs a transaction that writes.
    fn writes(&self) -> bool;
    /// Does it.
    fn run(&mut self, session: &mut Session) -> rusqlite::Result<()>;
    /// Called once, when the outcome stands.
    fn finish(self: Box<Self>, outcome: Result<()>);
}

pub(super) enum Request {
    Do(Box<dyn Job>),
    /// A receive waits: its state says for how many.
    Claim(Arc<ConsumerState>),
    /// To be renewed from now on.
    Renew(Arc<ConsumerState>),
    /// To be renewed and fed from now on.
    Feed(Arc<Listener>),
    /// Somebody wrote to the file, perhaps we.
    FilesChanged,
    Shutdown(Option<oneshot::Sender<()>>),
}

/// The handle of the thread.
pub(super) struct Engine {
    pub(super) location: Arc<Location>,
    sender: Mutex<Sender<Request>>,
    closed: AtomicBool,
}

struct Call<T, W, A> {
    writes: bool,
    work: W,
    value: Option<T>,
    after: A,
    reply: oneshot::Sender<Result<T>>,
}

impl<T, W, A> Job for Call<T, W, A>
where
    T: Send,
    W: FnMut(&mut Session) -> rusqlite::Result<T> + Send,
    A: FnOnce(&T) + Send,
{
    fn writes(&self) -> bool {
        self.writes
    }

    fn run(&mut self, session: &mut Session) -> rusqlite::Result<()> {
        self.value = Some((self.work)(session)?);
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<()>) {
        let Self { value, after, reply, .. } = *self;
        let outcome = outcome.and_then(|()| {
            let value = value.ok_or_else(|| Error::Internal("a job ended without having run".to_owned()))?;
            after(&value);
            Ok(value)
        });
        // Whoever asked may have given up.
        let _ = reply.send(outcome);
    }
}

impl Engine {
    pub(super) fn start(location: Location) -> Result<Arc<Self>> {
        let (sender, receiver) = channel();
        let location = Arc::new(location);
        let thread = Thread::new(Arc::clone(&location), sender.clone(), receiver);
        std::thread::Builder::new()
            .name("celeriac-sqlite".to_owned())
            .spawn(move || thread.run())
            .map_err(|error| Error::Internal(format!("no thread for the SQLite broker: {error}")))?;
        Ok(Arc::new(Self { location, sender: Mutex::new(sender), closed: AtomicBool::new(false) }))
    }

    /// Hands a request to the thread.
    pub(super) fn send(&self, request: Request) -> Result<()> {
        let closed = || Error::Closed("broker connection");
        if self.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        let sender = lock(&self.sender);
        sender.send(request).map_err(|_| closed())
    }

    /// Reads; what was written by earlier requests is there.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut Session) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.call(false, work, |_| ()).await
    }

    /// Writes; it is committed when this resolves.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut Session) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.call(true, work, |_| ()).await
    }

    /// Writes, and runs `after` once it is committed, whether or not the caller still waits.
    pub(super) async fn write_then<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut Session) -> rusqlite::Result<T> + Send + 'static,
        after: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T> {
        self.call(true, work, after).await
    }

    async fn call<T: Send + 'static>(
        &self,
        writes: bool,
        work: impl FnMut(&mut Session) -> rusqlite::Result<T> + Send + 'static,
        after: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Do(Box::new(Call { writes, work, value: None, after, reply })))?;
        answer.await.unwrap_or(Err(Error::Closed("broker connection")))
    }

    /// Writes without anybody waiting for it.
    pub(super) fn write_unattended(
        &self,
        work: impl FnMut(&mut Session) -> rusqlite::Result<()> + Send + 'static,
    ) {
        let (reply, _) = oneshot::channel();
        let call = Call { writes: true, work, value: None, after: |(): &()| (), reply };
        // Nobody is left to be told; the lease ends what this would have ended.
        let _ = self.send(Request::Do(Box::new(call)));
    }

    /// Refuses what comes from now on; resolves when the file is closed.
    pub(super) async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if !self.closed.swap(true, Ordering::AcqRel) {
            let sender = lock(&self.sender).clone();
            if sender.send(Request::Shutdown(Some(reply))).is_ok() {
                let _ = answer.await;
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let sender = lock(&self.sender);
        let _ = sender.send(Request::Shutdown(None));
    }
}

/// How soon a renewal that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// When a lease is renewed next: every third of it.
#[derive(Debug)]
pub(super) struct Renewal {
    pub(super) lease: Duration,
    due: Mutex<Instant>,
}

impl Renewal {
    pub(super) fn new(lease: Duration) -> Self {
        Self { lease, due: Mutex::new(Instant::now() + lease / 3) }
    }

    pub(super) fn due(&self) -> Instant {
        *lock(&self.due)
    }

    /// Sooner when it failed.
    pub(super) fn done(&self, now: Instant, succeeded: bool) {
        let mut due = lock(&self.due);
        if *due <= now {
            let third = self.lease / 3;
            *due = now + if succeeded { third } else { third.min(RETRY) };
        }
    }
}
