//! What the tests of random mutations share: how long they go on, on how many threads, and where their numbers come from.

use std::thread;
use std::time::{Duration, Instant};

use proptest::test_runner::{RngAlgorithm, TestRng};

/// Runs `mutate_until` on two threads with a source of numbers each, until `CELERIAC_MUTATION_SECONDS` are over (3 without
/// it); it gives how much it has tried.
pub(crate) fn on_two_threads(mutate_until: fn(Instant, TestRng) -> u64) {
    let seconds =
        std::env::var("CELERIAC_MUTATION_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3.0);
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let threads: Vec<_> = (0..2_u64)
        .map(|thread| {
            // The seed is printed when the test fails; a failing input is found again with it.
            let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 ^ thread;
            println!("seed {seed}");
            thread::spawn(move || mutate_until(end, source(seed)))
        })
        .collect();
    let tried: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    println!("{tried} inputs");
    assert!(tried > 0);
}

fn source(seed: u64) -> TestRng {
    let bytes: Vec<u8> =
        [seed, !seed, seed.rotate_left(7), 1].iter().flat_map(|part| part.to_le_bytes()).collect();
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}
