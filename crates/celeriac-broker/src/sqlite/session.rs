//! One open file: opening it, and everything that is read from and written to its tables.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use celeriac_protocol::envelope;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Result, params};

use super::failure::is_busy;
use super::location::Location;
use super::schema::{self, Statements};
use crate::dead::DeadLetter;
use crate::transport::ExchangeType;
use crate::virtual_exchange::{binds, queues_for};

/// How long a broadcast is kept for listeners that are slow.
const FANOUT_KEPT: Duration = Duration::from_secs(60);

/// How long it is remembered how often a body has begun.
const COUNTS_KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The most broadcasts that are kept.
const FANOUT_MOST: i64 = 10_000;

thread_local! {
    /// Until when SQLite may wait for a lock; its busy handler is a plain function.
    static BUSY_DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
    /// Where it says that it waits.
    static LOCKED: RefCell<Arc<AtomicBool>> = RefCell::default();
}

/// Milliseconds since 1970, by which processes on one machine agree when a holder has died.
pub(super) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// A publication with its envelope already made.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) exchange: Arc<str>,
    pub(super) kind: ExchangeType,
    pub(super) routing_key: Arc<str>,
    pub(super) priority: u8,
    pub(super) payload: String,
}

/// Where a publication goes.
pub(super) struct Route {
    queues: Vec<String>,
    heard: bool,
}

/// A message that was just leased.
pub(super) struct Claimed {
    pub(super) message_id: i64,
    pub(super) queue: Arc<str>,
    pub(super) payload: Bytes,
}

/// A message that somebody holds.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) holder: i64,
    pub(super) message_id: i64,
    pub(super) queue: Arc<str>,
    pub(super) raw: Bytes,
}

/// A broadcast.
pub(super) struct Heard {
    pub(super) id: i64,
    pub(super) exchange: String,
    pub(super) routing_key: String,
    pub(super) payload: Bytes,
}

pub(super) struct Session {
    connection: Connection,
    sql: Arc<Statements>,
    identity: Option<Identity>,
    /// kombu never deletes a queue, so an id stays what it is.
    queue_ids: HashMap<String, i64>,
    last_pruned: Option<Instant>,
    last_counts_pruned: Option<Instant>,
    /// Something was put where a waiting receive may take it.
    pub(super) has_put: bool,
    /// Something was put where listeners hear it.
    pub(super) has_broadcast: bool,
}

/// Tells a file from another of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity(u64, u64);

#[cfg(unix)]
fn identity(path: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|metadata| Identity(metadata.dev(), metadata.ino()))
}

/// Other systems do not let an open file be deleted or replaced.
#[cfg(not(unix))]
fn identity(_path: &Path) -> Option<Identity> {
    Some(Identity(0, 0))
}

/// Sets how long locks are waited for from now on, on this thread, and where it is said that one is.
pub(super) fn set_busy_deadline(deadline: Instant, locked: &Arc<AtomicBool>) {
    BUSY_DEADLINE.set(Some(deadline));
    LOCKED.set(Arc::clone(locked));
}

/// Waits a little, and longer each time up to two milliseconds: `SQLite`'s own handler soon waits for a tenth of a
/// second, which is thousands of messages.
fn wait_for_lock(attempt: i32) -> bool {
    if BUSY_DEADLINE.get().is_none_or(|deadline| Instant::now() >= deadline) {
        return false;
    }
    LOCKED.with_borrow(|locked| locked.store(true, Ordering::Relaxed));
    let microseconds = 50 << attempt.clamp(0, 5);
    std::thread::sleep(Duration::from_micros(microseconds));
    true
}

impl Session {
    pub(super) fn open(location: &Location, sql: &Arc<Statements>) -> Result<Self> {
        let mut connection = Connection::open(&location.path)?;
        connection.busy_handler(Some(wait_for_lock))?;
        connection.set_prepared_statement_cache_capacity(64);
        // As in Python; the bundled SQLite would check them.
        connection.pragma_update(None, "foreign_keys", false)?;
        connection.pragma_update(None, "synchronous", location.synchronous)?;
        // Bounds what a burst leaves of the log on the disk.
        connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
        // Not possible while somebody else is in the file; it works without, only slower.
        match connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0)) {
            Err(error) if !is_busy(&error) => return Err(error),
            _ => {}
        }
        if !schema::exists(&connection, location)? {
            connection.execute_batch("BEGIN IMMEDIATE")?;
            schema::create(&connection, location)
                .and_then(|()| connection.execute_batch("COMMIT"))
                .inspect_err(|_| drop(connection.execute_batch("ROLLBACK")))?;
        }
        Ok(Self {
            connection,
            sql: Arc::clone(sql),
            identity: identity(&location.path),
            queue_ids: HashMap::new(),
            last_pruned: None,
            last_counts_pruned: None,
            has_put: false,
            has_broadcast: false,
        })
    }

    /// Whether the path still leads to the file that is open.
    pub(super) fn is_current(&self, location: &Location) -> bool {
        self.identity.is_some() && identity(&location.path) == self.identity
    }

    /// Changes when another connection has committed.
    pub(super) fn data_version(&self) -> Result<i64> {
        self.connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
    }

    pub(super) fn begin(&self) -> Result<()> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
    }

    pub(super) fn commit(&self) -> Result<()> {
        self.connection.prepare_cached("COMMIT")?.execute([]).map(drop)
    }

    pub(super) fn roll_back(&mut self) {
        // What was created in this transaction does not exist.
        self.queue_ids.clear();
        self.has_put = false;
        self.has_broadcast = false;
        // Some errors have rolled back already.
        if !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }

    fn run(&self, sql: &str, parameters: impl rusqlite::Params) -> Result<usize> {
        self.connection.prepare_cached(sql)?.execute(parameters)
    }

    fn number(&self, sql: &str, parameters: impl rusqlite::Params) -> Result<i64> {
        self.connection.prepare_cached(sql)?.query_row(parameters, |row| row.get(0))
    }

    fn find_queue(&mut self, name: &str) -> Result<Option<i64>> {
        if let Some(id) = self.queue_ids.get(name) {
            return Ok(Some(*id));
        }
        let id: Option<i64> = self
            .connection
            .prepare_cached(&self.sql.find_queue)?
            .query_row([name], |row| row.get(0))
            .optional()?;
        if let Some(id) = id {
            self.queue_ids.insert(name.to_owned(), id);
        }
        Ok(id)
    }

    /// The row of a queue, which is created if need be.
    pub(super) fn queue(&mut self, name: &str) -> Result<i64> {
        if let Some(id) = self.find_queue(name)? {
            return Ok(id);
        }
        self.run(&self.sql.add_queue, [name])?;
        let id = self.connection.last_insert_rowid();
        self.queue_ids.insert(name.to_owned(), id);
        Ok(id)
    }

    pub(super) fn bind(&mut self, exchange: &str, routing_key: &str, queue: &str) -> Result<()> {
        self.run(&self.sql.add_binding, [exchange, routing_key, queue]).map(drop)
    }

    /// `None`: it leads nowhere, and would be lost.
    pub(super) fn route(&self, outgoing: &Outgoing) -> Result<Option<Route>> {
        if outgoing.exchange.is_empty() {
            return Ok(Some(Route { queues: vec![outgoing.routing_key.as_ref().to_owned()], heard: false }));
        }
        let pairs = |sql: &str| -> Result<Vec<(String, String)>> {
            let mut statement = self.connection.prepare_cached(sql)?;
            statement.query_map([&*outgoing.exchange], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        };
        let table = pairs(&self.sql.bindings)?;
        let table = table.iter().map(|(key, queue)| (key.as_str(), queue.as_str()));
        let queues: Vec<String> =
            queues_for(outgoing.kind, table, &outgoing.routing_key).into_iter().map(str::to_owned).collect();
        let heard = pairs(&self.sql.listeners)?
            .iter()
            .any(|(kind, key)| binds(kind_from_text(kind), key, &outgoing.routing_key));
        let nowhere = queues.is_empty() && !heard && outgoing.kind != ExchangeType::Fanout;
        Ok((!nowhere).then_some(Route { queues, heard }))
    }

    pub(super) fn put(&mut self, outgoing: &Outgoing, route: &Route) -> Result<()> {
        for queue in &route.queues {
            self.put_into(queue, &outgoing.payload, outgoing.priority)?;
        }
        if route.heard {
            self.prune_fanout()?;
            let row = params![&*outgoing.exchange, &*outgoing.routing_key, now_ms(), outgoing.payload];
            self.run(&self.sql.add_fanout, row)?;
            self.has_broadcast = true;
        }
        Ok(())
    }

    fn put_into(&mut self, queue: &str, payload: &str, priority: u8) -> Result<()> {
        let queue = self.queue(queue)?;
        self.run(&self.sql.add_message, params![priority_timestamp(priority), payload, queue])?;
        self.has_put = true;
        Ok(())
    }

    /// At most once a second.
    fn prune_fanout(&mut self) -> Result<()> {
        if self.last_pruned.is_none_or(|last| last.elapsed() > Duration::from_secs(1)) {
            let oldest = now_ms() - FANOUT_KEPT.as_millis() as i64;
            self.run(&self.sql.prune_fanout, [oldest, FANOUT_MOST])?;
            self.last_pruned = Some(Instant::now());
        }
        Ok(())
    }

    /// Whether a claim on these queues would find anything.
    pub(super) fn has_waiting(&mut self, queues: &[Arc<str>]) -> Result<bool> {
        for queue in queues {
            if let Some(id) = self.find_queue(queue)?
                && self.number(&self.sql.has_waiting, [id])? != 0
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Leases the most urgent messages: by priority, then in the order of `queues`, then by age.
    pub(super) fn claim(&mut self, holder: i64, queues: &[Arc<str>], max: usize) -> Result<Vec<Claimed>> {
        let mut waiting: Vec<(Option<String>, usize, i64)> = Vec::new();
        for (index, queue) in queues.iter().enumerate() {
            let Some(id) = self.find_queue(queue)? else { continue };
            let mut statement = self.connection.prepare_cached(&self.sql.next_waiting)?;
            let mut rows = statement.query(params![id, max as i64])?;
            while let Some(row) = rows.next()? {
                waiting.push((row.get(0)?, index, row.get(1)?));
            }
        }
        waiting.sort_unstable();
        waiting.truncate(max);
        let mut take = self.connection.prepare_cached(&self.sql.take)?;
        let mut lease = self.connection.prepare_cached(&self.sql.add_lease)?;
        let mut claimed = Vec::with_capacity(waiting.len());
        for (_, index, message_id) in waiting {
            let payload = take.query_row([message_id], |row| Ok(bytes(row.get_ref(0)?)))?;
            lease.execute([message_id, holder])?;
            claimed.push(Claimed { message_id, queue: Arc::clone(&queues[index]), payload });
        }
        Ok(claimed)
    }

    pub(super) fn is_held(&self, held: &Held) -> Result<bool> {
        self.number(&self.sql.find_lease, [held.message_id, held.holder]).map(|found| found != 0)
    }

    /// False when the lease is no longer ours.
    pub(super) fn release(&mut self, held: &Held) -> Result<bool> {
        self.run(&self.sql.drop_lease, [held.message_id, held.holder]).map(|dropped| dropped == 1)
    }

    /// kombu keeps the rows of what is done, and never looks at them again; we keep the file small instead.
    pub(super) fn delete(&mut self, held: &Held) -> Result<()> {
        self.run(&self.sql.delete_message, [held.message_id]).map(drop)
    }

    /// To its old place, which is before whatever came later.
    pub(super) fn give_back(&mut self, held: &Held, redelivered: bool) -> Result<()> {
        let marked = if redelivered { envelope::mark_redelivered(&held.raw) } else { None };
        let marked = marked.as_deref().map(text);
        if self.run(&self.sql.give_back, params![held.message_id, marked])? == 0 {
            // kombu's purge deletes what others hold. It is not done, so it comes back all the same.
            self.put_into(&held.queue, &marked.unwrap_or_else(|| text(&held.raw)), 0)?;
        }
        self.has_put = true;
        Ok(())
    }

    pub(super) fn bury(&mut self, held: &Held, reason: &str, detail: &str) -> Result<()> {
        let letter = DeadLetter::new(&held.queue, reason, detail, &held.raw);
        self.run(&self.sql.add_dead, params![letter.at_ms as i64, letter.to_entry(), &held.raw[..]])?;
        self.delete(held)
    }

    pub(super) fn add_holder(&mut self, node: &str, lease: Duration) -> Result<i64> {
        // By chance, so that it means nothing in another file that takes this one's place.
        let id = (uuid::Uuid::new_v4().as_u128() as i64) & i64::MAX;
        self.run(&self.sql.add_holder, params![id, node, now_ms() + lease.as_millis() as i64])?;
        Ok(id)
    }

    /// False when somebody took it for dead; then nothing that it held is its own any more.
    pub(super) fn renew_holder(&mut self, holder: i64, lease: Duration) -> Result<bool> {
        let expires = now_ms() + lease.as_millis() as i64;
        self.run(&self.sql.renew_holder, [holder, expires]).map(|renewed| renewed == 1)
    }

    /// Puts back whatever a holder has, marked as handed out before, and forgets the holder.
    pub(super) fn end_holder(&mut self, holder: i64) -> Result<()> {
        let left = {
            let mut statement = self.connection.prepare_cached(&self.sql.leased_by)?;
            let rows = statement.query_map([holder], |row| Ok((row.get(0)?, bytes(row.get_ref(1)?))))?;
            rows.collect::<Result<Vec<(i64, Bytes)>>>()?
        };
        for (message_id, payload) in left {
            let marked = envelope::mark_redelivered(&payload).as_deref().map(text);
            self.run(&self.sql.give_back, params![message_id, marked])?;
            self.has_put = true;
        }
        self.run(&self.sql.drop_leases, [holder])?;
        self.run(&self.sql.drop_listeners, [holder])?;
        self.run(&self.sql.drop_holder, [holder]).map(drop)
    }

    pub(super) fn expired_holders(&self) -> Result<Vec<i64>> {
        let mut statement = self.connection.prepare_cached(&self.sql.expired_holders)?;
        statement.query_map([now_ms()], |row| row.get(0))?.collect()
    }

    /// From here on the holder hears what is sent to the exchange; gives the last broadcast before that.
    pub(super) fn listen(
        &mut self,
        holder: i64,
        exchange: &str,
        kind: ExchangeType,
        routing_keys: &[String],
    ) -> Result<i64> {
        let any = [String::new()];
        for key in if routing_keys.is_empty() { &any } else { routing_keys } {
            self.run(&self.sql.add_listener, params![exchange, holder, kind_text(kind), key])?;
        }
        self.number(&self.sql.last_fanout, [])
    }

    pub(super) fn broadcasts_after(&self, last: i64) -> Result<Vec<Heard>> {
        let mut statement = self.connection.prepare_cached(&self.sql.next_fanout)?;
        statement
            .query_map([last], |row| {
                Ok(Heard {
                    id: row.get(0)?,
                    exchange: row.get(1)?,
                    routing_key: row.get(2)?,
                    payload: bytes(row.get_ref(3)?),
                })
            })?
            .collect()
    }

    pub(super) fn count_waiting(&self, queue: &str) -> Result<u64> {
        self.number(&self.sql.count_waiting, [queue]).map(|count| count as u64)
    }

    pub(super) fn purge(&mut self, queue: &str) -> Result<u64> {
        self.run(&self.sql.purge, [queue]).map(|count| count as u64)
    }

    /// The count of a body that begins now.
    pub(super) fn begin_body(&mut self, task_id: &str) -> Result<u32> {
        let (now, oldest) = (now_ms(), now_ms() - COUNTS_KEPT.as_millis() as i64);
        if self.last_counts_pruned.is_none_or(|last| last.elapsed() > Duration::from_secs(60 * 60)) {
            self.run(&self.sql.prune_deliveries, [oldest])?;
            self.last_counts_pruned = Some(Instant::now());
        }
        let mut statement = self.connection.prepare_cached(&self.sql.begin)?;
        statement.query_row(params![task_id, now, oldest], |row| row.get(0))
    }

    pub(super) fn forget_begins(&mut self, task_id: &str) -> Result<()> {
        self.run(&self.sql.forget, [task_id]).map(drop)
    }

    pub(super) fn dead_letters(&self, offset: usize, limit: usize) -> Result<Vec<DeadLetter>> {
        let page = [i64::try_from(limit).unwrap_or(i64::MAX), i64::try_from(offset).unwrap_or(i64::MAX)];
        let mut statement = self.connection.prepare_cached(&self.sql.dead_letters)?;
        statement.query_map(page, letter)?.collect()
    }

    pub(super) fn dead_count(&self) -> Result<u64> {
        self.number(&self.sql.dead_count, []).map(|count| count as u64)
    }

    pub(super) fn dead_letter(&self, id: i64) -> Result<Option<DeadLetter>> {
        self.connection.prepare_cached(&self.sql.dead_letter)?.query_row([id], letter).optional()
    }

    pub(super) fn dead_raw(&self, id: i64) -> Result<Option<Bytes>> {
        let mut statement = self.connection.prepare_cached(&self.sql.dead_raw)?;
        statement.query_row([id], |row| Ok(bytes(row.get_ref(0)?))).optional()
    }

    /// Behind whatever waits in the queue; false when it is not in the dead list any more.
    pub(super) fn replay_dead(&mut self, id: i64, queue: &str, letter: &DeadLetter) -> Result<bool> {
        let queue = self.queue(queue)?;
        let row = params![id, priority_timestamp(letter.priority), queue];
        if self.run(&self.sql.replay_dead, row)? == 0 {
            return Ok(false);
        }
        if let Some(task_id) = &letter.task_id {
            self.forget_begins(task_id)?;
        }
        self.has_put = true;
        self.drop_dead(id)
    }

    pub(super) fn drop_dead(&mut self, id: i64) -> Result<bool> {
        self.run(&self.sql.drop_dead, [id]).map(|dropped| dropped == 1)
    }
}

fn letter(row: &rusqlite::Row<'_>) -> Result<DeadLetter> {
    let entry = bytes(row.get_ref(2)?);
    let size = row.get::<_, Option<i64>>(3)?.unwrap_or_default() as u64;
    let at_ms = row.get::<_, i64>(1).unwrap_or_default() as u64;
    Ok(DeadLetter::from_entry(&row.get::<_, i64>(0)?.to_string(), Some(&entry), at_ms, || size))
}

/// Where kombu's order by timestamp has a place for a priority: it leaves the timestamp of what waits empty, which
/// sorts first, and writes one when it takes a message. A date of the year 1 in the timestamp of a less urgent
/// message makes Python's workers keep our order too, and one index serves it.
fn priority_timestamp(priority: u8) -> Option<String> {
    (priority > 0).then(|| format!("0001-01-01 00:00:00.{priority:06}"))
}

/// Whatever storage class the column has: a foreign program may have written a blob, or a number.
fn bytes(value: ValueRef<'_>) -> Bytes {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Bytes::copy_from_slice(bytes),
        ValueRef::Integer(number) => number.to_string().into(),
        ValueRef::Real(number) => number.to_string().into(),
        ValueRef::Null => Bytes::new(),
    }
}

/// For the `payload` column, which Python reads as text.
fn text(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

fn kind_text(kind: ExchangeType) -> &'static str {
    match kind {
        ExchangeType::Direct => "direct",
        ExchangeType::Topic => "topic",
        ExchangeType::Fanout => "fanout",
        ExchangeType::Headers => "headers",
    }
}

fn kind_from_text(kind: &str) -> ExchangeType {
    match kind {
        "topic" => ExchangeType::Topic,
        "fanout" => ExchangeType::Fanout,
        "headers" => ExchangeType::Headers,
        _ => ExchangeType::Direct,
    }
}
