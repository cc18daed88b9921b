//! The thread that owns the file. What gathers while one transaction runs goes into the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use celeriac_error::{Error, Result};
use celeriac_protocol::TaskMeta;
use celeriac_protocol::result_meta::is_ready;
use tokio::sync::oneshot;

use super::location::Location;
use super::rows::Columns;
use super::session::{IDS_CHUNK, Session};
use super::watch::Watch;
use crate::waiters::Waiters;

/// The most jobs that share a transaction: it bounds how long other processes wait for the lock.
const MOST_TOGETHER: usize = 512;

/// How often the file is looked at when nothing has told of a change, in case that was missed.
const SAFETY_LOOK: Duration = Duration::from_secs(1);

/// The same where files cannot be watched.
const UNWATCHED_LOOK: Duration = Duration::from_millis(50);

/// How soon after a change the file is looked at again: it is told of before it can be seen.
const FIRST_LOOK: Duration = Duration::from_millis(1);

/// For so long at most, the reading of many awaited documents makes room for other work.
const MOST_ROOM: Duration = Duration::from_millis(50);

/// For so long the waits stand a file that cannot be read.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the thread is asked for.
pub(super) enum Job {
    Store(Vec<TaskMeta>, oneshot::Sender<Vec<Result<()>>>),
    Forget(Vec<String>, oneshot::Sender<Result<()>>),
    /// Removes what ended before a time.
    Cleanup(String, oneshot::Sender<Result<u64>>),
    Get(Vec<String>, oneshot::Sender<Result<Vec<Option<TaskMeta>>>>),
    /// Opens the file.
    Connect(oneshot::Sender<Result<()>>),
    /// Somebody waits for an id that was not awaited before.
    WaitBegan,
    /// Somebody wrote to the file, perhaps we.
    FileChanged,
    /// Closes the file.
    End(Option<oneshot::Sender<()>>),
}

/// A write that was carried out, but is not committed yet.
enum Written {
    Store(Vec<Result<()>>, Vec<TaskMeta>, oneshot::Sender<Vec<Result<()>>>),
    Forget(Result<()>, oneshot::Sender<Result<()>>),
    Cleanup(Result<u64>, oneshot::Sender<Result<u64>>),
}

pub(super) struct Thread {
    location: Arc<Location>,
    sender: Sender<Job>,
    receiver: Receiver<Job>,
    waiters: Arc<Waiters>,
    /// A [`Job::WaitBegan`] is on its way.
    woken: Arc<AtomicBool>,
    session: Option<Session>,
    watch: Option<Watch>,
    /// The version of the file in which all awaited documents were looked for.
    seen: Option<i64>,
    next_look: Instant,
    /// How long until the look after the next, while nothing changes.
    pause: Duration,
    /// Looking again sooner would leave no room for other work.
    not_before: Instant,
    failing_since: Option<Instant>,
}

/// Whatever ends the thread, nobody waits for it any longer.
impl Drop for Thread {
    fn drop(&mut self) {
        self.waiters.break_off("thread");
    }
}

impl Thread {
    pub(super) fn new(
        location: Arc<Location>,
        (sender, receiver): (Sender<Job>, Receiver<Job>),
        waiters: Arc<Waiters>,
        woken: Arc<AtomicBool>,
    ) -> Self {
        let now = Instant::now();
        Self {
            location,
            sender,
            receiver,
            waiters,
            woken,
            session: None,
            watch: None,
            seen: None,
            next_look: now,
            pause: FIRST_LOOK,
            not_before: now,
            failing_since: None,
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let first = match self.time_to_look() {
                None => self.receiver.recv().ok(),
                Some(pause) => match self.receiver.recv_timeout(pause) {
                    Ok(job) => Some(job),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                },
            };
            let rest: Vec<Job> =
                std::iter::from_fn(|| self.receiver.try_recv().ok()).take(MOST_TOGETHER).collect();
            let mut writes = Vec::new();
            for job in first.into_iter().chain(rest) {
                match job {
                    Job::Store(..) | Job::Forget(..) | Job::Cleanup(..) => writes.push(job),
                    Job::Get(ids, reply) => {
                        // What was asked for first is done first.
                        self.write(std::mem::take(&mut writes));
                        let _ = reply.send(self.get(&ids));
                    }
                    Job::Connect(reply) => {
                        let _ = reply.send(self.session().map(drop));
                    }
                    Job::WaitBegan => self.woken.store(false, Ordering::Release),
                    Job::FileChanged => {
                        if let Some(watch) = &self.watch {
                            watch.seen();
                        }
                        self.next_look = Instant::now().max(self.not_before);
                        self.pause = FIRST_LOOK;
                    }
                    Job::End(reply) => {
                        self.write(std::mem::take(&mut writes));
                        self.watch = None;
                        self.session = None;
                        if let Some(reply) = reply {
                            let _ = reply.send(());
                        }
                        return;
                    }
                }
            }
            self.write(writes);
            self.look_for_waits();
        }
    }

    /// `None` while nobody waits.
    fn time_to_look(&self) -> Option<Duration> {
        let wanted = self.waiters.len() > 0;
        if let Some(watch) = &self.watch {
            watch.set_wanted(wanted);
        }
        wanted.then(|| self.next_look.saturating_duration_since(Instant::now()))
    }

    /// Opens the file, again when it is no longer the one at that path.
    fn session(&mut self) -> Result<&Session> {
        if self.session.as_ref().is_some_and(|session| !session.is_current(&self.location)) {
            self.disconnect();
        }
        match &mut self.session {
            Some(session) => Ok(session),
            none => {
                let session = Session::open(&self.location).map_err(|error| self.location.error(&error))?;
                self.seen = None;
                Ok(none.insert(session))
            }
        }
    }

    fn disconnect(&mut self) {
        self.session = None;
        self.watch = None;
    }

    /// One transaction for all. Each is answered once it is committed.
    fn write(&mut self, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let location = Arc::clone(&self.location);
        let begun = self.session().and_then(|session| {
            session.begin().map_err(|error| location.error(&error))?;
            Ok(session)
        });
        let session = match begun {
            Ok(session) => session,
            Err(error) => {
                if !error.is_transient() {
                    self.disconnect();
                }
                return refuse(jobs, &error);
            }
        };
        let mut transaction = Transaction { session, location: &location, broken: None, refused: false };
        let written: Vec<Written> = jobs.into_iter().filter_map(|job| transaction.carry_out(job)).collect();
        let Transaction { broken, refused, .. } = transaction;
        let outcome = match broken {
            Some(error) => Err(error),
            None => session.commit().map_err(|error| {
                session.roll_back();
                location.error(&error)
            }),
        };
        if refused || outcome.as_ref().is_err_and(|error| !error.is_transient()) {
            // A table may be gone, or the connection is of no more use. The next one finds out.
            self.disconnect();
        }
        match outcome {
            Ok(()) => written.into_iter().for_each(|written| self.answer(written)),
            Err(error) => written.into_iter().for_each(|written| written.fail(&error)),
        }
    }

    fn answer(&self, written: Written) {
        // Whoever asked may have given up.
        match written {
            Written::Store(results, ready, reply) => {
                for meta in &ready {
                    self.waiters.resolve(&meta.task_id, meta);
                }
                let _ = reply.send(results);
            }
            Written::Forget(result, reply) => drop(reply.send(result)),
            Written::Cleanup(result, reply) => drop(reply.send(result)),
        }
    }

    fn get(&mut self, ids: &[String]) -> Result<Vec<Option<TaskMeta>>> {
        let mut found = std::collections::HashMap::with_capacity(ids.len());
        for chunk in ids.chunks(IDS_CHUNK) {
            let rows = self.session()?.get(chunk, false);
            for (id, meta) in rows.map_err(|error| self.failed(&error))? {
                found.insert(id, meta?);
            }
        }
        Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
    }

    fn failed(&mut self, error: &rusqlite::Error) -> Error {
        let error = self.location.error(error);
        if !error.is_transient() {
            self.disconnect();
        }
        error
    }

    /// Reads what is newly awaited, and all that is awaited when the file has changed.
    fn look_for_waits(&mut self) {
        let began = self.waiters.take_changes().awaited;
        if self.waiters.len() == 0 {
            return;
        }
        let outcome = self.look(&began);
        match outcome {
            Ok(()) => self.failing_since = None,
            Err(error) => {
                let since = *self.failing_since.get_or_insert_with(Instant::now);
                if !error.is_transient() || since.elapsed() > PATIENCE {
                    self.failing_since = None;
                    self.waiters.fail_all(|| error.clone());
                }
                // All of it, once the file can be read.
                self.seen = None;
                self.next_look = Instant::now() + UNWATCHED_LOOK;
            }
        }
    }

    fn look(&mut self, began: &[Arc<str>]) -> Result<()> {
        self.session()?;
        if self.watch.is_none() && self.location.polling_interval.is_none() {
            // Before anything is read, so that no change falls between.
            self.watch = Watch::start(&self.location, self.sender.clone());
            self.time_to_look();
        }
        self.read(began)?;
        let now = Instant::now();
        if now < self.next_look && self.seen.is_some() {
            return Ok(());
        }
        let version = self.session()?.version();
        let version = version.map_err(|error| self.failed(&error))?;
        if self.seen == Some(version) {
            let longest = if self.watch.is_some() { SAFETY_LOOK } else { UNWATCHED_LOOK };
            self.next_look = now + self.location.polling_interval.unwrap_or(self.pause);
            self.pause = (self.pause * 2).min(longest);
            return Ok(());
        }
        self.read(&self.waiters.ids())?;
        // Only now: what was committed since is a newer version.
        self.seen = Some(version);
        let took = now.elapsed().min(MOST_ROOM);
        self.not_before = Instant::now() + took;
        self.pause = FIRST_LOOK;
        self.next_look = self.not_before + self.pause;
        Ok(())
    }

    /// Ends the waits whose documents are there.
    fn read(&mut self, ids: &[Arc<str>]) -> Result<()> {
        for chunk in ids.chunks(IDS_CHUNK) {
            let rows = self.session()?.get(chunk, true);
            for (id, meta) in rows.map_err(|error| self.failed(&error))? {
                match meta {
                    Ok(meta) => self.waiters.resolve(&id, &meta),
                    Err(error) => self.waiters.fail(&id, || error.clone()),
                }
            }
        }
        Ok(())
    }
}

/// A transaction in which many have a part.
struct Transaction<'a> {
    session: &'a Session,
    location: &'a Location,
    /// Why SQLite has rolled it back, for all.
    broken: Option<Error>,
    /// A statement was refused that should have worked.
    refused: bool,
}

impl Transaction<'_> {
    /// Does one write; an error of one does not undo the others.
    fn carry_out(&mut self, job: Job) -> Option<Written> {
        match job {
            Job::Store(batch, reply) => {
                let mut ready = Vec::new();
                let results = batch
                    .into_iter()
                    .map(|meta| {
                        let columns = Columns::of(&meta)?;
                        let stored = self.run(|session| session.store(&meta, &columns))?;
                        if stored && is_ready(&meta.status) {
                            ready.push(meta);
                        }
                        Ok(())
                    })
                    .collect();
                Some(Written::Store(results, ready, reply))
            }
            Job::Forget(ids, reply) => {
                let result =
                    ids.chunks(IDS_CHUNK).try_for_each(|chunk| self.run(|session| session.forget(chunk)));
                Some(Written::Forget(result, reply))
            }
            Job::Cleanup(before, reply) => {
                Some(Written::Cleanup(self.run(|session| session.cleanup(&before)), reply))
            }
            Job::Get(..) | Job::Connect(_) | Job::WaitBegan | Job::FileChanged | Job::End(_) => None,
        }
    }

    fn run<T>(&mut self, statement: impl FnOnce(&Session) -> rusqlite::Result<T>) -> Result<T> {
        if let Some(error) = &self.broken {
            // Outside of the transaction it would be committed by itself, and then reported as failed.
            return Err(error.clone());
        }
        statement(self.session).map_err(|error| {
            let error = self.location.error(&error);
            if self.session.has_rolled_back() {
                self.broken = Some(error.clone());
            }
            self.refused |= !error.is_transient();
            error
        })
    }
}

impl Written {
    /// Nothing was committed.
    fn fail(self, error: &Error) {
        match self {
            Self::Store(results, _, reply) => {
                let results = results.into_iter().map(|result| result.and(Err(error.clone()))).collect();
                let _ = reply.send(results);
            }
            Self::Forget(result, reply) => drop(reply.send(result.and(Err(error.clone())))),
            Self::Cleanup(result, reply) => drop(reply.send(result.and(Err(error.clone())))),
        }
    }
}

fn refuse(jobs: Vec<Job>, error: &Error) {
    for job in jobs {
        match job {
            Job::Store(batch, reply) => {
                let _ = reply.send(batch.iter().map(|_| Err(error.clone())).collect());
            }
            Job::Forget(_, reply) => drop(reply.send(Err(error.clone()))),
            Job::Cleanup(_, reply) => drop(reply.send(Err(error.clone()))),
            Job::Get(..) | Job::Connect(_) | Job::WaitBegan | Job::FileChanged | Job::End(_) => {}
        }
    }
}
