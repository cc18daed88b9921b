//! The contract on an SQLite file, and what is SQLAlchemy's own: tables, columns, old files.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use celeriac_protocol::TaskMeta;
use celeriac_result::{ResultStore, StoreOptions};
use celeriac_testkit::result_store_contract::{
    Place, eventually, meta, open, request, store_all, success, within,
};
use rusqlite::Connection;
use serde_json::{Value, json};

/// A file in a folder of its own.
struct File(PathBuf);

impl File {
    fn path(&self) -> PathBuf {
        self.0.join("results.db")
    }

    /// A connection beside the store's, such as Python's is.
    fn connection(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[async_trait]
impl Place for File {
    const EXPIRES: bool = false;
    const CLEANS_UP: bool = true;
    const KEEPS_GROUP: bool = false;

    async fn start() -> Self {
        let folder = std::env::temp_dir().join(format!("celeriac-results-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    fn url(&self) -> String {
        format!("db+sqlite:///{}", self.path().display())
    }
}

celeriac_testkit::result_store_contract!(File);

/// The contract where the file cannot be watched.
mod polled {
    use super::{File, Place, async_trait};

    struct Polled(File);

    #[async_trait]
    impl Place for Polled {
        const EXPIRES: bool = File::EXPIRES;
        const CLEANS_UP: bool = File::CLEANS_UP;
        const KEEPS_GROUP: bool = File::KEEPS_GROUP;

        async fn start() -> Self {
            Self(File::start().await)
        }

        fn url(&self) -> String {
            format!("{}?polling_interval=0.005", self.0.url())
        }
    }

    celeriac_testkit::result_store_contract!(Polled);
}

const GOLDEN: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../celeriac-protocol/tests/golden/results_database.json"
));

/// What Celery left in its tables: one run for each configuration.
fn golden_runs() -> Vec<Value> {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    golden["runs"].as_array().unwrap().clone()
}

fn schema(connection: &Connection) -> Vec<String> {
    let sql = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid";
    let mut statement = connection.prepare(sql).unwrap();
    let mut schema: Vec<String> =
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    schema.sort();
    schema
}

fn bytes(value: &Value) -> Option<Vec<u8>> {
    use base64::Engine;
    value["base64"].as_str().map(|text| base64::prelude::BASE64_STANDARD.decode(text).unwrap())
}

/// Writes rows as they were recorded.
fn insert(connection: &Connection, rows: &[Value]) {
    for row in rows {
        let columns: Vec<&String> = row.as_object().unwrap().keys().collect();
        let values = row.as_object().unwrap().values().map(|value| match value {
            Value::Null => rusqlite::types::Value::Null,
            Value::Number(number) => rusqlite::types::Value::Integer(number.as_i64().unwrap()),
            Value::String(text) => rusqlite::types::Value::Text(text.clone()),
            value => rusqlite::types::Value::Blob(bytes(value).unwrap()),
        });
        let names = columns.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        let marks = vec!["?"; columns.len()].join(", ");
        let sql = format!("INSERT INTO celery_taskmeta ({names}) VALUES ({marks})");
        connection.execute(&sql, rusqlite::params_from_iter(values)).unwrap();
    }
}

async fn begin_wait(
    store: &Arc<dyn ResultStore>,
    task_id: &'static str,
) -> tokio::task::JoinHandle<celeriac_error::Result<TaskMeta>> {
    let waiting = Arc::clone(store);
    let wait = tokio::spawn(async move { waiting.wait(task_id).await });
    eventually("the wait begins", || async { store.waiting() > 0 }).await;
    wait
}

#[tokio::test]
async fn the_tables_are_those_that_sqlalchemy_makes() {
    let place = File::start().await;
    open(&place).await;
    let mut golden: Vec<String> = serde_json::from_value(golden_runs()[0]["schema"].clone()).unwrap();
    golden.sort();
    assert_eq!(schema(&place.connection()), golden);
}

#[tokio::test]
async fn what_celery_stored_is_read() {
    for run in &golden_runs()[..2] {
        let place = File::start().await;
        let store = open(&place).await;
        let rows = run["celery_taskmeta"].as_array().unwrap();
        insert(&place.connection(), rows);
        for row in rows {
            let id = row["task_id"].as_str().unwrap();
            let found = store.get(&[id]).await.unwrap().remove(0).unwrap();
            let text = |column: &str| row[column]["text"].as_str().map(str::to_owned);
            let plain = |column: &str| row[column].as_str().map(str::to_owned);
            assert_eq!(found.task_id, id);
            assert_eq!(Some(&found.status), plain("status").as_ref());
            assert_eq!(Some(found.result_json), text("result"));
            assert_eq!(found.traceback, plain("traceback"));
            assert_eq!(found.children_json, text("children").unwrap_or("null".to_owned()));
            assert_eq!(found.date_done, plain("date_done").map(|date| date.replace(' ', "T") + "+00:00"));
            let extended = found.extended.map(|extended| *extended);
            assert_eq!(extended.is_some(), run["config"]["result_extended"] == true);
            let Some(extended) = extended else { continue };
            assert_eq!(extended.name, plain("name"));
            assert_eq!(Some(extended.args_json), text("args"));
            assert_eq!(Some(extended.kwargs_json), text("kwargs"));
            assert_eq!(extended.worker, plain("worker"));
            assert_eq!(u64::from(extended.retries), row["retries"].as_u64().unwrap());
            assert_eq!(extended.queue, plain("queue"));
            let stamps = text("stamps").map(|stamps| serde_json::from_str::<Value>(&stamps).unwrap());
            let expected = stamps.map(|stamps| {
                let mut fields = stamps["stamps"].as_object().unwrap().clone();
                fields.insert("stamped_headers".to_owned(), stamps["stamped_headers"].clone());
                fields
            });
            let fields: Value = serde_json::from_str(&format!("{{{}}}", extended.stamps_json)).unwrap();
            assert_eq!(fields, Value::Object(expected.unwrap_or_default()));
        }
    }
}

#[tokio::test]
async fn a_row_that_is_read_and_stored_again_is_as_celery_wrote_it() {
    let run = &golden_runs()[1];
    let (theirs, ours) = (File::start().await, File::start().await);
    let (reader, writer) = (open(&theirs).await, open(&ours).await);
    let rows = run["celery_taskmeta"].as_array().unwrap();
    insert(&theirs.connection(), rows);
    let ids: Vec<&str> = rows.iter().map(|row| row["task_id"].as_str().unwrap()).collect();
    let found = reader.get(&ids).await.unwrap();
    store_all(&*writer, found.into_iter().map(|meta| request(meta.unwrap())).collect()).await;
    let dump = |place: &File| {
        let connection = place.connection();
        let mut statement = connection.prepare("SELECT * FROM celery_taskmeta ORDER BY id").unwrap();
        let width = statement.column_count();
        let rows = statement.query_map([], |row| {
            (0..width)
                .map(|column| row.get::<_, rusqlite::types::Value>(column))
                .collect::<Result<Vec<_>, _>>()
        });
        rows.unwrap().collect::<Result<Vec<_>, _>>().unwrap()
    };
    assert_eq!(dump(&ours), dump(&theirs));
}

#[tokio::test]
async fn a_pickle_is_not_opened_and_the_error_names_task_and_state() {
    let place = File::start().await;
    let store = open(&place).await;
    let rows = golden_runs()[2]["celery_taskmeta"].as_array().unwrap().clone();
    insert(&place.connection(), &rows);
    for row in &rows {
        let id = row["task_id"].as_str().unwrap();
        let status = row["status"].as_str().unwrap();
        let mut errors = vec![store.get(&[id]).await.unwrap_err()];
        if celeriac_protocol::result_meta::is_ready(status) {
            errors.push(within("wait", store.wait(id)).await.unwrap_err());
        }
        for error in errors {
            assert_eq!(error.code(), "ERR_CELERIAC_DECODE");
            let told = error.to_string();
            assert!(
                [id, status, "pickle", "result_serializer"].iter().all(|word| told.contains(word)),
                "{told}"
            );
        }
    }
}

#[tokio::test]
async fn bytes_of_another_serializer_are_an_error() {
    let place = File::start().await;
    let store = open(&place).await;
    place
        .connection()
        .execute("INSERT INTO celery_taskmeta (task_id, status, result) VALUES ('id', 'SUCCESS', x'05')", [])
        .unwrap();
    let error = store.get(&["id"]).await.unwrap_err();
    assert_eq!(error.code(), "ERR_CELERIAC_DECODE");
    assert!(error.to_string().contains("result_serializer"), "{error}");
}

#[tokio::test]
async fn a_table_of_an_older_celery_gets_the_missing_columns() {
    let place = File::start().await;
    place
        .connection()
        .execute_batch(
            "CREATE TABLE celery_taskmeta (id INTEGER NOT NULL PRIMARY KEY, task_id VARCHAR(155), \
             status VARCHAR(50), result BLOB, date_done DATETIME, traceback TEXT, UNIQUE (task_id));
             INSERT INTO celery_taskmeta (task_id, status, result, date_done) \
             VALUES ('old', 'SUCCESS', '7', '2026-11-21 10:02:33.770854');",
        )
        .unwrap();
    let store = open(&place).await;
    let mut new = success("new", "8");
    r#"[[["child", null], null]]"#.clone_into(&mut new.children_json);
    store_all(&*store, vec![request(new.clone())]).await;
    assert_eq!(store.get(&["old", "new"]).await.unwrap(), [Some(success("old", "7")), Some(new)]);
}

#[tokio::test]
async fn the_names_of_the_tables_can_be_set() {
    let place = File::start().await;
    let names = json!({ "database_table_names": { "task": "my_tasks", "group": "my_groups" } });
    let Value::Object(options) = names else { unreachable!() };
    let options = StoreOptions { options, ..StoreOptions::default() };
    let store = celeriac_result::open(&place.url(), options).unwrap();
    store_all(&*store, vec![request(success("id", "1"))]).await;
    let count = |table: &str| {
        place
            .connection()
            .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0))
            .unwrap()
    };
    assert_eq!((count("my_tasks"), count("my_groups")), (1, 0));
}

#[tokio::test]
async fn the_cleanup_takes_saved_groups_too() {
    let place = File::start().await;
    let store = open(&place).await;
    place
        .connection()
        .execute_batch(
            "INSERT INTO celery_tasksetmeta (taskset_id, date_done) VALUES ('old', '2001-01-01 00:00:00.000000');
             INSERT INTO celery_tasksetmeta (taskset_id, date_done) VALUES ('new', '2999-01-01 00:00:00.000000');",
        )
        .unwrap();
    assert_eq!(store.cleanup(std::time::Duration::from_secs(1)).await.unwrap(), 1);
}

#[tokio::test]
async fn a_writer_that_knows_nothing_of_us_wakes_a_wait() {
    let place = File::start().await;
    let store = open(&place).await;
    for n in 0..30 {
        let wait = begin_wait(&store, "id").await;
        let python = place.connection();
        python
            .execute_batch(&format!(
                "INSERT INTO celery_taskmeta (task_id, status) VALUES ('id', 'PENDING');
                 UPDATE celery_taskmeta SET status = 'SUCCESS', result = CAST('{n}' AS BLOB) WHERE task_id = 'id';"
            ))
            .unwrap();
        assert_eq!(within("wait", wait).await.unwrap().unwrap().result_json, n.to_string());
        store.forget(&["id"]).await.unwrap();
    }
}

#[tokio::test]
async fn a_file_that_was_removed_is_made_again() {
    let place = File::start().await;
    let store = open(&place).await;
    store_all(&*store, vec![request(success("lost", "1"))]).await;
    let wait = begin_wait(&store, "id").await;
    for name in ["results.db", "results.db-wal", "results.db-shm"] {
        let _ = std::fs::remove_file(place.0.join(name));
    }
    assert_eq!(store.get(&["lost"]).await.unwrap(), [None]);
    let other = open(&place).await;
    store_all(&*other, vec![request(success("id", "1"))]).await;
    assert_eq!(within("wait", wait).await.unwrap().unwrap(), success("id", "1"));
}

#[tokio::test]
async fn a_lock_that_is_held_too_long_is_transient() {
    let place = File::start().await;
    let store =
        celeriac_result::open(&format!("{}?timeout=0.05", place.url()), StoreOptions::default()).unwrap();
    store.connect().await.unwrap();
    let holder = place.connection();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let batch = [request(success("a", "1")), request(success("b", "1"))];
    for result in store.store(&batch).await {
        let error = result.unwrap_err();
        assert_eq!(error.code(), "ERR_CELERIAC_RESULT_STORE_UNAVAILABLE");
        assert!(error.to_string().contains("busy_timeout"), "{error}");
    }
    assert_eq!(store.get(&["a"]).await.unwrap(), [None], "reading goes on");
    holder.execute_batch("ROLLBACK").unwrap();
    store_all(&*store, batch.to_vec()).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_refused_and_a_wait_for_it_ends() {
    let place = File::start().await;
    std::fs::write(place.path(), "no database, but longer than a header of one is: ".repeat(50)).unwrap();
    let missing = place.0.join("missing");
    for (url, word) in [
        (place.url(), "no SQLite database"),
        (format!("db+sqlite:///{}/results.db", missing.display()), "does not exist"),
        (format!("db+sqlite:///{}", place.0.display()), "writable"),
    ] {
        let store = celeriac_result::open(&url, StoreOptions::default()).unwrap();
        let mut errors = vec![
            within("connect", store.connect()).await.unwrap_err(),
            within("get", store.get(&["id"])).await.unwrap_err(),
            within("forget", store.forget(&["id"])).await.unwrap_err(),
            within("wait", store.wait("id")).await.unwrap_err(),
        ];
        errors.extend(store.store(&[request(success("id", "1"))]).await.into_iter().map(Result::unwrap_err));
        for error in errors {
            assert_eq!(error.code(), "ERR_CELERIAC_REFUSED");
            assert!(error.to_string().contains(word), "{error}");
        }
        store.close().await;
    }
}

#[tokio::test]
async fn a_date_that_is_none_fails_alone() {
    let place = File::start().await;
    let store = open(&place).await;
    let wrong = TaskMeta { date_done: Some("yesterday".to_owned()), ..success("wrong", "1") };
    let batch = [request(success("before", "1")), request(wrong), request(meta("after", "STARTED", "null"))];
    let results = store.store(&batch).await;
    assert!(results[0].is_ok() && results[2].is_ok());
    assert_eq!(results[1].as_ref().unwrap_err().code(), "ERR_CELERIAC_INVALID_ARGUMENT");
    let found = store.get(&["before", "wrong", "after"]).await.unwrap();
    assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
}

#[tokio::test]
async fn stamps_of_an_earlier_state_stay_as_they_do_in_celery() {
    let place = File::start().await;
    let store = open(&place).await;
    let stamps = r#""stamped_headers": ["tenant"], "tenant": "acme""#;
    let extended = celeriac_protocol::result_meta::ExtendedMeta {
        args_json: "[]".to_owned(),
        kwargs_json: "{}".to_owned(),
        stamps_json: stamps.to_owned(),
        ..Default::default()
    };
    let mut started = meta("id", "STARTED", "null");
    started.extended = Some(Box::new(extended));
    let mut ended = success("id", "1");
    ended.extended.clone_from(&started.extended);
    if let Some(extended) = &mut ended.extended {
        extended.stamps_json.clear();
    }
    store_all(&*store, vec![request(started), request(ended)]).await;
    let found = store.get(&["id"]).await.unwrap().remove(0).unwrap();
    assert_eq!((found.status.as_str(), found.extended.unwrap().stamps_json.as_str()), ("SUCCESS", stamps));
}
