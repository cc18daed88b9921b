//! The contract on the documents of one process.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use async_trait::async_trait;
use celeriac_testkit::result_store_contract::{Place, open, request, store_all, success};

struct Memory(uuid::Uuid);

#[async_trait]
impl Place for Memory {
    const EXPIRES: bool = true;
    const CLEANS_UP: bool = false;
    const KEEPS_GROUP: bool = true;

    async fn start() -> Self {
        Self(uuid::Uuid::new_v4())
    }

    fn url(&self) -> String {
        format!("cache+memory://{}", self.0)
    }
}

celeriac_testkit::result_store_contract!(Memory);

#[tokio::test]
async fn another_name_is_another_place() {
    let (one, other) = (Memory::start().await, Memory::start().await);
    let (one, other) = (open(&one).await, open(&other).await);
    store_all(&*one, vec![request(success("id", "1"))]).await;
    assert_eq!(other.get(&["id"]).await.unwrap(), vec![None]);
}

#[tokio::test]
async fn documents_outlive_the_store_that_was_closed() {
    let place = Memory::start().await;
    let store = open(&place).await;
    store_all(&*store, vec![request(success("id", "1"))]).await;
    store.close().await;
    drop(store);
    assert_eq!(open(&place).await.get(&["id"]).await.unwrap(), vec![Some(success("id", "1"))]);
}
