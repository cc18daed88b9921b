//! The tables: kombu's own, to the letter, and ours beside them.

use rusqlite::Connection;

use super::location::Location;

/// Creates what is missing. Whoever comes first creates; Python does the same check before it creates its own.
///
/// Ours say what kombu has no place for. Their names end in the message table's when that is not the default, since
/// message ids mean nothing without it.
pub(super) fn create(connection: &Connection, location: &Location) -> rusqlite::Result<()> {
    let (queue, message, own) = (&location.queue_table, &location.message_table, suffix(location));
    // The text of kombu's tables is what SQLAlchemy writes for `kombu.transport.sqlalchemy.models`.
    connection.execute_batch(&format!(
        r#"
CREATE TABLE IF NOT EXISTS {queue} (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	name VARCHAR(200), 
	UNIQUE (name)
);
CREATE TABLE IF NOT EXISTS {message} (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	visible BOOLEAN, 
	timestamp DATETIME, 
	payload TEXT NOT NULL, 
	version SMALLINT NOT NULL, 
	queue_id INTEGER, 
	CONSTRAINT "FK_kombu_message_queue" FOREIGN KEY(queue_id) REFERENCES {queue} (id)
);
CREATE INDEX IF NOT EXISTS ix_{message}_timestamp ON {message} (timestamp);
CREATE INDEX IF NOT EXISTS ix_kombu_message_timestamp_id ON {message} (timestamp, id);
CREATE INDEX IF NOT EXISTS ix_{message}_visible ON {message} (visible);

-- What waits in a queue, in the order in which it is taken. Without it a worker walks over every message of every
-- other queue, and over all that Python has finished and kept.
CREATE INDEX IF NOT EXISTS celeriac_waiting{own} ON {message} (queue_id, timestamp, id) WHERE visible = 1;

-- Consumers and subscriptions that are alive; one that is not renewed in time has died.
CREATE TABLE IF NOT EXISTS celeriac_holder{own} (
    id INTEGER PRIMARY KEY,
    node TEXT NOT NULL,
    expires_ms INTEGER NOT NULL
);
-- Which messages they hold. A message that is not visible and has no row here is Python's.
CREATE TABLE IF NOT EXISTS celeriac_lease{own} (
    message_id INTEGER PRIMARY KEY,
    holder_id INTEGER NOT NULL
);
-- kombu keeps its bindings in each process.
CREATE TABLE IF NOT EXISTS celeriac_binding{own} (
    exchange TEXT NOT NULL,
    routing_key TEXT NOT NULL,
    queue TEXT NOT NULL,
    PRIMARY KEY (exchange, routing_key, queue)
) WITHOUT ROWID;
-- Who listens to which exchange; what they hear, kept for a minute.
CREATE TABLE IF NOT EXISTS celeriac_listener{own} (
    exchange TEXT NOT NULL,
    holder_id INTEGER NOT NULL,
    kind TEXT NOT NULL,
    routing_key TEXT NOT NULL,
    PRIMARY KEY (exchange, holder_id, routing_key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS celeriac_fanout{own} (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    exchange TEXT NOT NULL,
    routing_key TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    payload TEXT NOT NULL
);
-- How often the bodies of tasks have begun whose messages came back.
CREATE TABLE IF NOT EXISTS celeriac_delivery{own} (
    task_id TEXT PRIMARY KEY,
    count INTEGER NOT NULL,
    at_ms INTEGER NOT NULL
) WITHOUT ROWID;
-- What nobody could handle. The bytes come last: whoever lists the entries reads none of their pages.
CREATE TABLE IF NOT EXISTS celeriac_dead{own} (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    entry TEXT NOT NULL,
    raw BLOB NOT NULL
);
"#
    ))
}

/// Whether the last table that [`create`] makes is there, and with it all the others.
pub(super) fn exists(connection: &Connection, location: &Location) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT count(*) = 2 FROM sqlite_master WHERE type = 'table' AND name IN (?1, ?2)",
        [&location.message_table, &format!("celeriac_dead{}", suffix(location))],
        |row| row.get(0),
    )
}

fn suffix(location: &Location) -> String {
    if location.message_table == "kombu_message" {
        String::new()
    } else {
        format!("_{}", location.message_table)
    }
}

/// Every statement, with the names of the tables filled in.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) find_queue: String,
    pub(super) add_queue: String,
    pub(super) add_message: String,
    pub(super) has_waiting: String,
    pub(super) next_waiting: String,
    pub(super) take: String,
    pub(super) give_back: String,
    pub(super) delete_message: String,
    pub(super) count_waiting: String,
    pub(super) purge: String,
    pub(super) add_lease: String,
    pub(super) drop_lease: String,
    pub(super) find_lease: String,
    pub(super) leased_by: String,
    pub(super) add_holder: String,
    pub(super) renew_holder: String,
    pub(super) drop_holder: String,
    pub(super) drop_leases: String,
    pub(super) drop_listeners: String,
    pub(super) expired_holders: String,
    pub(super) add_binding: String,
    pub(super) bindings: String,
    pub(super) add_listener: String,
    pub(super) listeners: String,
    pub(super) add_fanout: String,
    pub(super) last_fanout: String,
    pub(super) next_fanout: String,
    pub(super) prune_fanout: String,
    pub(super) add_dead: String,
    pub(super) dead_letters: String,
    pub(super) dead_count: String,
    pub(super) dead_letter: String,
    pub(super) dead_raw: String,
    pub(super) replay_dead: String,
    pub(super) drop_dead: String,
    pub(super) begin: String,
    pub(super) forget: String,
    pub(super) prune_deliveries: String,
}

impl Statements {
    pub(super) fn new(location: &Location) -> Self {
        let (queue, message, own) = (&location.queue_table, &location.message_table, suffix(location));
        Self {
            find_queue: format!("SELECT id FROM {queue} WHERE name = ?1"),
            add_queue: format!("INSERT INTO {queue} (name) VALUES (?1)"),
            add_message: format!(
                "INSERT INTO {message} (visible, timestamp, payload, version, queue_id) VALUES (1, ?1, ?2, 1, ?3)"
            ),
            has_waiting: format!(
                "SELECT EXISTS (SELECT 1 FROM {message} WHERE queue_id = ?1 AND visible = 1)"
            ),
            next_waiting: format!(
                "SELECT CAST(timestamp AS TEXT), id FROM {message} WHERE queue_id = ?1 AND visible = 1 \
                 ORDER BY timestamp, id LIMIT ?2"
            ),
            // kombu compares the version before it writes a row that it has read; it sees that we were first.
            take: format!(
                "UPDATE {message} SET visible = 0, version = version + 1 WHERE id = ?1 AND visible = 1 \
                 RETURNING payload"
            ),
            give_back: format!(
                "UPDATE {message} SET visible = 1, version = version + 1, payload = coalesce(?2, payload) \
                 WHERE id = ?1"
            ),
            delete_message: format!("DELETE FROM {message} WHERE id = ?1"),
            count_waiting: format!(
                "SELECT count(*) FROM {message} \
                 WHERE queue_id = (SELECT id FROM {queue} WHERE name = ?1) AND visible = 1"
            ),
            purge: format!(
                "DELETE FROM {message} WHERE queue_id = (SELECT id FROM {queue} WHERE name = ?1) AND visible = 1"
            ),
            add_lease: format!(
                "INSERT OR REPLACE INTO celeriac_lease{own} (message_id, holder_id) VALUES (?1, ?2)"
            ),
            drop_lease: format!("DELETE FROM celeriac_lease{own} WHERE message_id = ?1 AND holder_id = ?2"),
            find_lease: format!(
                "SELECT EXISTS (SELECT 1 FROM celeriac_lease{own} WHERE message_id = ?1 AND holder_id = ?2)"
            ),
            leased_by: format!(
                "SELECT l.message_id, m.payload FROM celeriac_lease{own} l JOIN {message} m ON m.id = l.message_id \
                 WHERE l.holder_id = ?1 ORDER BY l.message_id"
            ),
            add_holder: format!(
                "INSERT INTO celeriac_holder{own} (id, node, expires_ms) VALUES (?1, ?2, ?3)"
            ),
            renew_holder: format!("UPDATE celeriac_holder{own} SET expires_ms = ?2 WHERE id = ?1"),
            drop_holder: format!("DELETE FROM celeriac_holder{own} WHERE id = ?1"),
            drop_leases: format!("DELETE FROM celeriac_lease{own} WHERE holder_id = ?1"),
            drop_listeners: format!("DELETE FROM celeriac_listener{own} WHERE holder_id = ?1"),
            expired_holders: format!(
                "SELECT id FROM celeriac_holder{own} WHERE expires_ms < ?1 UNION \
                 SELECT holder_id FROM celeriac_lease{own} \
                 WHERE holder_id NOT IN (SELECT id FROM celeriac_holder{own})"
            ),
            add_binding: format!(
                "INSERT OR IGNORE INTO celeriac_binding{own} (exchange, routing_key, queue) VALUES (?1, ?2, ?3)"
            ),
            bindings: format!(
                "SELECT routing_key, queue FROM celeriac_binding{own} WHERE exchange = ?1 ORDER BY routing_key, queue"
            ),
            add_listener: format!(
                "INSERT OR IGNORE INTO celeriac_listener{own} (exchange, holder_id, kind, routing_key) \
                 VALUES (?1, ?2, ?3, ?4)"
            ),
            listeners: format!(
                "SELECT DISTINCT kind, routing_key FROM celeriac_listener{own} WHERE exchange = ?1"
            ),
            add_fanout: format!(
                "INSERT INTO celeriac_fanout{own} (exchange, routing_key, at_ms, payload) VALUES (?1, ?2, ?3, ?4)"
            ),
            last_fanout: format!("SELECT coalesce(max(id), 0) FROM celeriac_fanout{own}"),
            next_fanout: format!(
                "SELECT id, exchange, routing_key, payload FROM celeriac_fanout{own} WHERE id > ?1 ORDER BY id"
            ),
            prune_fanout: format!(
                "DELETE FROM celeriac_fanout{own} WHERE at_ms < ?1 \
                 OR id <= (SELECT max(id) FROM celeriac_fanout{own}) - ?2"
            ),
            add_dead: format!("INSERT INTO celeriac_dead{own} (at_ms, entry, raw) VALUES (?1, ?2, ?3)"),
            dead_letters: format!(
                "SELECT id, at_ms, CAST(entry AS BLOB), length(raw) FROM celeriac_dead{own} ORDER BY id LIMIT ?1 OFFSET ?2"
            ),
            dead_count: format!("SELECT count(*) FROM celeriac_dead{own}"),
            dead_letter: format!(
                "SELECT id, at_ms, CAST(entry AS BLOB), length(raw) FROM celeriac_dead{own} WHERE id = ?1"
            ),
            dead_raw: format!("SELECT raw FROM celeriac_dead{own} WHERE id = ?1"),
            // The same bytes as text, whatever they are: that is what Python expects of the column.
            replay_dead: format!(
                "INSERT INTO {message} (visible, timestamp, payload, version, queue_id) \
                 SELECT 1, ?2, CAST(raw AS TEXT), 1, ?3 FROM celeriac_dead{own} WHERE id = ?1"
            ),
            drop_dead: format!("DELETE FROM celeriac_dead{own} WHERE id = ?1"),
            begin: format!(
                "INSERT INTO celeriac_delivery{own} (task_id, count, at_ms) VALUES (?1, 2, ?2) \
                 ON CONFLICT (task_id) DO UPDATE SET count = CASE WHEN at_ms < ?3 THEN 2 ELSE count + 1 END, at_ms = ?2 \
                 RETURNING count"
            ),
            forget: format!("DELETE FROM celeriac_delivery{own} WHERE task_id = ?1"),
            prune_deliveries: format!("DELETE FROM celeriac_delivery{own} WHERE at_ms < ?1"),
        }
    }
}
