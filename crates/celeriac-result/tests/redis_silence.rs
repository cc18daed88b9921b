//! Connections to Redis on which nothing is ever heard again.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use celeriac_protocol::result_meta;
use celeriac_result::{ResultStore, StoreOptions};
use celeriac_testkit::redis_server::RedisServer;
use celeriac_testkit::result_store_contract::{eventually, request, success};
use celeriac_testkit::tcp_proxy::{Mode, TcpProxy};
use futures_util::StreamExt;
use redis::AsyncCommands;

/// Within which a store must come back, far below `redis_socket_timeout`.
const LIMIT: Duration = Duration::from_secs(30);

const PREFIX: &str = "celery-task-meta-";

fn open(address: SocketAddr) -> Arc<dyn ResultStore> {
    let options = StoreOptions { connect_timeout: Duration::from_secs(4), ..StoreOptions::default() };
    celeriac_result::open(&format!("redis://{address}/0"), options).unwrap()
}

fn address(server: &RedisServer) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, server.port()))
}

async fn store_one(store: &dyn ResultStore, task_id: &str) {
    store.store(&[request(success(task_id, "1"))]).await.remove(0).unwrap();
}

/// What the server tells about its connections, one a line.
async fn connections(server: &mut redis::aio::MultiplexedConnection) -> Vec<String> {
    let list: String = redis::cmd("CLIENT").arg("LIST").query_async(server).await.unwrap();
    list.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn stores_on_a_connection_that_is_never_heard_of_again_are_done_on_another() {
    let server = RedisServer::start().await;
    let proxy = TcpProxy::start(address(&server)).unwrap();
    let store = open(proxy.address());
    store_one(&*store, "before").await;

    let mut watching = server.connection().await;
    let client = redis::Client::open(server.url()).unwrap();
    let mut listening = client.get_async_pubsub().await.unwrap();
    listening.psubscribe(format!("{PREFIX}*")).await.unwrap();
    let of_store = |line: &String| line.contains("lib-name=celeriac") || line.contains("cmd=evalsha");
    let number = |line: &String| line.split(' ').next().unwrap().to_owned();
    let first: Vec<String> =
        connections(&mut watching).await.iter().filter(|line| of_store(line)).map(number).collect();
    assert_eq!(first.len(), 1);

    // The server runs one, and its answer is lost; another never comes to it.
    let hour = Duration::from_secs(3600);
    proxy.set(Mode::Delay { to_server: Duration::ZERO, to_client: hour }).await.unwrap();
    let begin = |task_id: &'static str| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store_one(&*store, task_id).await })
    };
    let answer_lost = begin("answer lost");
    eventually("the server has run the first", || async {
        watching.clone().exists(format!("{PREFIX}answer lost")).await.unwrap()
    })
    .await;
    assert_eq!(proxy.strand(), 1);
    proxy.set(Mode::Normal).await.unwrap();
    let never_arrived = begin("never arrived");
    tokio::time::timeout(LIMIT, async {
        answer_lost.await.unwrap();
        never_arrived.await.unwrap();
        store_one(&*store, "after").await;
    })
    .await
    .expect("the stores come back");

    let mut messages = listening.on_message();
    let mut published: BTreeMap<String, usize> = BTreeMap::new();
    store_one(&*open(address(&server)), "marker").await;
    loop {
        let message = tokio::time::timeout(LIMIT, messages.next()).await.unwrap().unwrap();
        let task_id = message.get_channel_name().strip_prefix(PREFIX).unwrap().to_owned();
        if task_id == "marker" {
            break;
        }
        *published.entry(task_id).or_default() += 1;
    }
    let expected = ["after", "answer lost", "never arrived"].map(|task_id| (task_id.to_owned(), 1));
    assert_eq!(published, BTreeMap::from(expected), "how often each was published");
    for task_id in ["after", "answer lost", "never arrived"] {
        let document: String = watching.get(format!("{PREFIX}{task_id}")).await.unwrap();
        assert_eq!(document, result_meta::encode(&success(task_id, "1")));
    }
    // So that nothing that is still on its way comes after what was stored later.
    let left: Vec<String> = connections(&mut watching).await.iter().map(number).collect();
    assert!(!left.contains(&first[0]), "{left:?} still has {first:?}");
}

#[tokio::test]
async fn a_silent_connection_on_which_a_large_document_makes_its_way_is_left_alone() {
    let server = RedisServer::start().await;
    let proxy = TcpProxy::start(address(&server)).unwrap();
    let store = open(proxy.address());
    store_one(&*store, "before").await;
    let connections_before = proxy.connections();

    // Each piece arrives late, and there are many: no answer comes for longer than a silence may last.
    let mut watching = server.connection().await;
    let storing = {
        let store = Arc::clone(&store);
        let document = format!("\"{}\"", "x".repeat(60 << 20));
        proxy.set(Mode::Dribble).await.unwrap();
        tokio::spawn(async move {
            store.store(&[request(success("large", &document))]).await.remove(0).unwrap();
        })
    };
    eventually("the store asks the server and is answered", || async {
        assert!(!storing.is_finished(), "the document took too little time");
        let asked: String =
            redis::cmd("INFO").arg("commandstats").query_async(&mut watching.clone()).await.unwrap();
        asked.contains("cmdstat_client|list:")
    })
    .await;
    proxy.set(Mode::Normal).await.unwrap();
    tokio::time::timeout(LIMIT, storing).await.expect("the store comes back").unwrap();
    let killed: String = redis::cmd("INFO").arg("commandstats").query_async(&mut watching).await.unwrap();
    assert!(!killed.contains("cmdstat_client|kill:"), "{killed}");
    eventually("the other connection is gone", || async { proxy.connections() == connections_before }).await;
}

/// The kernel's word: what is set on a socket is not seen otherwise.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_kernel_watches_over_idle_connections() {
    let server = RedisServer::start().await;
    let store = open(address(&server));
    store_one(&*store, "before").await;
    let waiting = Arc::clone(&store);
    let wait = tokio::spawn(async move { waiting.wait("awaited").await });
    // One connection for commands, one that listens. Ours has no such timer.
    eventually("both are watched over", || async {
        let table = tokio::fs::read_to_string("/proc/net/tcp").await.unwrap();
        let to_server = format!(":{:04X}", server.port());
        let watched = table.lines().skip(1).filter(|line| {
            let columns: Vec<&str> = line.split_ascii_whitespace().collect();
            // Remote address, state, and `timer:when` in hundredths of a second; 2 is keepalive.
            let hundredths =
                columns[5].strip_prefix("02:").map(|when| u64::from_str_radix(when, 16).unwrap());
            columns[2].ends_with(&to_server)
                && columns[3] == "01"
                && hundredths.is_some_and(|when| when <= 1500)
        });
        watched.count() == 2
    })
    .await;
    wait.abort();
}
