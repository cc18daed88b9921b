//! What every native result store must do, run on each by its own short test:
//!
//! ```text
//! struct Here { … }                                   // where the documents are: a server, a file
//! impl Place for Here { … }
//! celeriac_testkit::result_store_contract!(Here);     // one test per behaviour
//! ```

// A contract is test code that lives in a library.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod documents;
mod life;
mod waits;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use celeriac_protocol::TaskMeta;
use celeriac_result::{ResultStore, StoreOptions, StoreRequest};

pub use self::documents::*;
pub use self::life::*;
pub use self::waits::*;

/// After this a contract counts as broken: nothing here takes a tenth of it.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Where the documents of one test are kept: a server that was just started, a file in a new folder. Dropping it
/// removes it.
#[async_trait]
pub trait Place: Send + Sync + Sized + 'static {
    /// Documents vanish by themselves when their time is over.
    const EXPIRES: bool;
    /// [`ResultStore::cleanup`] removes old documents.
    const CLEANS_UP: bool;
    /// The layout has a place for `group_id` and `parent_id`. Celery's tables have none.
    const KEEPS_GROUP: bool;

    /// Starts it, empty.
    async fn start() -> Self;

    /// The URL of a store here.
    fn url(&self) -> String;

    /// How many connections the server has at present; `None` where there is no server.
    async fn connections(&self) -> Option<usize> {
        None
    }

    /// How many ids the server is to report; `None` where no server does.
    async fn subscriptions(&self) -> Option<usize> {
        None
    }

    /// Stores a document in a moment in which nobody can be told of it: the connections that listen are cut in the
    /// same step.
    async fn store_unheard(&self, meta: &TaskMeta) {
        let other = open(self).await;
        store_all(&*other, vec![request(meta.clone())]).await;
        other.close().await;
    }
}

/// Makes one test of each behaviour, for a [`Place`].
#[macro_export]
macro_rules! result_store_contract {
    ($place:ty) => {
        $crate::result_store_contract!(@tests $place;
            connecting_resolves_and_nothing_is_nothing
            every_field_comes_back
            every_state_and_kind_of_result_comes_back
            ids_of_any_characters_are_kept_apart
            an_unknown_id_is_none
            many_ids_come_back_in_their_order
            a_large_document_comes_back
            the_first_success_is_final
            the_first_success_of_a_batch_is_final
            every_other_state_is_overwritten
            a_forgotten_document_is_gone
            forgetting_what_is_not_there_is_fine
            a_wait_finds_what_was_stored_before
            a_wait_hears_what_is_stored_after
            a_wait_races_with_the_store
            every_ready_state_ends_a_wait
            a_wait_ignores_states_that_are_not_ready
            a_second_wait_for_the_same_id_resolves_too
            a_dropped_wait_does_not_end_another_for_the_same_id
            an_id_can_be_awaited_again
            a_dropped_wait_leaves_nothing_behind
            ten_thousand_waits_share_one_connection
            a_wait_finds_what_was_stored_while_the_connection_was_lost
            closing_ends_every_wait
            closing_twice_is_fine_and_a_closed_store_says_so
            closing_one_store_leaves_the_others_alone
            a_document_is_gone_when_its_time_is_over
            cleanup_removes_what_is_old_and_says_how_many
            many_at_once_do_not_mix_up
        );
    };
    (@tests $place:ty; $($behaviour:ident)+) => {
        mod contract {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    let place = <$place as $crate::result_store_contract::Place>::start().await;
                    $crate::result_store_contract::$behaviour(place).await;
                }
            )+
        }
    };
}

/// Opens a store at a place.
pub async fn open<P: Place>(place: &P) -> Arc<dyn ResultStore> {
    let store = celeriac_result::open(&place.url(), StoreOptions::default()).unwrap();
    within("connect", store.connect()).await.unwrap();
    store
}

/// The output of `future`; panics when it takes longer than [`DEADLINE`].
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    let output = tokio::time::timeout(DEADLINE, future).await;
    output.unwrap_or_else(|_| panic!("{what}: nothing came within {} s", DEADLINE.as_secs()))
}

/// Resolves once `condition` gives true; panics when it takes longer than [`DEADLINE`].
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    within(what, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A document as a worker stores it when a task has succeeded.
pub fn success(task_id: &str, result_json: &str) -> TaskMeta {
    meta(task_id, "SUCCESS", result_json)
}

/// A document in any state.
pub fn meta(task_id: &str, status: &str, result_json: &str) -> TaskMeta {
    let ready = celeriac_protocol::result_meta::is_ready(status);
    TaskMeta {
        task_id: task_id.to_owned(),
        status: status.to_owned(),
        result_json: result_json.to_owned(),
        children_json: "null".to_owned(),
        date_done: ready.then(|| "2026-11-21T10:02:33.770854+00:00".to_owned()),
        ..TaskMeta::default()
    }
}

/// The request to keep a document for ever.
pub fn request(meta: TaskMeta) -> StoreRequest {
    StoreRequest { meta, ..StoreRequest::default() }
}

/// Stores documents of which none may fail.
pub async fn store_all(store: &dyn ResultStore, batch: Vec<StoreRequest>) {
    let results = within("store", store.store(&batch)).await;
    assert_eq!(results.len(), batch.len(), "one result for each request");
    for (request, result) in batch.iter().zip(results) {
        assert!(result.is_ok(), "{}: {}", request.meta.task_id, result.unwrap_err());
    }
}

async fn get_one(store: &dyn ResultStore, task_id: &str) -> Option<TaskMeta> {
    let mut found = within("get", store.get(&[task_id])).await.unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

async fn status_of(store: &dyn ResultStore, task_id: &str) -> Option<String> {
    get_one(store, task_id).await.map(|meta| meta.status)
}

fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Begins a wait and resolves once the store knows of it.
async fn begin_wait(
    store: &Arc<dyn ResultStore>,
    task_id: &str,
) -> tokio::task::JoinHandle<celeriac_error::Result<TaskMeta>> {
    let before = store.waiting();
    let (waiting, id) = (Arc::clone(store), task_id.to_owned());
    let handle = tokio::spawn(async move { waiting.wait(&id).await });
    eventually("the wait begins", || async { store.waiting() > before }).await;
    handle
}

async fn finish(wait: tokio::task::JoinHandle<celeriac_error::Result<TaskMeta>>) -> TaskMeta {
    within("wait", wait).await.unwrap().unwrap()
}
