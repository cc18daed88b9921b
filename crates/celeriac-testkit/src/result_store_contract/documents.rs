//! What is stored is read.

use celeriac_protocol::TaskMeta;
use celeriac_protocol::result_meta::ExtendedMeta;
use celeriac_result::StoreRequest;

use super::{
    Place, begin_wait, finish, get_one, meta, new_id, open, request, status_of, store_all, success, within,
};

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
    r#"[[["0c1b0f57-6d1a-4f57-9d2d-000000000001", null], null]]"#.clone_into(&mut written.children_json);
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
    let stored = |n: usize| !n.is_multiple_of(3);
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
