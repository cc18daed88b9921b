//! The contract on a real Redis, and what is Redis's own: keys, channels, expiry, credentials, lost connections.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use celeriac_broker::InlineStore;
use celeriac_protocol::{TaskMeta, result_meta};
use celeriac_result::{StoreOptions, StoreRequest};
use celeriac_testkit::result_store_contract::{
    Place, eventually, meta, open, request, store_all, success, within,
};
use serde_json::json;

mod support;
use support::Server;

struct Redis(Server);

impl Redis {
    /// A connection beside the store's.
    async fn connection(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.0.url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    async fn query<T: redis::FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap());
        for word in words {
            command.arg(word);
        }
        command.query_async(&mut self.connection().await).await.unwrap()
    }
}

#[async_trait]
impl Place for Redis {
    const EXPIRES: bool = true;
    const CLEANS_UP: bool = false;
    const KEEPS_GROUP: bool = true;

    async fn start() -> Self {
        Self(Server::start(&[]).await)
    }

    fn url(&self) -> String {
        self.0.url()
    }

    async fn connections(&self) -> Option<usize> {
        let list: String = self.query("CLIENT LIST").await;
        // Without the one that asks.
        Some(list.lines().filter(|line| !line.contains("cmd=client")).count())
    }

    async fn subscriptions(&self) -> Option<usize> {
        let channels: Vec<String> = self.query("PUBSUB CHANNELS").await;
        Some(channels.len())
    }

    async fn store_unheard(&self, meta: &TaskMeta) {
        let mut together = redis::pipe();
        together.atomic().cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub");
        together.set(key(&meta.task_id), result_meta::encode(meta));
        let (killed, _): (usize, String) = together.query_async(&mut self.connection().await).await.unwrap();
        assert_eq!(killed, 1, "connections that listened");
    }
}

fn key(task_id: &str) -> String {
    format!("celery-task-meta-{task_id}")
}

celeriac_testkit::result_store_contract!(Redis);
