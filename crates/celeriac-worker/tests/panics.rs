//! A worker of which a part has panicked, which it never should: it ends, and loses nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::sync::{Mutex, Once};

use celeriac_worker::{Worker, WorkerOptions};
use support::{Bench, PATIENCE, SUCCESS, next, outcome};
use tokio::time::timeout;

/// What the worker says while it reads an outcome, while it settles one, and while it reads a message.
const BOOBY_TRAPS: [&str; 3] =
    ["which is no longer held", "what it sends on was refused", "Refused a message from queue"];

static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Panics where it is told one of these: whatever calls it panics there.
struct Trap;

impl log::Log for Trap {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let text = record.args().to_string();
        SAID.lock().unwrap().push(text.clone());
        assert!(!BOOBY_TRAPS.iter().any(|trap| text.contains(trap)), "a trap of this test");
    }

    fn flush(&self) {}
}

fn set_trap() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Trap).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
    });
}

/// The worker ends, says why, and everything that it had comes back.
async fn expect_ends(bench: &Bench, worker: &Worker, part: &str, messages: u64) {
    assert!(!timeout(PATIENCE, worker.wait()).await.expect("whoever waits is told"), "it goes on");
    timeout(PATIENCE, worker.close()).await.expect("it can be closed").unwrap();
    let said = format!("The worker ends, because {part} failed");
    assert!(SAID.lock().unwrap().iter().any(|line| line.contains(&said)));
    // What is said after the end does no harm.
    worker.settle(format!("[1,{SUCCESS}]"));
    assert_eq!(bench.transport.queue_length("celery").await.unwrap(), messages);
}

#[tokio::test]
async fn a_worker_that_cannot_read_outcomes_any_more_ends() {
    set_trap();
    let bench = Bench::new();
    let worker = bench.worker(|_| {}).await;
    bench.send("runs", None).await;
    let items = next(&worker).await;
    worker.settle(format!("[999,{SUCCESS}]\n{}", outcome(&items[0], SUCCESS)));
    expect_ends(&bench, &worker, "reading outcomes", 1).await;
}

#[tokio::test]
async fn a_worker_that_cannot_settle_any_more_ends() {
    set_trap();
    let bench = Bench::new();
    let worker = bench.worker(|_| {}).await;
    for id in ["retries", "runs"] {
        bench.send(id, None).await;
    }
    let mut items = next(&worker).await;
    while items.len() < 2 {
        items.extend(next(&worker).await);
    }
    let retry = bench.retry_to_nobody(items[0][2].as_str().unwrap());
    worker.settle(outcome(&items[0], &retry));
    expect_ends(&bench, &worker, "settling", 2).await;
}

#[tokio::test]
async fn a_worker_that_cannot_read_messages_any_more_ends_also_when_it_has_room_for_no_other() {
    set_trap();
    let bench = Bench::new();
    let accepts_nothing = |options: &mut WorkerOptions| {
        options.accept_content = vec!["application/x-yaml".to_owned()];
        options.concurrency = 1;
        options.prefetch = 1;
    };
    for id in ["refused", "waits"] {
        bench.send(id, None).await;
    }
    let worker = bench.worker(accepts_nothing).await;
    expect_ends(&bench, &worker, "reading messages", 2).await;
}
