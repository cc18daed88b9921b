//! The contract on a real Redis, and what is Redis's own: keys, channels, expiry, credentials, lost connections.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use celeriac_broker::InlineStore;
use celeriac_error::Error;
use celeriac_protocol::{TaskMeta, result_meta};
use celeriac_result::{ResultStore, StoreOptions, StoreRequest};
use celeriac_testkit::certificates::Certificates;
use celeriac_testkit::redis_server::{RedisServer, RedisServerOptions};
use celeriac_testkit::result_store_contract::{
    Place, eventually, meta, open, request, store_all, success, within,
};
use futures_util::StreamExt;
use redis::FromRedisValue;
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};

/// A server, and one connection to count the others.
struct Redis(RedisServer, MultiplexedConnection);

impl Redis {
    async fn start_with(options: RedisServerOptions) -> Self {
        let server = RedisServer::start_with(options).await;
        let connection = server.connection().await;
        Self(server, connection)
    }

    /// Runs a command beside the store.
    async fn query<T: FromRedisValue>(&self, command: &[&str]) -> T {
        let mut connection = self.0.connection().await;
        redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await.unwrap()
    }

    async fn set(&self, task_id: &str, document: &str) {
        self.query::<()>(&["SET", &key(task_id), document]).await;
    }
}

#[async_trait]
impl Place for Redis {
    const EXPIRES: bool = true;
    const CLEANS_UP: bool = false;
    const KEEPS_GROUP: bool = true;

    async fn start() -> Self {
        Self::start_with(RedisServerOptions::default()).await
    }

    fn url(&self) -> String {
        self.0.url()
    }

    async fn connections(&self) -> Option<usize> {
        let list = redis::cmd("CLIENT").arg("LIST").query_async::<String>(&mut self.1.clone()).await;
        // Without the one that asks.
        Some(list.unwrap().lines().count() - 1)
    }

    async fn subscriptions(&self) -> Option<usize> {
        let channels =
            redis::cmd("PUBSUB").arg("CHANNELS").query_async::<Vec<String>>(&mut self.1.clone()).await;
        Some(channels.unwrap().len())
    }

    async fn store_unheard(&self, meta: &TaskMeta) {
        let mut together = redis::pipe();
        together.atomic().cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub");
        together.set(key(&meta.task_id), result_meta::encode(meta));
        let mut connection = self.0.connection().await;
        let (killed, _): (usize, String) = together.query_async(&mut connection).await.unwrap();
        assert_eq!(killed, 1, "connections that listened");
    }
}

celeriac_testkit::result_store_contract!(Redis);

fn key(task_id: &str) -> String {
    format!("celery-task-meta-{task_id}")
}

fn open_with(url: &str, options: Value) -> celeriac_error::Result<Arc<dyn ResultStore>> {
    let Value::Object(options) = options else { panic!("options are an object") };
    celeriac_result::open(url, StoreOptions { options, connect_timeout: Duration::from_secs(4) })
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
async fn a_document_is_kept_and_published_as_celery_does() {
    let place = Redis::start().await;
    let store = open(&place).await;
    let client = redis::Client::open(place.url()).unwrap();
    let mut listening = client.get_async_pubsub().await.unwrap();
    listening.subscribe(key("kept")).await.unwrap();
    listening.subscribe(key("for-ever")).await.unwrap();
    let kept = StoreRequest { expires: Some(Duration::from_secs(86_400)), ..request(success("kept", "5")) };
    let for_ever = request(success("for-ever", "6"));
    store_all(&*store, vec![kept.clone(), for_ever.clone()]).await;

    let mut messages = listening.on_message();
    for (stored, lifetime) in [(&kept, 86_400), (&for_ever, -1)] {
        let expected = result_meta::encode(&stored.meta);
        assert_eq!(place.query::<String>(&["GET", &key(&stored.meta.task_id)]).await, expected);
        let published = within("the message", messages.next()).await.unwrap();
        assert_eq!(published.get_channel_name(), key(&stored.meta.task_id));
        assert_eq!(published.get_payload::<String>().unwrap(), expected);
        let left: i64 = place.query(&["TTL", &key(&stored.meta.task_id)]).await;
        assert!((lifetime - 60..=lifetime).contains(&left), "{left} s are left of {lifetime}");
    }
}

#[tokio::test]
async fn what_is_not_stored_is_not_published() {
    let place = Redis::start().await;
    let store = open(&place).await;
    store_all(&*store, vec![request(success("done", "1"))]).await;
    let client = redis::Client::open(place.url()).unwrap();
    let mut listening = client.get_async_pubsub().await.unwrap();
    listening.psubscribe("*").await.unwrap();
    store_all(&*store, vec![request(meta("done", "FAILURE", "2")), request(success("marker", "3"))]).await;
    let first = within("the message", listening.on_message().next()).await.unwrap();
    assert_eq!(first.get_channel_name(), key("marker"));
}

#[tokio::test]
async fn the_global_key_prefix_is_on_keys_and_channels() {
    let place = Redis::start().await;
    let store = open_with(&place.url(), json!({ "global_keyprefix": "app" })).unwrap();
    let wait = begin_wait(&store, "id").await;
    eventually("the channel has the prefix", || async {
        place.query::<Vec<String>>(&["PUBSUB", "CHANNELS"]).await == ["app_celery-task-meta-id"]
    })
    .await;
    store_all(&*store, vec![request(success("id", "1"))]).await;
    assert_eq!(within("wait", wait).await.unwrap().unwrap(), success("id", "1"));
    assert_eq!(place.query::<Vec<String>>(&["KEYS", "*"]).await, ["app_celery-task-meta-id"]);
    assert_eq!(store.get(&["id"]).await.unwrap(), [Some(success("id", "1"))]);
    store.forget(&["id"]).await.unwrap();
    assert_eq!(place.query::<Vec<String>>(&["KEYS", "*"]).await, Vec::<String>::new());
}

#[tokio::test]
async fn the_database_is_that_of_the_url_and_settling_elsewhere_names_it() {
    let place = Redis::start().await;
    let store = celeriac_result::open(&place.0.url_of(3), StoreOptions::default()).unwrap();
    let asked = StoreRequest { expires: Some(Duration::from_secs(9)), ..request(success("id", "1")) };
    store_all(&*store, vec![asked.clone()]).await;
    assert_eq!(place.query::<usize>(&["DBSIZE"]).await, 0);
    assert!(place.query::<String>(&["INFO", "keyspace"]).await.contains("db3:keys=1"));
    assert_eq!(store.identity(), Some(format!("redis://127.0.0.1:{}", place.0.port())));
    let value = result_meta::encode(&asked.meta);
    let inline = InlineStore::Redis { database: 3, key: key("id"), value, expires: asked.expires };
    assert_eq!(store.inline(&asked), Some(inline));
}

#[tokio::test]
async fn a_success_is_final_however_another_program_wrote_it() {
    let place = Redis::start().await;
    let store = open(&place).await;
    let success = r#"{"task_id":"id","result":1,"status":"SUCCESS"}"#;
    place.set("id", success).await;
    store_all(&*store, vec![request(meta("id", "FAILURE", "2"))]).await;
    assert_eq!(place.query::<String>(&["GET", &key("id")]).await, success);
    for other in [r#"{"result": "SUCCESS", "status": "RETRY"}"#, "not json", "[]", "", "\"SUCCESS\""] {
        place.set("id", other).await;
        store_all(&*store, vec![request(meta("id", "FAILURE", "2"))]).await;
        let stored = place.query::<String>(&["GET", &key("id")]).await;
        assert_eq!(stored, result_meta::encode(&meta("id", "FAILURE", "2")), "over {other}");
    }
}

#[tokio::test]
async fn a_document_that_cannot_be_read_is_an_error_that_names_the_task() {
    let place = Redis::start().await;
    let store = open(&place).await;
    place.set("broken", "not json").await;
    let told = |error: Error| {
        assert_eq!(error.code(), "ERR_CELERIAC_DECODE");
        assert!(error.to_string().contains("broken"), "{error}");
    };
    told(store.get(&["broken"]).await.unwrap_err());
    told(within("wait", store.wait("broken")).await.unwrap_err());
    let wait = begin_wait(&store, "also broken").await;
    eventually("the document is heard", || async {
        place.query::<usize>(&["PUBLISH", &key("also broken"), "\u{1}"]).await == 1 || wait.is_finished()
    })
    .await;
    told(within("wait", wait).await.unwrap().unwrap_err());
}

#[tokio::test]
async fn a_key_that_redis_refuses_fails_alone() {
    let place = Redis::start().await;
    let store = open(&place).await;
    place.query::<()>(&["RPUSH", &key("list"), "1"]).await;
    let batch = ["before", "list", "after"].map(|id| request(success(id, "1")));
    let results = store.store(&batch).await;
    assert!(results[0].is_ok() && results[2].is_ok());
    let error = results[1].as_ref().unwrap_err();
    assert_eq!(error.code(), "ERR_CELERIAC_REFUSED");
    assert!(error.to_string().contains("WRONGTYPE"), "{error}");
    assert!(store.get(&["before", "after"]).await.unwrap().iter().all(Option::is_some));
}

#[tokio::test]
async fn a_server_that_forgot_the_script_gets_it_again() {
    let place = Redis::start().await;
    let store = open(&place).await;
    for n in ["1", "2"] {
        store_all(&*store, vec![request(success(n, n))]).await;
        place.query::<()>(&["SCRIPT", "FLUSH"]).await;
    }
}

#[tokio::test]
async fn a_connection_that_was_lost_while_idle_costs_no_error() {
    let place = Redis::start().await;
    let store = open(&place).await;
    for round in 0..3 {
        place.query::<()>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        match round {
            0 => store_all(&*store, vec![request(success("id", "1"))]).await,
            1 => assert!(store.get(&["id"]).await.unwrap()[0].is_some()),
            _ => store.forget(&["id"]).await.unwrap(),
        }
    }
}

#[tokio::test]
async fn waits_and_calls_outlive_a_restart_of_the_server() {
    let append_only = RedisServerOptions { append_only: true, ..RedisServerOptions::default() };
    let mut place = Redis::start_with(append_only).await;
    let store = open(&place).await;
    let wait = begin_wait(&store, "id").await;
    for crash in [false, true] {
        if crash {
            place.0.kill();
        } else {
            place.0.stop().await;
        }
        let error = store.store(&[request(success("lost", "1"))]).await.remove(0).unwrap_err();
        assert_eq!(error.code(), "ERR_CELERIAC_RESULT_STORE_UNAVAILABLE");
        assert_eq!(store.get(&["lost"]).await.unwrap_err().code(), error.code());
        place.0.start_again().await;
        store_all(&*store, vec![request(success("before", "1"))]).await;
        assert!(!wait.is_finished());
    }
    store_all(&*store, vec![request(success("id", "1"))]).await;
    assert_eq!(within("wait", wait).await.unwrap().unwrap(), success("id", "1"));
}

#[tokio::test]
async fn a_wrong_password_and_a_missing_one_are_told_from_a_closed_port() {
    let locked = RedisServerOptions { password: Some("secret".to_owned()), ..RedisServerOptions::default() };
    let mut place = Redis::start_with(locked).await;
    let port = place.0.port();
    let good = open(&place).await;
    assert_eq!(good.url(), format!("redis://:**@127.0.0.1:{port}/0"));
    for credentials in [":wrong@", "", "nobody:secret@"] {
        let store = open_with(&format!("redis://{credentials}127.0.0.1:{port}/0"), json!({})).unwrap();
        refused(&*store, "ERR_CELERIAC_AUTHENTICATION_FAILED").await;
    }
    place.0.kill();
    let impatient = json!({ "retry_policy": { "max_retries": 2, "interval_step": 0 } });
    let store = open_with(&place.url(), impatient).unwrap();
    refused(&*store, "ERR_CELERIAC_RESULT_STORE_UNAVAILABLE").await;
}

async fn refused(store: &dyn ResultStore, code: &str) {
    let stored =
        within("store", store.store(&[request(success("a", "1")), request(success("b", "1"))])).await;
    assert_eq!(stored.len(), 2);
    let mut errors: Vec<Error> = stored.into_iter().map(Result::unwrap_err).collect();
    errors.push(within("connect", store.connect()).await.unwrap_err());
    errors.push(within("get", store.get(&["a"])).await.unwrap_err());
    errors.push(within("wait", store.wait("a")).await.unwrap_err());
    for error in errors {
        assert_eq!(error.code(), code, "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(error.to_string().contains("127.0.0.1"), "{error}");
    }
}

#[tokio::test]
async fn a_user_of_the_access_list_and_a_unix_socket_are_served() {
    let place = Redis::start().await;
    place.query::<()>(&["ACL", "SETUSER", "me", "on", ">p@ss", "~*", "&*", "+@all"]).await;
    let socket = place.0.socket();
    for url in [
        format!("redis://me:p%40ss@127.0.0.1:{}/1", place.0.port()),
        format!("redis+socket://{}?virtual_host=2", socket.display()),
        format!("redis+socket://me:p%40ss@{}?virtual_host=3", socket.display()),
    ] {
        let store = celeriac_result::open(&url, StoreOptions::default()).unwrap();
        let wait = begin_wait(&store, "id").await;
        store_all(&*store, vec![request(success("id", "1"))]).await;
        assert_eq!(within("wait", wait).await.unwrap().unwrap(), success("id", "1"), "{url}");
    }
    let keyspace: String = place.query(&["INFO", "keyspace"]).await;
    assert!(["db1", "db2", "db3"].iter().all(|db| keyspace.contains(db)), "{keyspace}");
}

#[tokio::test]
async fn a_store_that_is_dropped_leaves_no_connection() {
    let place = Redis::start().await;
    for close in [false, true] {
        let store = open(&place).await;
        let wait = begin_wait(&store, "id").await;
        eventually("both connections are there", || async { place.connections().await == Some(2) }).await;
        if close {
            store.close().await;
            within("wait", wait).await.unwrap().unwrap_err();
        } else {
            wait.abort();
            let _ = wait.await;
        }
        drop(store);
        eventually("no connection is left", || async { place.connections().await == Some(0) }).await;
    }
}

#[tokio::test]
async fn an_encrypted_connection_checks_who_it_talks_to() {
    let place = Redis::start().await;
    let certificates = Certificates::make();
    let [server, key, ca] = ["server.pem", "server-key.pem", "ca.pem"].map(|file| certificates.path(file));
    let set = ["tls-cert-file", &server, "tls-key-file", &key, "tls-ca-cert-file", &ca];
    place.query::<()>(&[&["CONFIG", "SET"], &set[..]].concat()).await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    place.query::<()>(&["CONFIG", "SET", "tls-port", &port]).await;

    let client = format!(
        "ssl_certfile={}&ssl_keyfile={}",
        certificates.path("client.pem"),
        certificates.path("client-key.pem")
    );
    let trusting = format!("ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={ca}&{client}");
    for (host, query, expected) in [
        ("localhost", trusting.clone(), None),
        ("127.0.0.1", format!("{trusting}&ssl_check_hostname=false"), None),
        ("127.0.0.1", format!("ssl_cert_reqs=CERT_NONE&ssl_ca_certs={ca}&{client}"), None),
        // The certificate is for another name; nobody known has signed it; the server wants to know who we are.
        ("127.0.0.1", trusting.clone(), Some("ERR_CELERIAC_RESULT_STORE_UNAVAILABLE")),
        (
            "localhost",
            format!("ssl_cert_reqs=CERT_REQUIRED&{client}"),
            Some("ERR_CELERIAC_RESULT_STORE_UNAVAILABLE"),
        ),
        (
            "localhost",
            format!("ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={ca}"),
            Some("ERR_CELERIAC_RESULT_STORE_UNAVAILABLE"),
        ),
    ] {
        let url = format!("rediss://{host}:{port}/0?{query}");
        let store = celeriac_result::open(&url, StoreOptions::default()).unwrap();
        if let Some(code) = expected {
            let error = within("connect", store.connect()).await.unwrap_err();
            assert_eq!(error.code(), code, "{url}: {error}");
            continue;
        }
        let wait = begin_wait(&store, "id").await;
        store_all(&*store, vec![request(success("id", "1"))]).await;
        assert_eq!(within("wait", wait).await.unwrap().unwrap(), success("id", "1"), "{url}");
        store.forget(&["id"]).await.unwrap();
    }
}
