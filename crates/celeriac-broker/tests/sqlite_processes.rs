//! Several processes on one `SQLite` file, some of which are killed.

// Helpers are not inside a test function, where clippy would allow it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use celeriac_broker::Outcome;
use celeriac_testkit::leashed;
use support::{Folder, body, consume, open, publish, settle, take, to, within};

const LEASE: Duration = Duration::from_secs(1);

/// Killed when it is dropped, also when the test fails.
struct Process(Child);

impl Process {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program `examples/queue_process.rs` in one of its roles, and the bodies that it says it took.
fn start(role: &str, url: &str) -> (Process, impl Iterator<Item = String> + use<>) {
    // Cargo builds the examples beside the tests, unless it is told to build one test only.
    let program = std::env::current_exe().unwrap();
    let program = program.parent().unwrap().parent().unwrap().join("examples/queue_process");
    let program = program.with_extension(std::env::consts::EXE_EXTENSION);
    // Whatever leashes it starts without it, too.
    assert!(program.exists(), "{} is not there: run `cargo build --examples` once", program.display());
    let mut child = leashed(program).args([role, url]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    (Process(child), lines.filter_map(|line| line.split_once("took ").map(|(_, body)| body.to_owned())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_process_held_comes_back_marked_and_in_order() {
    let folder = Folder::new();
    let url = folder.url("broker.db");
    let transport = open(&url);
    publish(&transport, &[to("q", "one"), to("q", "two"), to("q", "three")]).await;
    let (mut child, lines) = start("keep", &url);
    assert_eq!(lines.take(3).collect::<Vec<_>>(), ["one", "two", "three"]);
    let consumer = consume(&transport, &["q"], LEASE).await;
    let early = tokio::time::timeout(LEASE * 2, consumer.receive(1)).await;
    assert!(early.is_err(), "a process that lives keeps what it has, beyond its lease");
    child.kill();
    let came = take(&consumer, 3).await;
    assert_eq!(support::bodies(&came), ["one", "two", "three"]);
    assert!(came.iter().all(|it| it.message.as_ref().unwrap().properties.delivery_info.redelivered));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_are_killed_at_work_lose_nothing() {
    const COUNT: usize = 2000;
    let folder = Folder::new();
    let url = folder.url("broker.db");
    let transport = open(&url);
    let mut expected: HashSet<String> = (0..COUNT).map(|number| number.to_string()).collect();
    let batch: Vec<_> = (0..COUNT).map(|number| to("q", &number.to_string())).collect();
    publish(&transport, &batch).await;
    let mut taken = HashSet::new();
    for round in 1..=6 {
        // Each gets a little further than the one before, so that the kills fall at different moments.
        let (mut child, mut lines) = start("acknowledge", &url);
        taken.extend(lines.by_ref().take(round * 7));
        child.kill();
        // What it had printed before it died was taken too.
        taken.extend(lines);
    }
    let consumer = consume(&transport, &["q"], LEASE).await;
    within(async {
        while !expected.is_empty() {
            expected.retain(|body| !taken.contains(body));
            if expected.is_empty() {
                break;
            }
            for delivery in consumer.receive(100).await.unwrap() {
                taken.insert(body(&delivery));
                settle(&consumer, delivery.tag, Outcome::Ack).await.unwrap();
            }
        }
    })
    .await;
    assert_eq!(taken.len(), COUNT);
}
