//! An open file: its tables, and the statements on them.
//!
//! Source of the layout: `celery.backends.database.models`, `celery.backends.database.session.SessionManager`.

use std::time::{Duration, Instant};

use celeriac_error::Result;
use celeriac_protocol::TaskMeta;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, named_params};

use super::location::Location;
use super::rows::{self, COLUMNS, Columns};

/// Ids per query. One statement serves any number, as they are given as one JSON array.
pub(super) const IDS_CHUNK: usize = 1000;

/// The columns that later versions of Celery added, with their types. A table without them gets them.
const COLUMNS_ADDED: [(&str, &str); 8] = [
    ("children", "BLOB"),
    ("name", "VARCHAR(155)"),
    ("args", "BLOB"),
    ("kwargs", "BLOB"),
    ("worker", "VARCHAR(155)"),
    ("retries", "INTEGER"),
    ("queue", "VARCHAR(155)"),
    ("stamps", "BLOB"),
];

/// A connection whose tables are there.
pub(super) struct Session {
    connection: Connection,
    sql: Statements,
    file: Option<FileId>,
}

struct Statements {
    store: String,
    get: String,
    get_ready: String,
    forget: String,
    cleanup: [String; 2],
}

/// Device and number of a file.
type FileId = (u64, u64);

impl Session {
    pub(super) fn open(location: &Location) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&location.path, flags)?;
        connection.busy_timeout(location.busy_timeout)?;
        write_ahead(&connection, location.busy_timeout)?;
        // What is committed survives a crash of the process; a power cut may take the last commits.
        connection.pragma_update(None, "synchronous", "normal")?;
        create_tables(&mut connection, location)?;
        Ok(Self { connection, sql: Statements::new(location), file: file_id(location) })
    }

    /// Whether the path still leads to the file that is open.
    pub(super) fn is_current(&self, location: &Location) -> bool {
        self.file == file_id(location)
    }

    /// Changes whenever another connection has committed.
    pub(super) fn version(&self) -> rusqlite::Result<i64> {
        self.connection.pragma_query_value(None, "data_version", |row| row.get(0))
    }

    pub(super) fn begin(&self) -> rusqlite::Result<()> {
        self.connection.execute_batch("BEGIN IMMEDIATE")
    }

    pub(super) fn commit(&self) -> rusqlite::Result<()> {
        self.connection.execute_batch("COMMIT")
    }

    pub(super) fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            // It fails when SQLite has rolled back by itself.
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }

    /// Whether SQLite has given up the transaction that was begun.
    pub(super) fn has_rolled_back(&self) -> bool {
        self.connection.is_autocommit()
    }

    /// Whether it was stored: nothing is stored over a SUCCESS.
    pub(super) fn store(&self, meta: &TaskMeta, columns: &Columns) -> rusqlite::Result<bool> {
        let extended = meta.extended.as_deref();
        let changed = self.connection.prepare_cached(&self.sql.store)?.execute(named_params! {
            ":task_id": meta.task_id,
            ":status": meta.status,
            ":result": columns.result,
            ":date_done": columns.date_done,
            ":traceback": meta.traceback,
            ":children": columns.children,
            ":name": extended.and_then(|extended| extended.name.as_deref()),
            ":args": columns.args,
            ":kwargs": columns.kwargs,
            ":worker": extended.and_then(|extended| extended.worker.as_deref()),
            ":retries": extended.map(|extended| extended.retries),
            ":queue": extended.and_then(|extended| extended.queue.as_deref()),
            ":stamps": columns.stamps,
        })?;
        Ok(changed > 0)
    }

    /// The documents among up to [`IDS_CHUNK`] ids, in any order; with `ready` only those that end a wait.
    pub(super) fn get<S: AsRef<str>>(
        &self,
        ids: &[S],
        ready: bool,
    ) -> rusqlite::Result<Vec<(String, Result<TaskMeta>)>> {
        let sql = if ready { &self.sql.get_ready } else { &self.sql.get };
        let mut statement = self.connection.prepare_cached(sql)?;
        let found = statement.query_map([json_array(ids)], rows::read)?;
        found.collect()
    }

    pub(super) fn forget(&self, ids: &[String]) -> rusqlite::Result<()> {
        self.connection.prepare_cached(&self.sql.forget)?.execute([json_array(ids)]).map(drop)
    }

    /// Removes what ended before a time, from both tables.
    pub(super) fn cleanup(&self, before: &str) -> rusqlite::Result<u64> {
        let mut removed = 0;
        for sql in &self.sql.cleanup {
            removed += self.connection.execute(sql, [before])? as u64;
        }
        Ok(removed)
    }
}

impl Statements {
    fn new(location: &Location) -> Self {
        let Location { task_table: task, group_table: group, .. } = location;
        let columns = || COLUMNS.split(',').map(str::trim);
        let values: Vec<String> = columns().map(|column| format!(":{column}")).collect();
        // Celery leaves the stamps of an earlier state when a later one has none.
        let updates: Vec<String> = columns()
            .filter(|column| *column != "task_id")
            .map(|column| match column {
                "stamps" => "stamps = coalesce(excluded.stamps, stamps)".to_owned(),
                column => format!("{column} = excluded.{column}"),
            })
            .collect();
        let get = format!("SELECT {COLUMNS} FROM {task} WHERE task_id IN (SELECT value FROM json_each(?1))");
        Self {
            store: format!(
                "INSERT INTO {task} ({COLUMNS}) VALUES ({}) ON CONFLICT (task_id) DO UPDATE SET {} \
                 WHERE {task}.status IS NOT 'SUCCESS'",
                values.join(", "),
                updates.join(", "),
            ),
            get_ready: format!("{get} AND status IN ('SUCCESS', 'FAILURE', 'REVOKED')"),
            get,
            forget: format!("DELETE FROM {task} WHERE task_id IN (SELECT value FROM json_each(?1))"),
            cleanup: [task, group].map(|table| format!("DELETE FROM {table} WHERE date_done < ?1")),
        }
    }
}

/// With a write-ahead log, readers and one writer at a time do not stop each other. The file remembers it, so that
/// Python's SQLite joins in.
fn write_ahead(connection: &Connection, limit: Duration) -> rusqlite::Result<()> {
    let end = Instant::now() + limit;
    loop {
        // SQLite does not wait for the lock that this takes when another process opens the new file too.
        match connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(())) {
            Err(error) if is_busy(&error) && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

/// Whether another connection is in the way; it will not be for long.
fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn json_array<S: AsRef<str>>(ids: &[S]) -> String {
    let ids: Vec<&str> = ids.iter().map(AsRef::as_ref).collect();
    serde_json::Value::from(ids).to_string()
}

/// To the letter what SQLAlchemy writes, so that no tool sees a difference.
fn create_tables(connection: &mut Connection, location: &Location) -> rusqlite::Result<()> {
    let Location { task_table: task, group_table: group, .. } = location;
    let count = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN (?1, ?2)";
    let tables: i64 = connection.query_row(count, [task, group], |row| row.get(0))?;
    if tables == 2 && missing_columns(connection, task)?.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS {task} (
\tid INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, \n\ttask_id VARCHAR(155), \n\tstatus VARCHAR(50), \n\tresult BLOB, \
\n\tdate_done DATETIME, \n\ttraceback TEXT, \n\tchildren BLOB, \n\tname VARCHAR(155), \n\targs BLOB, \n\tkwargs BLOB, \
\n\tworker VARCHAR(155), \n\tretries INTEGER, \n\tqueue VARCHAR(155), \n\tstamps BLOB, \n\tUNIQUE (task_id)\n);
CREATE TABLE IF NOT EXISTS {group} (
\tid INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, \n\ttaskset_id VARCHAR(155), \n\tresult BLOB, \
\n\tdate_done DATETIME, \n\tUNIQUE (taskset_id)\n);
CREATE INDEX IF NOT EXISTS ix_{task}_date_done ON {task} (date_done);
CREATE INDEX IF NOT EXISTS ix_{group}_date_done ON {group} (date_done);"
    ))?;
    for (column, kind) in missing_columns(&transaction, task)? {
        transaction.execute_batch(&format!("ALTER TABLE {task} ADD COLUMN {column} {kind}"))?;
    }
    transaction.commit()
}

fn missing_columns(
    connection: &Connection,
    table: &str,
) -> rusqlite::Result<Vec<(&'static str, &'static str)>> {
    let mut statement = connection.prepare("SELECT name FROM pragma_table_info(?1)")?;
    let present: Vec<String> =
        statement.query_map([table], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(COLUMNS_ADDED.into_iter().filter(|(column, _)| !present.iter().any(|name| name == column)).collect())
}

#[cfg(unix)]
fn file_id(location: &Location) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(&location.path).ok().map(|file| (file.dev(), file.ino()))
}

/// Where an open file can be neither moved nor removed.
#[cfg(not(unix))]
fn file_id(_location: &Location) -> Option<FileId> {
    None
}
