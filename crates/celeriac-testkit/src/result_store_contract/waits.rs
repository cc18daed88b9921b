//! What is awaited is heard of.

use std::sync::Arc;

use super::{Place, begin_wait, eventually, finish, meta, new_id, open, request, store_all, success, within};

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
