//! The thread that owns the file. What gathers while one transaction runs goes into the next.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime};

use rusqlite::ErrorCode;

use super::consumer::ConsumerState;
use super::engine::{Job, Request};
use super::failure::{Failure, is_busy, is_fatal};
use super::location::Location;
use super::schema::Statements;
use super::session::{Claimed, Session, set_busy_deadline};
use super::subscription::Listener;
use super::watch::Watch;
use crate::fault_point;

/// The most requests that share a transaction: it bounds how long other processes wait for the lock.
const MOST_TOGETHER: usize = 512;

/// When nothing wakes it, the thread looks this often all the same.
const SAFETY_TICK: Duration = Duration::from_secs(1);

/// The same, where nothing can wake it.
const POLLING_INTERVAL: Duration = Duration::from_millis(100);

/// How often it is said that leases cannot be renewed.
const REMINDER: Duration = Duration::from_secs(10);

/// Where a worker writes about its connection.
const LOGGER: &str = "celery.worker.consumer";

/// Who claimed, under which name, and what.
type Claim = (Arc<ConsumerState>, i64, Vec<Claimed>);

pub(super) struct Thread {
    location: Arc<Location>,
    sql: Arc<Statements>,
    sender: Sender<Request>,
    receiver: Receiver<Request>,
    session: Option<Session>,
    watch: Option<Watch>,
    /// Whether watching was tried on the file that is open.
    watch_tried: bool,
    /// Whose leases are renewed.
    consumers: Vec<Arc<ConsumerState>>,
    /// Who is fed with broadcasts.
    listeners: Vec<Arc<Listener>>,
    /// Whose receive waits.
    waiting: Vec<Arc<ConsumerState>>,
    /// `data_version` when the waiting last found nothing.
    seen_version: Option<i64>,
    next_look: Instant,
    /// How long until the look after the next, while nothing was found.
    look_pause: Duration,
    next_sweep: Instant,
    /// When it was last said that leases could not be renewed.
    said_not_renewed: Option<Instant>,
    last_tick: (Instant, SystemTime),
}

impl Drop for Thread {
    /// Whatever ends the thread, nobody waits for it any longer.
    fn drop(&mut self) {
        for consumer in self.consumers.iter().chain(&self.waiting) {
            consumer.end();
        }
        for listener in &self.listeners {
            listener.end();
        }
        while let Ok(request) = self.receiver.try_recv() {
            match request {
                Request::Claim(consumer) | Request::Renew(consumer) => consumer.end(),
                Request::Feed(listener) => listener.end(),
                Request::Do(_) | Request::FilesChanged | Request::Shutdown(_) => {}
            }
        }
    }
}

impl Thread {
    pub(super) fn new(location: Arc<Location>, sender: Sender<Request>, receiver: Receiver<Request>) -> Self {
        let now = Instant::now();
        Self {
            sql: Arc::new(Statements::new(&location)),
            location,
            sender,
            receiver,
            session: None,
            watch: None,
            watch_tried: false,
            consumers: Vec::new(),
            listeners: Vec::new(),
            waiting: Vec::new(),
            seen_version: None,
            next_look: now,
            look_pause: SAFETY_TICK,
            next_sweep: now,
            said_not_renewed: None,
            last_tick: (now, SystemTime::now()),
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let first = match self.pause() {
                None => self.receiver.recv().ok(),
                Some(pause) => match self.receiver.recv_timeout(pause) {
                    Ok(request) => Some(request),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                },
            };
            let mut jobs: Vec<Box<dyn Job>> = Vec::new();
            let mut fresh = false;
            let mut shutdown = None;
            let rest = std::iter::from_fn(|| self.receiver.try_recv().ok()).take(MOST_TOGETHER);
            for request in first.into_iter().chain(rest) {
                match request {
                    Request::Do(job) => jobs.push(job),
                    Request::Claim(consumer) => {
                        fresh = true;
                        if !self.waiting.iter().any(|waiting| Arc::ptr_eq(waiting, &consumer)) {
                            self.waiting.push(consumer);
                        }
                    }
                    Request::Renew(consumer) => self.consumers.push(consumer),
                    Request::Feed(listener) => self.listeners.push(listener),
                    Request::FilesChanged => {
                        if let Some(watch) = &self.watch {
                            watch.seen();
                        }
                        // The log is written before the change can be seen, so look more than once.
                        self.next_look = Instant::now();
                        self.look_pause = Duration::from_micros(250);
                    }
                    Request::Shutdown(reply) => {
                        shutdown = Some(reply);
                        break;
                    }
                }
            }
            self.consumers.retain(|consumer| !consumer.has_ended());
            self.waiting.retain(|consumer| consumer.is_waiting());
            self.listeners.retain(|listener| !listener.has_ended());
            if self.consumers.iter().any(|consumer| !consumer.leases_stand()) {
                // After a pause, before anything is claimed or settled under a name that others may have taken for dead.
                self.look_after_leases();
            }
            self.jobs_and_claims(jobs, fresh);
            if let Some(reply) = shutdown {
                self.watch = None;
                self.session = None;
                if let Some(reply) = reply {
                    let _ = reply.send(());
                }
                return;
            }
            self.look_after_leases();
        }
    }

    /// How long to wait for a request; `None` when only a request can bring work.
    fn pause(&mut self) -> Option<Duration> {
        let mut next: Option<Instant> = None;
        let mut sooner = |when: Instant| next = Some(next.map_or(when, |next| next.min(when)));
        for consumer in &self.consumers {
            sooner(consumer.renewal.due());
        }
        for listener in &self.listeners {
            sooner(listener.renewal.due());
        }
        if !self.consumers.is_empty() || !self.listeners.is_empty() {
            sooner(self.next_sweep);
        }
        let looking = !self.waiting.is_empty() || !self.listeners.is_empty();
        if looking {
            sooner(self.next_look);
        } else if let Some(watch) = &self.watch {
            watch.set_wanted(false);
        }
        next.map(|next| next.saturating_duration_since(Instant::now()))
    }

    /// Opens the file, or opens it again when it is no longer the one at that path.
    fn session(&mut self) -> rusqlite::Result<&mut Session> {
        if self.session.as_ref().is_some_and(|session| !session.is_current(&self.location)) {
            self.session = None;
            self.watch = None;
            self.watch_tried = false;
        }
        if self.session.is_none() {
            let mut session = Session::open(&self.location, &self.sql)?;
            if !self.consumers.is_empty() || !self.listeners.is_empty() {
                // It may be another file, where nobody knows us.
                session.begin()?;
                let mut renewed = Vec::with_capacity(self.consumers.len());
                for consumer in &self.consumers {
                    renewed.push((consumer, consumer.renew(&mut session)?));
                }
                for listener in &self.listeners {
                    listener.renew(&mut session)?;
                }
                session.commit()?;
                for (consumer, renewed) in &renewed {
                    consumer.renewed(renewed);
                }
            }
            self.seen_version = None;
            self.session = Some(session);
        }
        self.session.as_mut().ok_or(rusqlite::Error::InvalidQuery)
    }

    /// Has changes told from now on, or no longer. To be called before looking, so that no change falls between.
    fn want_changes(&mut self, wanted: bool) {
        if wanted && !self.watch_tried && self.location.polling_interval.is_none() {
            self.watch_tried = true;
            self.watch = Watch::start(&self.location, self.sender.clone());
        }
        if let Some(watch) = &self.watch {
            watch.set_wanted(wanted);
        }
    }

    /// Runs `work` until it succeeds or the lock was held by others for the whole busy timeout.
    fn attempt<T>(
        &mut self,
        mut work: impl FnMut(&mut Self) -> rusqlite::Result<T>,
    ) -> std::result::Result<T, rusqlite::Error> {
        let deadline = Instant::now() + self.location.busy_timeout;
        set_busy_deadline(deadline, &self.location.locked);
        loop {
            match work(self) {
                Err(error) => {
                    if let Some(session) = &mut self.session {
                        session.roll_back();
                    }
                    // Whoever waits has not looked.
                    self.seen_version = None;
                    if is_fatal(&error) {
                        self.session = None;
                    }
                    if !is_busy(&error) || Instant::now() >= deadline {
                        return Err(error);
                    }
                    // Some locks are reported at once, without the busy handler having waited.
                    std::thread::sleep(Duration::from_millis(1));
                }
                value => {
                    self.location.locked.store(false, Ordering::Relaxed);
                    return value;
                }
            }
        }
    }

    fn jobs_and_claims(&mut self, mut jobs: Vec<Box<dyn Job>>, fresh: bool) {
        let looking = fresh || Instant::now() >= self.next_look;
        if jobs.is_empty() && !(looking && (!self.waiting.is_empty() || !self.listeners.is_empty())) {
            return;
        }
        match self.attempt(|thread| thread.transaction(&mut jobs, fresh, looking)) {
            Ok(claims) => {
                for job in jobs {
                    job.finish(Ok(()));
                }
                for (consumer, holder, claimed) in claims {
                    fault_point!("sqlite.claim.after");
                    consumer.hand_over(holder, claimed);
                }
                self.waiting.retain(|consumer| consumer.is_waiting());
            }
            Err(error) if jobs.len() > 1 && !concerns_the_file(&error) => {
                // One of them is to blame; the others must not suffer.
                for job in jobs {
                    self.jobs_and_claims(vec![job], false);
                }
                self.next_look = Instant::now();
            }
            Err(error) => {
                let failure = Failure::new(&self.location, &error);
                let blamed = jobs.is_empty() || concerns_the_file(&error);
                for job in jobs {
                    job.finish(Err(failure.to_error()));
                }
                if blamed {
                    for consumer in self.waiting.drain(..) {
                        consumer.fail(failure.to_error());
                    }
                }
                // Listeners are told nothing: they listen again as soon as the file is back.
                self.next_look = Instant::now() + if blamed { SAFETY_TICK } else { Duration::ZERO };
            }
        }
    }

    /// Runs the jobs, then lets the waiting claim, all in one transaction; then feeds the listeners.
    fn transaction(
        &mut self,
        jobs: &mut [Box<dyn Job>],
        fresh: bool,
        looking: bool,
    ) -> rusqlite::Result<Vec<Claim>> {
        let has_listeners = !self.listeners.is_empty();
        let seen_version = self.seen_version;
        self.session()?;
        self.want_changes(has_listeners || !self.waiting.is_empty());
        let Some(session) = &mut self.session else { return Ok(Vec::new()) };
        session.has_put = false;
        session.has_broadcast = false;
        let writes = jobs.iter().any(|job| job.writes());
        let mut changed = false;
        if looking && !writes {
            // Before looking: what comes in between is found twice rather than never.
            let version = session.data_version()?;
            changed = seen_version != Some(version);
            self.seen_version = Some(version);
        }
        let mut may_find = fresh || changed;
        if !writes {
            for job in jobs.iter_mut() {
                job.run(session)?;
            }
            let mut found = false;
            if may_find {
                for consumer in &self.waiting {
                    found = found || session.has_waiting(&consumer.queues())?;
                }
            }
            may_find = found;
        }
        let mut claims = Vec::new();
        if writes || may_find {
            session.begin()?;
            let version = session.data_version()?;
            changed = changed || self.seen_version != Some(version);
            self.seen_version = Some(version);
            if writes {
                for job in jobs.iter_mut() {
                    job.run(session)?;
                }
            }
            if may_find || changed || session.has_put {
                for consumer in &self.waiting {
                    let Some((holder, queues, max)) = consumer.wanted() else { continue };
                    fault_point!("sqlite.claim.before");
                    let claimed = session.claim(holder, &queues, max)?;
                    if !claimed.is_empty() {
                        fault_point!("sqlite.claim.written");
                        claims.push((Arc::clone(consumer), holder, claimed));
                    }
                }
            }
            session.commit()?;
        }
        if has_listeners && (changed || session.has_broadcast) {
            feed(session, &self.listeners)?;
        }
        if looking || changed {
            // Again soon after a sign of life, then ever later.
            let limit = match self.location.polling_interval {
                Some(interval) => interval,
                None if self.watch.is_some() => SAFETY_TICK,
                None => POLLING_INTERVAL,
            };
            self.look_pause = if changed { Duration::from_millis(1) } else { self.look_pause * 4 }.min(limit);
            self.next_look = Instant::now() + self.look_pause;
        }
        Ok(claims)
    }

    /// Renews what is due, and once a second takes from the dead what they held.
    fn look_after_leases(&mut self) {
        let now = Instant::now();
        // A pause of the machine is not on every clock.
        let is_due =
            |consumer: &Arc<ConsumerState>| consumer.renewal.due() <= now || !consumer.leases_stand();
        let due = self.consumers.iter().any(is_due)
            || self.listeners.iter().any(|listener| listener.renewal.due() <= now);
        if due {
            let succeeded = self.attempt(|thread| {
                thread.session()?;
                let Some(session) = &mut thread.session else { return Ok(()) };
                fault_point!("sqlite.renew.before");
                session.begin()?;
                let mut renewed = Vec::new();
                for consumer in thread.consumers.iter().filter(|consumer| is_due(consumer)) {
                    renewed.push((consumer, consumer.renew(session)?));
                }
                for listener in thread.listeners.iter().filter(|listener| listener.renewal.due() <= now) {
                    listener.renew(session)?;
                }
                fault_point!("sqlite.renew.written");
                session.commit()?;
                fault_point!("sqlite.renew.after");
                for (consumer, renewed) in &renewed {
                    consumer.renewed(renewed);
                }
                Ok(())
            });
            if let Err(error) = &succeeded
                && self.said_not_renewed.is_none_or(|at| at.elapsed() > REMINDER)
            {
                self.said_not_renewed = Some(Instant::now());
                let error = Failure::new(&self.location, error).to_error();
                log::warn!(target: LOGGER, "The leases of what is held could not be renewed: {error}");
            }
            for consumer in &self.consumers {
                consumer.renewal.done(now, succeeded.is_ok());
            }
            for listener in &self.listeners {
                listener.renewal.done(now, succeeded.is_ok());
            }
        }
        if now >= self.next_sweep && !self.consumers.is_empty() {
            self.next_sweep = now + SAFETY_TICK;
            if self.clock_has_jumped(now) {
                // The machine slept, or its clock was set: give the living time to renew.
                self.next_sweep = now + SAFETY_TICK * 5;
                return;
            }
            let _ = self.attempt(Self::sweep);
        }
    }

    fn clock_has_jumped(&mut self, now: Instant) -> bool {
        let wall = SystemTime::now();
        let (last, last_wall) = std::mem::replace(&mut self.last_tick, (now, wall));
        let expected = now.saturating_duration_since(last);
        wall.duration_since(last_wall).is_ok_and(|passed| passed > expected + SAFETY_TICK)
    }

    fn sweep(&mut self) -> rusqlite::Result<()> {
        self.session()?;
        let Some(session) = &mut self.session else { return Ok(()) };
        if session.expired_holders()?.is_empty() {
            return Ok(());
        }
        fault_point!("sqlite.restore.before");
        session.begin()?;
        session.has_put = false;
        for holder in session.expired_holders()? {
            session.end_holder(holder)?;
        }
        fault_point!("sqlite.restore.written");
        session.commit()?;
        fault_point!("sqlite.restore.after");
        if session.has_put {
            self.seen_version = None;
            self.next_look = Instant::now();
        }
        Ok(())
    }
}

fn feed(session: &Session, listeners: &[Arc<Listener>]) -> rusqlite::Result<()> {
    let Some(oldest) = listeners.iter().map(|listener| listener.last_heard()).min() else { return Ok(()) };
    for heard in session.broadcasts_after(oldest)? {
        for listener in listeners {
            listener.hear(&heard);
        }
    }
    Ok(())
}

/// Whether every other request would fail in the same way.
fn concerns_the_file(error: &rusqlite::Error) -> bool {
    is_busy(error) || is_fatal(error) || matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull))
}
