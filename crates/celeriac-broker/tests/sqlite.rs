//! The transport contract on an `SQLite` file, and what is special about it.

// Helpers are not inside a test function, where clippy would allow it.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use celeriac_broker::{ExchangeType, Outcome, Settled, Settlement};
use rusqlite::Connection;
use support::{
    Folder, bodies, body, consume, exchange, open, open_with, publish, queue, settle, take, through, to,
    within,
};

celeriac_testkit::transport_contract!(contract, async {
    let folder = Folder::new();
    (folder.url("broker.db"), folder)
});

const LEASE: Duration = Duration::from_secs(30);
const SHORT_LEASE: Duration = Duration::from_secs(1);

/// What kombu's own `SQLAlchemy` transport creates and writes.
fn golden() -> serde_json::Value {
    let text = include_str!("../../celeriac-protocol/tests/golden/transport_sqlalchemy.json");
    serde_json::from_str(text).unwrap()
}

fn column(connection: &Connection, sql: &str) -> Vec<String> {
    let mut statement = connection.prepare(sql).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// kombu's tables with kombu's rows, as a Python producer leaves them.
fn as_python_leaves_it(folder: &Folder) -> Connection {
    let connection = Connection::open(folder.path("broker.db")).unwrap();
    let step = &golden()["steps"][0];
    for sql in step["schema"].as_array().unwrap() {
        let sql = sql.as_str().unwrap();
        if !sql.contains("sqlite_sequence") {
            connection.execute_batch(sql).unwrap();
        }
    }
    connection.execute("INSERT INTO kombu_queue (id, name) VALUES (1, 'golden')", []).unwrap();
    for row in step["kombu_message"].as_array().unwrap() {
        connection
            .execute(
                "INSERT INTO kombu_message (visible, timestamp, payload, version, queue_id) VALUES (1, NULL, ?1, 1, 1)",
                [row["payload"].as_str().unwrap()],
            )
            .unwrap();
    }
    connection
}

#[tokio::test]
async fn the_tables_are_kombus_to_the_letter() {
    let folder = Folder::new();
    let transport = open(&folder.url("broker.db"));
    transport.connect().await.unwrap();
    let connection = Connection::open(folder.path("broker.db")).unwrap();
    let mut ours = column(
        &connection,
        "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'celeriac_%'",
    );
    let mut kombus: Vec<_> = golden()["steps"][0]["schema"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sql| sql.as_str().unwrap().to_owned())
        .collect();
    ours.sort();
    kombus.sort();
    assert_eq!(ours, kombus);
}

#[tokio::test]
async fn a_published_row_is_one_that_kombu_takes() {
    let folder = Folder::new();
    let transport = open(&folder.url("broker.db"));
    publish(&transport, &[to("q", "x")]).await;
    let connection = Connection::open(folder.path("broker.db")).unwrap();
    let row: (i64, Option<String>, i64, String, String) = connection
        .query_row(
            "SELECT visible, timestamp, version, typeof(payload), name FROM kombu_message m \
             JOIN kombu_queue q ON q.id = m.queue_id",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
        )
        .unwrap();
    assert_eq!(row, (1, None, 1, "text".to_owned(), "q".to_owned()));
}

#[tokio::test]
async fn messages_that_python_left_are_taken_and_their_rows_go() {
    let folder = Folder::new();
    let connection = as_python_leaves_it(&folder);
    let transport = open(&folder.url("broker.db"));
    let consumer = consume(&transport, &["golden"], LEASE).await;
    let came = take(&consumer, 2).await;
    assert!(body(&came[0]).starts_with("[[1, 2], {}"));
    assert!(came[0].message.as_ref().unwrap().headers.contains(r#""task": "tasks.add""#));
    for delivery in &came {
        assert_eq!(settle(&consumer, delivery.tag, Outcome::Ack).await.unwrap(), Settled::Done);
    }
    assert!(column(&connection, "SELECT payload FROM kombu_message").is_empty());
}

#[tokio::test]
async fn what_python_has_taken_is_never_touched() {
    let folder = Folder::new();
    let connection = as_python_leaves_it(&folder);
    connection
        .execute("UPDATE kombu_message SET visible = 0, timestamp = '2020-01-01 00:00:00' WHERE id = 1", [])
        .unwrap();
    let transport = open(&folder.url("broker.db"));
    let consumer = consume(&transport, &["golden"], SHORT_LEASE).await;
    assert!(body(&take(&consumer, 1).await[0]).contains("lue"), "the second one");
    // Two sweeps pass.
    let more = tokio::time::timeout(Duration::from_millis(2500), consumer.receive(1)).await;
    assert!(more.is_err(), "nothing else comes");
    assert_eq!(transport.purge("golden").await.unwrap(), 0);
    consumer.close().await.unwrap();
    let left = column(&connection, "SELECT id || ' ' || visible FROM kombu_message");
    assert_eq!(left, ["1 0", "2 1"]);
}

#[tokio::test]
async fn what_is_no_envelope_comes_as_an_error_with_its_bytes() {
    let folder = Folder::new();
    let connection = as_python_leaves_it(&folder);
    connection.execute("UPDATE kombu_message SET payload = 'not json' WHERE id = 1", []).unwrap();
    let transport = open(&folder.url("broker.db"));
    let consumer = consume(&transport, &["golden"], LEASE).await;
    let came = take(&consumer, 2).await;
    assert_eq!(came[0].message.as_ref().unwrap_err().code(), "ERR_CELERIAC_DECODE");
    assert_eq!(came[0].raw, "not json");
    assert!(came[1].message.is_ok());
    let dead = Outcome::Dead { reason: "malformed", detail: "no JSON".to_owned() };
    assert_eq!(settle(&consumer, came[0].tag, dead).await.unwrap(), Settled::Done);
    let id = transport.dead_letters(0, 10).await.unwrap()[0].id.clone();
    assert_eq!(transport.dead_letter(&id).await.unwrap().unwrap().1, "not json");
    // Putting it back keeps it as it was, too.
    consumer.close().await.unwrap();
}

#[tokio::test]
async fn a_lost_lease_publishes_nothing() {
    let folder = Folder::new();
    let transport = open(&folder.url("broker.db"));
    publish(&transport, &[to("q", "task")]).await;
    let consumer = consume(&transport, &["q"], LEASE).await;
    let delivery = take(&consumer, 1).await.remove(0);
    // As a process does that took us for dead.
    Connection::open(folder.path("broker.db"))
        .unwrap()
        .execute_batch("DELETE FROM celeriac_lease; UPDATE kombu_message SET visible = 1")
        .unwrap();
    assert_eq!(consumer.still_held(&[delivery.tag]).await.unwrap(), [false]);
    let late =
        Settlement { tag: delivery.tag, publish: vec![to("next", "x")], store: None, outcome: Outcome::Ack };
    assert_eq!(within(consumer.settle(&[late])).await.remove(0).unwrap(), Settled::Lost);
    assert_eq!(transport.queue_length("next").await.unwrap(), 0);
    assert_eq!(transport.queue_length("q").await.unwrap(), 1);
}

#[tokio::test]
async fn whoever_was_taken_for_dead_goes_on_under_a_new_name() {
    let folder = Folder::new();
    let transport = open(&folder.url("broker.db"));
    publish(&transport, &[to("q", "task")]).await;
    let consumer = consume(&transport, &["q"], SHORT_LEASE).await;
    let first = take(&consumer, 1).await.remove(0);
    let other = open(&folder.url("broker.db"));
    let watching = consume(&other, &["elsewhere"], LEASE).await;
    // The other takes what the holder had, as if it had not renewed; it is our own message that comes again.
    Connection::open(folder.path("broker.db"))
        .unwrap()
        .execute_batch("DELETE FROM celeriac_holder WHERE id = (SELECT holder_id FROM celeriac_lease)")
        .unwrap();
    let again = take(&consumer, 1).await.remove(0);
    assert!(again.message.as_ref().unwrap().properties.delivery_info.redelivered);
    assert_eq!(settle(&consumer, first.tag, Outcome::Ack).await.unwrap(), Settled::Lost);
    assert_eq!(settle(&consumer, again.tag, Outcome::Ack).await.unwrap(), Settled::Done);
    watching.close().await.unwrap();
}

#[tokio::test]
async fn a_consumer_is_told_what_it_lost() {
    let folder = Folder::new();
    let subject = celeriac_testkit::transport_contract::Subject::new(folder.url("broker.db"));
    celeriac_testkit::transport_contract::a_consumer_is_told_what_it_lost(&subject, |_| async {
        // It holds nothing else; whoever looks next puts it back.
        Connection::open(folder.path("broker.db"))
            .unwrap()
            .execute("DELETE FROM celeriac_holder", [])
            .unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_lease_that_could_not_be_renewed_in_time_is_looked_at_again() {
    let folder = Folder::new();
    let transport = open_with(&folder.url("broker.db"), serde_json::json!({ "busy_timeout": 0.1 }));
    publish(&transport, &[to("q", "task")]).await;
    let consumer = consume(&transport, &["q"], SHORT_LEASE).await;
    let delivery = take(&consumer, 1).await.remove(0);
    let locking = Connection::open(folder.path("broker.db")).unwrap();
    locking.execute_batch("BEGIN EXCLUSIVE").unwrap();
    within(async {
        while consumer.leases_stand() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    locking.execute_batch("COMMIT").unwrap();
    assert_eq!(within(consumer.lost()).await, [], "nobody took it for dead");
    assert!(consumer.leases_stand());
    assert_eq!(settle(&consumer, delivery.tag, Outcome::Ack).await.unwrap(), Settled::Done);
}

#[tokio::test]
async fn a_dead_message_that_cannot_be_read_is_listed_and_replayed_only_where_it_is_told_to() {
    let folder = Folder::new();
    let transport = open(&folder.url("broker.db"));
    publish(&transport, &[to("q", "one"), to("q", "two")]).await;
    let consumer = consume(&transport, &["q"], LEASE).await;
    let deliveries = take(&consumer, 2).await;
    for delivery in &deliveries {
        let dead = Outcome::Dead { reason: "rejected", detail: String::new() };
        assert_eq!(settle(&consumer, delivery.tag, dead).await.unwrap(), Settled::Done);
    }
    let connection = Connection::open(folder.path("broker.db")).unwrap();
    connection.execute("UPDATE celeriac_dead SET entry = '{}', raw = x'fffe' WHERE id = 2", []).unwrap();
    let letters = transport.dead_letters(0, 10).await.unwrap();
    let known: Vec<_> =
        letters.iter().map(|letter| (letter.reason.as_str(), letter.queue.as_str(), letter.size)).collect();
    assert_eq!(known, [("rejected", "q", deliveries[0].raw.len() as u64), ("unreadable", "", 2)]);
    let ids: Vec<_> = letters.iter().map(|letter| letter.id.clone()).collect();
    let error = within(transport.replay_dead(&ids, None)).await.unwrap_err();
    assert_eq!(error.code(), "ERR_CELERIAC_INVALID_ARGUMENT");
    assert_eq!(transport.queue_length("q").await.unwrap(), 0, "nothing was moved");
    assert_eq!(transport.dead_count().await.unwrap(), 2);
    assert_eq!(within(transport.replay_dead(&ids, Some("other"))).await.unwrap(), [true, true]);
    let other = consume(&transport, &["other"], LEASE).await;
    let came = take(&other, 2).await;
    let raws: Vec<_> = came.iter().map(|delivery| delivery.raw.to_vec()).collect();
    assert_eq!(raws, [deliveries[0].raw.to_vec(), b"\xff\xfe".to_vec()]);
    assert_eq!(transport.dead_count().await.unwrap(), 0);
}

#[tokio::test]
async fn what_kombu_purged_while_it_was_held_comes_back_when_it_is_requeued() {
    let folder = Folder::new();
    let transport = open(&folder.url("broker.db"));
    publish(&transport, &[to("q", "task")]).await;
    let consumer = consume(&transport, &["q"], LEASE).await;
    let delivery = take(&consumer, 1).await.remove(0);
    Connection::open(folder.path("broker.db")).unwrap().execute("DELETE FROM kombu_message", []).unwrap();
    let requeue = Outcome::Requeue { redelivered: true };
    assert_eq!(settle(&consumer, delivery.tag, requeue).await.unwrap(), Settled::Done);
    assert_eq!(bodies(&take(&consumer, 1).await), ["task"]);
}

#[tokio::test]
async fn what_nobody_has_seen_goes_back_unmarked() {
    let folder = Folder::new();
    let (transport, other) = (open(&folder.url("broker.db")), open(&folder.url("broker.db")));
    publish(&transport, &[to("q", "seen"), to("q", "unseen"), to("q", "unseen")]).await;
    let consumer = consume(&transport, &["q"], LEASE).await;
    assert_eq!(take(&consumer, 1).await.len(), 1);
    // Claims two and is dropped before it can give them out.
    let waiting = consumer.receive(2);
    tokio::pin!(waiting);
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    within(async {
        while other.queue_length("q").await.unwrap() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    consumer.close().await.unwrap();
    let next = consume(&other, &["q"], LEASE).await;
    let came = take(&next, 3).await;
    let marks: Vec<_> = came
        .iter()
        .map(|delivery| {
            (body(delivery), delivery.message.as_ref().unwrap().properties.delivery_info.redelivered)
        })
        .collect();
    let expected = [("seen", true), ("unseen", false), ("unseen", false)];
    assert_eq!(marks, expected.map(|(body, mark)| (body.to_owned(), mark)));
}

#[tokio::test]
async fn a_full_queue_does_not_starve_another() {
    let folder = Folder::new();
    let transport = open(&folder.url("broker.db"));
    let batch: Vec<_> = (0..10).map(|_| to("full", "full")).chain([to("other", "other")]).collect();
    publish(&transport, &batch).await;
    let consumer = consume(&transport, &["full", "other"], LEASE).await;
    let first = take(&consumer, 1).await;
    let second = take(&consumer, 1).await;
    assert_eq!((body(&first[0]), body(&second[0])), ("full".to_owned(), "other".to_owned()));
}

#[tokio::test]
async fn a_listener_on_a_topic_exchange_hears_what_its_keys_match() {
    let folder = Folder::new();
    let (transport, other) = (open(&folder.url("broker.db")), open(&folder.url("broker.db")));
    let events = exchange("events", ExchangeType::Topic);
    let mut listener = transport.subscribe(&events, &["task.#".to_owned()]).await.unwrap();
    let refused = other.publish(&[through("events", ExchangeType::Topic, "worker.online", "no")]).await;
    assert_eq!(refused[0].as_ref().unwrap_err().code(), "ERR_CELERIAC_UNROUTABLE");
    publish(&other, &[through("events", ExchangeType::Topic, "task.sent", "yes")]).await;
    assert_eq!(within(listener.next()).await.unwrap().body, "yes");
    drop(listener);
    within(async {
        let sent = through("events", ExchangeType::Topic, "task.sent", "nobody");
        while other.publish(std::slice::from_ref(&sent)).await.remove(0).is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_lock_that_others_hold_for_a_while_is_waited_for() {
    let folder = Folder::new();
    let transport = open(&folder.url("broker.db"));
    transport.connect().await.unwrap();
    let connection = Connection::open(folder.path("broker.db")).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    let publishing = tokio::spawn({
        let transport = transport.clone();
        async move { transport.publish(&[to("q", "x")]).await.remove(0) }
    });
    let (held, quiet) = (publishing, Duration::from_millis(150));
    tokio::pin!(held);
    assert!(tokio::time::timeout(quiet, held.as_mut()).await.is_err(), "it waits");
    connection.execute_batch("COMMIT").unwrap();
    within(held).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_lock_that_others_hold_for_too_long_is_a_transient_error_that_names_the_file() {
    let folder = Folder::new();
    let transport = open_with(&folder.url("broker.db"), serde_json::json!({ "busy_timeout": 0.1 }));
    transport.connect().await.unwrap();
    let connection = Connection::open(folder.path("broker.db")).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = within(transport.publish(&[to("q", "x")])).await.remove(0).unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().contains("broker.db"), "{error}");
    connection.execute_batch("COMMIT").unwrap();
    publish(&transport, &[to("q", "x")]).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_a_typed_error_that_says_why() {
    let folder = Folder::new();
    std::fs::write(folder.path("text"), "this is not a database, and it is longer than a header").unwrap();
    std::fs::create_dir(folder.path("folder")).unwrap();
    for (name, expected) in
        [("missing/f.db", "does not exist"), ("text", "not an SQLite database"), ("folder", "writable")]
    {
        let transport = open(&folder.url(name));
        let error = within(transport.connect()).await.unwrap_err();
        assert_eq!(error.code(), "ERR_CELERIAC_REFUSED", "{error}");
        assert!(error.to_string().contains(expected) && error.to_string().contains(name), "{error}");
        let consuming = support::queue("q");
        assert_eq!(within(transport.declare(&[consuming])).await.unwrap_err().code(), "ERR_CELERIAC_REFUSED");
        within(transport.close()).await;
    }
    assert_eq!(std::fs::read_to_string(folder.path("text")).unwrap().len(), 54, "it is left as it was");
}

#[tokio::test]
async fn a_file_that_goes_while_it_is_open_is_made_anew() {
    let folder = Folder::new();
    let transport = open(&folder.url("broker.db"));
    transport.declare(&[queue("q")]).await.unwrap();
    publish(&transport, &[to("q", "held")]).await;
    let consumer = consume(&transport, &["q"], LEASE).await;
    let gone = take(&consumer, 1).await.remove(0);
    let waiting = tokio::spawn({
        let consumer = consumer.clone();
        async move { consumer.receive(1).await }
    });
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(folder.path(&format!("broker.db{suffix}")));
    }
    publish(&transport, &[to("q", "new")]).await;
    let came = within(waiting).await.unwrap().unwrap();
    assert_eq!(bodies(&came), ["new"]);
    assert_eq!(settle(&consumer, gone.tag, Outcome::Ack).await.unwrap(), Settled::Lost);
    assert_eq!(settle(&consumer, came[0].tag, Outcome::Ack).await.unwrap(), Settled::Done);
    assert!(folder.path("broker.db").exists());
}

#[tokio::test]
async fn a_file_that_is_polled_wakes_a_waiting_receive_too() {
    let folder = Folder::new();
    let polling = open_with(&folder.url("broker.db"), serde_json::json!({ "polling_interval": 0.02 }));
    let other = open(&folder.url("broker.db"));
    let consumer = consume(&polling, &["q"], LEASE).await;
    let waiting = tokio::spawn(async move { consumer.receive(1).await.map(|batch| bodies(&batch)) });
    other.connect().await.unwrap();
    publish(&other, &[to("q", "x")]).await;
    assert_eq!(within(waiting).await.unwrap().unwrap(), ["x"]);
}

#[tokio::test]
async fn other_tables_can_be_named() {
    let folder = Folder::new();
    let options = serde_json::json!({ "queue_tablename": "my_queue", "message_tablename": "my_message" });
    let transport = open_with(&folder.url("broker.db"), options);
    publish(&transport, &[to("q", "x")]).await;
    let consumer = consume(&transport, &["q"], LEASE).await;
    assert_eq!(bodies(&take(&consumer, 1).await), ["x"]);
    let connection = Connection::open(folder.path("broker.db")).unwrap();
    assert_eq!(column(&connection, "SELECT name FROM my_queue"), ["q"]);
    assert_eq!(column(&connection, "SELECT CAST(visible AS TEXT) FROM my_message"), ["0"]);
    let names = column(&connection, "SELECT name FROM sqlite_master WHERE name LIKE 'kombu%'");
    assert!(names.is_empty(), "{names:?}");
}
