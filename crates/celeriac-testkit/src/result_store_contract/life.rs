//! Many at once, and how things end: waits, stores, documents.

use std::sync::Arc;
use std::time::Duration;

use celeriac_protocol::TaskMeta;
use celeriac_result::{StoreOptions, StoreRequest};

use super::{
    Place, begin_wait, eventually, finish, get_one, meta, new_id, open, request, status_of, store_all,
    success, within,
};

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
        for result in results {
            closed(result.unwrap_err());
        }
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
    let (short, long, never, renewed) = (new_id(), new_id(), new_id(), new_id());
    let keep_as = |id: &str, status: &str, expires: u64| StoreRequest {
        meta: meta(id, status, "1"),
        expires: Some(Duration::from_millis(expires)),
        ..StoreRequest::default()
    };
    let keep = |id: &str, expires: u64| keep_as(id, "SUCCESS", expires);
    // The time of the latest document counts.
    store_all(&*store, vec![keep_as(&renewed, "STARTED", 30), keep(&renewed, 86_400_000)]).await;
    store_all(&*store, vec![keep(&short, 40), keep(&long, 86_400_000), keep(&never, 0)]).await;
    if P::EXPIRES {
        eventually("the document goes", || async { get_one(&*store, &short).await.is_none() }).await;
        store_all(&*store, vec![keep(&short, 0)]).await;
    }
    for id in [&short, &long, &never, &renewed] {
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
            let (reader, writer) = if n.is_multiple_of(2) { (&store, &other) } else { (&other, &store) };
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
