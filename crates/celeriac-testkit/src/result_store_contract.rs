//! What every native result store must do, run on each by its own short test:
//!
//! ```ignore
//! struct Here { … }                                   // where the documents are: a server, a file
//! impl Place for Here { … }
//! celeriac_testkit::result_store_contract!(Here);     // one test per behaviour
//! ```

// A contract is test code that lives in a library.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use celeriac_protocol::TaskMeta;
use celeriac_protocol::result_meta::ExtendedMeta;
use celeriac_result::{ResultStore, StoreOptions, StoreRequest};

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
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: nothing came within {} s", DEADLINE.as_secs()),
    }
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
    StoreRequest { meta, expires: None }
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

/// Connecting twice is fine, and so are empty batches.
pub async fn connecting_resolves_and_nothing_is_nothing<P: Place>(place: P) {
    let store = open(&place).await;
    within("connect", store.connect()).await.unwrap();
    assert!(within("store", store.store(&[])).await.is_empty());
    assert_eq!(within("get", store.get(&[])).await.unwrap(), vec![]);
    within("forget", store.forget(&[])).await.unwrap();
    store.close().await;
}

/// Every field, with those of `result_extended`, is read as it was written; so is a document that has the fewest.
pub async fn every_field_comes_back<P: Place>(place: P) {
    let store = open(&place).await;
    let (full, bare) = (new_id(), new_id());
    let mut written = meta(
        &full,
        "FAILURE",
        r#"{"exc_type": "ValueError", "exc_message": ["no", 1], "exc_module": "builtins"}"#,
    );
    written.traceback = Some("Traceback (most recent call last):\n  é\n".to_owned());
    written.children_json = r#"[[["0c1b0f57-6d1a-4f57-9d2d-000000000001", null], null]]"#.to_owned();
    if P::KEEPS_GROUP {
        written.group_id = Some("group 1".to_owned());
        written.parent_id = Some("parent 1".to_owned());
    }
    written.extended = Some(Box::new(ExtendedMeta {
        name: Some("tasks.add".to_owned()),
        args_json: r#"[1, "zwei", {"__type__": "bytes", "__value__": "AP8="}]"#.to_owned(),
        kwargs_json: r#"{"x": 1.0}"#.to_owned(),
        worker: Some("worker1@host".to_owned()),
        retries: 3,
        queue: Some("emails".to_owned()),
        stamps_json: r#""stamped_headers": ["header"], "header": ["value"]"#.to_owned(),
    }));
    store_all(&*store, vec![request(written.clone()), request(meta(&bare, "STARTED", "null"))]).await;
    assert_eq!(get_one(&*store, &full).await, Some(written));
    assert_eq!(get_one(&*store, &bare).await, Some(meta(&bare, "STARTED", "null")));
    store.close().await;
}

/// Results are text that is never re-encoded: what JSON has, and what only Python's has.
pub async fn every_state_and_kind_of_result_comes_back<P: Place>(place: P) {
    let store = open(&place).await;
    let written: Vec<TaskMeta> = [
        ("SUCCESS", "null"),
        ("SUCCESS", "9007199254740993"),
        ("SUCCESS", "1.0"),
        ("SUCCESS", "NaN"),
        ("SUCCESS", r#""v\u00e4lue \ud83d\ude00""#),
        ("SUCCESS", r#"{"__type__": "datetime", "__value__": "2026-01-02T03:04:05+00:00"}"#),
        ("STARTED", r#"{"pid": 5097, "hostname": "worker1@host"}"#),
        ("RECEIVED", "null"),
        ("PENDING", "null"),
        ("RETRY", r#"{"exc_type": "KeyError", "exc_message": ["k"], "exc_module": "builtins"}"#),
        ("FAILURE", r#"{"exc_type": "Error", "exc_message": [], "exc_module": "app"}"#),
        ("REVOKED", r#"{"exc_type": "TaskRevokedError", "exc_message": ["revoked"], "exc_module": "celery.exceptions"}"#),
        ("PROGRESS", r#"{"done": 1, "status": "SUCCESS"}"#),
    ]
    .iter()
    .map(|(status, result)| meta(&new_id(), status, result))
    .collect();
    store_all(&*store, written.iter().cloned().map(request).collect()).await;
    for meta in written {
        assert_eq!(get_one(&*store, &meta.task_id).await, Some(meta));
    }
    store.close().await;
}

/// An id is any text.
pub async fn ids_of_any_characters_are_kept_apart<P: Place>(place: P) {
    let store = open(&place).await;
    let ids = ["a", "A", " a", "a%b_c", "it's \"quoted\"", "task:ü/1", "\\", "*", "?[a]"];
    let batch = ids.iter().enumerate().map(|(n, id)| request(success(id, &n.to_string()))).collect();
    store_all(&*store, batch).await;
    for (n, id) in ids.iter().enumerate() {
        let found = get_one(&*store, id).await.unwrap();
        assert_eq!((found.task_id.as_str(), found.result_json), (*id, n.to_string()));
    }
    store.close().await;
}

/// Nothing stored is nothing, not an error.
pub async fn an_unknown_id_is_none<P: Place>(place: P) {
    let store = open(&place).await;
    assert_eq!(get_one(&*store, &new_id()).await, None);
    store.close().await;
}

/// More ids than one command takes, with gaps and repetitions.
pub async fn many_ids_come_back_in_their_order<P: Place>(place: P) {
    let store = open(&place).await;
    let ids: Vec<String> = (0..2500).map(|_| new_id()).collect();
    let stored = |n: usize| n % 3 != 0;
    let batch: Vec<StoreRequest> = ids
        .iter()
        .enumerate()
        .filter(|(n, _)| stored(*n))
        .map(|(n, id)| request(success(id, &n.to_string())))
        .collect();
    store_all(&*store, batch).await;
    let mut asked: Vec<&str> = ids.iter().rev().map(String::as_str).collect();
    asked.push(&ids[1]);
    asked.push(&ids[0]);
    let found = within("get", store.get(&asked)).await.unwrap();
    assert_eq!(found.len(), asked.len());
    for (position, meta) in found.into_iter().enumerate() {
        let n = ids.iter().position(|id| id == asked[position]).unwrap();
        let expected = stored(n).then(|| success(&ids[n], &n.to_string()));
        assert_eq!(meta, expected, "position {position}");
    }
    store.close().await;
}

/// Eight megabytes, read and waited for.
pub async fn a_large_document_comes_back<P: Place>(place: P) {
    let store = open(&place).await;
    let id = new_id();
    let wait = begin_wait(&store, &id).await;
    let written = success(&id, &format!("\"{}\"", "x".repeat(8 << 20)));
    store_all(&*store, vec![request(written.clone())]).await;
    assert!(finish(wait).await == written, "what the wait gave");
    assert!(get_one(&*store, &id).await == Some(written), "what was read");
    store.close().await;
}

/// `Backend.store_result`: whatever comes after a SUCCESS is not stored, whoever brings it.
pub async fn the_first_success_is_final<P: Place>(place: P) {
    let (store, other) = (open(&place).await, open(&place).await);
    let id = new_id();
    store_all(&*store, vec![request(success(&id, "1"))]).await;
    for late in ["STARTED", "RETRY", "FAILURE", "REVOKED", "SUCCESS", "PROGRESS"] {
        store_all(&*other, vec![request(meta(&id, late, "2"))]).await;
        assert_eq!(get_one(&*store, &id).await, Some(success(&id, "1")), "after {late}");
    }
    store.close().await;
    other.close().await;
}

/// The same within one batch, where neither was stored when it was sent.
pub async fn the_first_success_of_a_batch_is_final<P: Place>(place: P) {
    let store = open(&place).await;
    let id = new_id();
    let batch = [("STARTED", "0"), ("SUCCESS", "1"), ("FAILURE", "2"), ("SUCCESS", "3")];
    store_all(&*store, batch.iter().map(|(status, result)| request(meta(&id, status, result))).collect())
        .await;
    assert_eq!(get_one(&*store, &id).await, Some(success(&id, "1")));
    store.close().await;
}

/// Only SUCCESS is final: a redelivered task may fail first and succeed later.
pub async fn every_other_state_is_overwritten<P: Place>(place: P) {
    let store = open(&place).await;
    let id = new_id();
    for status in ["STARTED", "RETRY", "FAILURE", "STARTED", "REVOKED", "PROGRESS", "FAILURE", "SUCCESS"] {
        // The result may look like a document.
        let written = meta(&id, status, &format!("{{\"status\": \"SUCCESS\", \"now\": \"{status}\"}}"));
        store_all(&*store, vec![request(written.clone())]).await;
        assert_eq!(get_one(&*store, &id).await, Some(written));
    }
    store.close().await;
}

/// Forgetting makes room for a new document, even after a SUCCESS.
pub async fn a_forgotten_document_is_gone<P: Place>(place: P) {
    let store = open(&place).await;
    let ids: Vec<String> = (0..1200).map(|_| new_id()).collect();
    store_all(&*store, ids.iter().map(|id| request(success(id, "1"))).collect()).await;
    let forgotten: Vec<&str> = ids[1..].iter().map(String::as_str).collect();
    within("forget", store.forget(&forgotten)).await.unwrap();
    assert!(within("get", store.get(&forgotten)).await.unwrap().iter().all(Option::is_none));
    assert_eq!(status_of(&*store, &ids[0]).await.as_deref(), Some("SUCCESS"), "one that was not named stays");
    store_all(&*store, vec![request(meta(&ids[1], "FAILURE", "2"))]).await;
    assert_eq!(status_of(&*store, &ids[1]).await.as_deref(), Some("FAILURE"));
    store.close().await;
}

/// Forgetting is about what is to be there afterwards.
pub async fn forgetting_what_is_not_there_is_fine<P: Place>(place: P) {
    let store = open(&place).await;
    within("forget", store.forget(&[&new_id(), &new_id()])).await.unwrap();
    store.close().await;
}

/// The document may be there long before anybody asks.
pub async fn a_wait_finds_what_was_stored_before<P: Place>(place: P) {
    let (store, other) = (open(&place).await, open(&place).await);
    let id = new_id();
    store_all(&*other, vec![request(success(&id, "1"))]).await;
    assert_eq!(within("wait", store.wait(&id)).await.unwrap(), success(&id, "1"));
    assert_eq!(store.waiting(), 0);
    store.close().await;
    other.close().await;
}

/// From the same store and from another one at the same place.
pub async fn a_wait_hears_what_is_stored_after<P: Place>(place: P) {
    let (store, other) = (open(&place).await, open(&place).await);
    for writer in [&store, &other] {
        let id = new_id();
        let wait = begin_wait(&store, &id).await;
        store_all(&**writer, vec![request(success(&id, "1"))]).await;
        assert_eq!(finish(wait).await, success(&id, "1"));
    }
    store.close().await;
    other.close().await;
}

/// Whichever comes first, and however close.
pub async fn a_wait_races_with_the_store<P: Place>(place: P) {
    let (store, other) = (open(&place).await, open(&place).await);
    for round in 0..150 {
        let id = new_id();
        let wait = {
            let (store, id) = (Arc::clone(&store), id.clone());
            tokio::spawn(async move { store.wait(&id).await })
        };
        for _ in 0..round % 7 {
            tokio::task::yield_now().await;
        }
        store_all(&*other, vec![request(success(&id, &round.to_string()))]).await;
        assert_eq!(finish(wait).await.result_json, round.to_string());
    }
    assert_eq!(store.waiting(), 0);
    store.close().await;
    other.close().await;
}

/// SUCCESS, FAILURE and REVOKED (`celery.states.READY_STATES`).
pub async fn every_ready_state_ends_a_wait<P: Place>(place: P) {
    let store = open(&place).await;
    for status in ["SUCCESS", "FAILURE", "REVOKED"] {
        let id = new_id();
        let wait = begin_wait(&store, &id).await;
        store_all(&*store, vec![request(meta(&id, status, "null"))]).await;
        assert_eq!(finish(wait).await.status, status);
    }
    store.close().await;
}

/// What is stored before the end is read, but does not end the wait.
pub async fn a_wait_ignores_states_that_are_not_ready<P: Place>(place: P) {
    let (store, other) = (open(&place).await, open(&place).await);
    let (early, late) = (new_id(), new_id());
    store_all(&*other, vec![request(meta(&early, "STARTED", "null"))]).await;
    let waits = [begin_wait(&store, &early).await, begin_wait(&store, &late).await];
    for status in ["RECEIVED", "STARTED", "RETRY", "PROGRESS"] {
        let batch = [&early, &late].map(|id| request(meta(id, status, "null"))).to_vec();
        store_all(&*other, batch).await;
        // The same connection has carried a later document: had the first ended a wait, it would show.
        let marker = new_id();
        let heard = begin_wait(&store, &marker).await;
        store_all(&*other, vec![request(success(&marker, "null"))]).await;
        finish(heard).await;
        assert!(waits.iter().all(|wait| !wait.is_finished()), "{status} ended a wait");
    }
    let batch = [&early, &late].map(|id| request(success(id, "1"))).to_vec();
    store_all(&*other, batch).await;
    for wait in waits {
        assert_eq!(finish(wait).await.status, "SUCCESS");
    }
    store.close().await;
    other.close().await;
}

/// All who wait for one id get its document.
pub async fn a_second_wait_for_the_same_id_resolves_too<P: Place>(place: P) {
    let store = open(&place).await;
    let id = new_id();
    let waits = [begin_wait(&store, &id).await, begin_wait(&store, &id).await, begin_wait(&store, &id).await];
    store_all(&*store, vec![request(success(&id, "1"))]).await;
    for wait in waits {
        assert_eq!(finish(wait).await, success(&id, "1"));
    }
    store.close().await;
}

/// The one that stays is not forgotten together with the one that went.
pub async fn a_dropped_wait_does_not_end_another_for_the_same_id<P: Place>(place: P) {
    let store = open(&place).await;
    let id = new_id();
    let (first, second) = (begin_wait(&store, &id).await, begin_wait(&store, &id).await);
    first.abort();
    eventually("the first wait is gone", || async { store.waiting() == 1 }).await;
    store_all(&*store, vec![request(success(&id, "1"))]).await;
    assert_eq!(finish(second).await, success(&id, "1"));
    store.close().await;
}

/// A wait that begins while the last one for the same id is being taken down.
pub async fn an_id_can_be_awaited_again<P: Place>(place: P) {
    let (store, other) = (open(&place).await, open(&place).await);
    let id = new_id();
    for _ in 0..20 {
        let wait = begin_wait(&store, &id).await;
        wait.abort();
        eventually("the wait is gone", || async { store.waiting() == 0 }).await;
    }
    let wait = begin_wait(&store, &id).await;
    store_all(&*other, vec![request(success(&id, "1"))]).await;
    assert_eq!(finish(wait).await, success(&id, "1"));
    assert_eq!(within("wait", store.wait(&id)).await.unwrap(), success(&id, "1"));
    store.close().await;
    other.close().await;
}

/// Neither in this process nor on the server, and nobody else is disturbed.
pub async fn a_dropped_wait_leaves_nothing_behind<P: Place>(place: P) {
    let store = open(&place).await;
    let waits = {
        let mut waits = Vec::new();
        for _ in 0..50 {
            waits.push(begin_wait(&store, &new_id()).await);
        }
        waits
    };
    if place.subscriptions().await.is_some() {
        eventually("the server knows of all", || async { place.subscriptions().await == Some(50) }).await;
    }
    for wait in &waits {
        wait.abort();
    }
    eventually("no wait is left", || async { store.waiting() == 0 }).await;
    if place.subscriptions().await.is_some() {
        eventually("the server has forgotten them", || async { place.subscriptions().await == Some(0) })
            .await;
    }
    let id = new_id();
    let wait = begin_wait(&store, &id).await;
    store_all(&*store, vec![request(success(&id, "1"))]).await;
    finish(wait).await;
    store.close().await;
}

/// However many there are, the store has as many connections as with one.
pub async fn ten_thousand_waits_share_one_connection<P: Place>(place: P) {
    const WAITS: usize = 10_000;
    let store = open(&place).await;
    let first = new_id();
    let wait = begin_wait(&store, &first).await;
    store_all(&*store, vec![request(success(&first, "null"))]).await;
    finish(wait).await;
    let connections = place.connections().await;

    let ids: Vec<String> = (0..WAITS).map(|_| new_id()).collect();
    let waits: Vec<_> = ids
        .iter()
        .map(|id| {
            let (store, id) = (Arc::clone(&store), id.clone());
            tokio::spawn(async move { store.wait(&id).await })
        })
        .collect();
    eventually("all wait", || async { store.waiting() == WAITS }).await;
    if place.subscriptions().await.is_some() {
        eventually("the server knows of all", || async { place.subscriptions().await == Some(WAITS) }).await;
    }
    assert_eq!(place.connections().await, connections);

    for (chunk, ids) in ids.chunks(1000).enumerate() {
        let batch = ids
            .iter()
            .enumerate()
            .map(|(n, id)| request(success(id, &(chunk * 1000 + n).to_string())))
            .collect();
        store_all(&*store, batch).await;
    }
    for (n, wait) in waits.into_iter().enumerate() {
        assert_eq!(finish(wait).await, success(&ids[n], &n.to_string()));
    }
    assert_eq!(place.connections().await, connections);
    store.close().await;
}

/// After a reconnect everything that is awaited is read again.
pub async fn a_wait_finds_what_was_stored_while_the_connection_was_lost<P: Place>(place: P) {
    let store = open(&place).await;
    for _ in 0..3 {
        let (unheard, later) = (new_id(), new_id());
        let waits = [begin_wait(&store, &unheard).await, begin_wait(&store, &later).await];
        if place.subscriptions().await.is_some() {
            eventually("the server knows of both", || async { place.subscriptions().await == Some(2) }).await;
        }
        place.store_unheard(&success(&unheard, "1")).await;
        let [first, second] = waits;
        assert_eq!(finish(first).await, success(&unheard, "1"));
        store_all(&*store, vec![request(success(&later, "2"))]).await;
        assert_eq!(finish(second).await, success(&later, "2"));
    }
    store.close().await;
}

/// With an error that says why.
pub async fn closing_ends_every_wait<P: Place>(place: P) {
    let store = open(&place).await;
    let id = new_id();
    let mut waits = vec![begin_wait(&store, &id).await, begin_wait(&store, &id).await];
    for _ in 0..20 {
        waits.push(begin_wait(&store, &new_id()).await);
    }
    within("close", store.close()).await;
    for wait in waits {
        let error = within("wait", wait).await.unwrap().unwrap_err();
        assert_eq!(error.code(), "ERR_CELERIAC_CLOSED");
    }
    assert_eq!(store.waiting(), 0);
}

/// Every later call is told that the store is closed.
pub async fn closing_twice_is_fine_and_a_closed_store_says_so<P: Place>(place: P) {
    let store = open(&place).await;
    let never_connected = celeriac_result::open(&place.url(), StoreOptions::default()).unwrap();
    for store in [store, never_connected] {
        within("close", store.close()).await;
        within("close again", store.close()).await;
        let closed = |error: celeriac_error::Error| assert_eq!(error.code(), "ERR_CELERIAC_CLOSED");
        closed(within("connect", store.connect()).await.unwrap_err());
        closed(within("get", store.get(&["a"])).await.unwrap_err());
        closed(within("wait", store.wait("a")).await.unwrap_err());
        closed(within("forget", store.forget(&["a"])).await.unwrap_err());
        let results =
            within("store", store.store(&[request(success("a", "1")), request(success("b", "1"))])).await;
        assert_eq!(results.len(), 2);
        results.into_iter().for_each(|result| closed(result.unwrap_err()));
    }
}

/// Two stores at one place have nothing but the documents in common.
pub async fn closing_one_store_leaves_the_others_alone<P: Place>(place: P) {
    let (store, other) = (open(&place).await, open(&place).await);
    let id = new_id();
    let (wait, ended) = (begin_wait(&store, &id).await, begin_wait(&other, &id).await);
    other.close().await;
    within("wait", ended).await.unwrap().unwrap_err();
    store_all(&*store, vec![request(success(&id, "1"))]).await;
    assert_eq!(finish(wait).await, success(&id, "1"));
    store.close().await;
}

/// `result_expires`: where the store does it by itself; elsewhere it stays until the cleanup. A duration of zero is
/// for ever, as in Celery.
pub async fn a_document_is_gone_when_its_time_is_over<P: Place>(place: P) {
    let store = open(&place).await;
    let (short, long, never) = (new_id(), new_id(), new_id());
    let keep = |id: &str, expires: u64| StoreRequest {
        meta: success(id, "1"),
        expires: Some(Duration::from_millis(expires)),
    };
    store_all(&*store, vec![keep(&short, 40), keep(&long, 86_400_000), keep(&never, 0)]).await;
    if P::EXPIRES {
        eventually("the document goes", || async { get_one(&*store, &short).await.is_none() }).await;
        store_all(&*store, vec![keep(&short, 0)]).await;
    }
    for id in [&short, &long, &never] {
        assert_eq!(status_of(&*store, id).await.as_deref(), Some("SUCCESS"));
    }
    store.close().await;
}

/// `celery.backend_cleanup`: by the date of the end, so what has not ended stays.
pub async fn cleanup_removes_what_is_old_and_says_how_many<P: Place>(place: P) {
    let store = open(&place).await;
    let day = Duration::from_secs(86_400);
    if !P::CLEANS_UP {
        assert_eq!(within("cleanup", store.cleanup(day)).await.unwrap(), 0);
        return;
    }
    let old = |id: &str| TaskMeta {
        date_done: Some("2001-02-03T04:05:06.000007+00:00".to_owned()),
        ..success(id, "1")
    };
    let new =
        |id: &str| TaskMeta { date_done: Some("2999-02-03T04:05:06+00:00".to_owned()), ..success(id, "1") };
    let batch = vec![old("old 1"), old("old 2"), new("new"), meta("running", "STARTED", "null")];
    store_all(&*store, batch.into_iter().map(request).collect()).await;
    assert_eq!(within("cleanup", store.cleanup(day)).await.unwrap(), 2);
    let found = within("get", store.get(&["old 1", "old 2", "new", "running"])).await.unwrap();
    let left: Vec<bool> = found.iter().map(Option::is_some).collect();
    assert_eq!(left, [false, false, true, true]);
    assert_eq!(within("cleanup", store.cleanup(day)).await.unwrap(), 0);
    store.close().await;
}

/// Writers, readers and waiters of two stores at the same time.
pub async fn many_at_once_do_not_mix_up<P: Place>(place: P) {
    let (store, other) = (open(&place).await, open(&place).await);
    let tasks: Vec<_> = (0..400)
        .map(|n: usize| {
            let (reader, writer) = if n % 2 == 0 { (&store, &other) } else { (&other, &store) };
            let (reader, writer) = (Arc::clone(reader), Arc::clone(writer));
            tokio::spawn(async move {
                let id = new_id();
                let stored = async {
                    for status in ["STARTED", "RETRY", "SUCCESS"] {
                        store_all(&*writer, vec![request(meta(&id, status, &n.to_string()))]).await;
                    }
                };
                let waited = async { within("wait", reader.wait(&id)).await.unwrap() };
                let ((), waited) = tokio::join!(stored, waited);
                assert_eq!(waited, success(&id, &n.to_string()));
                assert_eq!(get_one(&*reader, &id).await, Some(waited));
                within("forget", reader.forget(&[&id])).await.unwrap();
                assert_eq!(get_one(&*writer, &id).await, None);
            })
        })
        .collect();
    for task in tasks {
        within("all of it", task).await.unwrap();
    }
    assert_eq!((store.waiting(), other.waiting()), (0, 0));
    store.close().await;
    other.close().await;
}
