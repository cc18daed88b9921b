//! Every decoder against bytes that were changed at random: no panic, no hang, nothing that is read but not written back.
//!
//! Each starts from its corpus (`tests/corpus/<decoder>.txt`, a base64 text a line), which is kept: what was found once
//! is tried first each time. To keep a finding, append the line that the failure prints. The decoders run side by side,
//! for `CELERIAC_FUZZ_SECONDS` in all (20 by default); `CELERIAC_FUZZ_SEED` repeats a run.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use celeriac_protocol::serialization::pickle::{self, OpaqueValues};
use celeriac_protocol::serialization::{Limits, Value, by_name};

/// Small enough that the largest value is made soon.
const LIMITS: Limits = Limits { bytes: 1 << 20, depth: 200, values: 20_000 };

/// How long one input may take before the run is called hanging: far more than any does.
const HANGING: Duration = Duration::from_secs(60);

const DECODERS: [&str; 5] = ["json", "msgpack", "pickle", "tagged", "yaml"];

fn decode(decoder: &str, input: &[u8]) -> Option<Value> {
    match decoder {
        "tagged" => Value::from_tagged_json(std::str::from_utf8(input).ok()?).ok(),
        name => (by_name(name).unwrap().decode)(input, &LIMITS).ok(),
    }
}

/// Reads an input; and what it gave, through every other form.
fn check(decoder: &str, input: &[u8]) {
    let Some(value) = decode(decoder, input) else { return };
    let mut text = String::new();
    // Text of ours may nest deeper than values are written.
    if value.to_tagged_json(&mut text).is_err() {
        assert_eq!(decoder, "tagged");
        return;
    }
    let again = Value::from_tagged_json(&text).unwrap();
    assert_eq!(tagged(&again), text);
    let body = pickle::encode_with(&value, OpaqueValues::Written);
    // Texts of ours may hold what is no date.
    if let Ok(body) = body {
        let read = pickle::decode(&body, &Limits::default());
        assert!(read.is_ok() || decoder == "tagged", "{read:?}");
        // In JSON times are kept as they were written.
        if matches!(decoder, "msgpack" | "yaml") {
            assert_eq!(tagged(&read.unwrap()), text);
        }
    }
    if decoder == "tagged" {
        return;
    }
    let serializer = by_name(decoder).unwrap();
    match (serializer.encode)(&value) {
        Ok(body) => {
            let read = (serializer.decode)(&body, &Limits::default()).unwrap();
            // In YAML tuples (of `!!omap`) become lists.
            if !text.contains("\"tuple\"") {
                assert_eq!(tagged(&read), text);
            }
        }
        // Opaque values are refused.
        Err(_) => assert_eq!(decoder, "pickle"),
    }
}

fn tagged(value: &Value) -> String {
    let mut out = String::new();
    value.to_tagged_json(&mut out).unwrap();
    out
}

/// xorshift64*: enough for this, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Less than `limit`, which is not zero.
    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }
}

/// An input of the corpus with some changes.
fn mutate(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const LONGEST: usize = 1 << 14;
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() + 1);
        let other = &corpus[random.below(corpus.len())];
        match random.below(8) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next() as u8,
            2 => input.insert(at, random.next() as u8),
            3 => {
                let end = input.len().min(at + 1 + random.below(8));
                input.drain(at..end);
            }
            4 => input.truncate(at),
            5 if !other.is_empty() => {
                let start = random.below(other.len());
                let end = other.len().min(start + 1 + random.below(32));
                input.splice(at..at, other[start..end].iter().copied());
            }
            // Something repeated: nesting, and long runs.
            6 if at < input.len() => {
                let end = input.len().min(at + 1 + random.below(4));
                let part = input[at..end].repeat(random.below(300));
                input.splice(at..at, part);
            }
            _ => {
                let number = [0, 1, 0x7f, 0x80, 0xff, 0xffff_ffff, u64::MAX][random.below(7)];
                let length = [1, 2, 4, 8][random.below(4)];
                input.splice(at..at, number.to_le_bytes().into_iter().take(length));
            }
        }
        input.truncate(LONGEST);
    }
    input
}

fn corpus(decoder: &str) -> Vec<Vec<u8>> {
    let path = format!("{}/tests/corpus/{decoder}.txt", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| STANDARD.decode(line).unwrap()).collect()
}

/// Tries inputs until the time is up; how many.
fn run(decoder: &str, seed: u64, until: Instant, current: &Mutex<Vec<u8>>) -> Result<usize, String> {
    let corpus = corpus(decoder);
    assert!(corpus.len() > 10, "the corpus of {decoder} is too small");
    let mut random = Random(seed);
    let mut count = 0;
    while count < corpus.len() || Instant::now() < until {
        let input = corpus.get(count).cloned().unwrap_or_else(|| mutate(&corpus, &mut random));
        (*current.lock().unwrap()).clone_from(&input);
        if catch_unwind(AssertUnwindSafe(|| check(decoder, &input))).is_err() {
            return Err(format!("{decoder} fails on {}", STANDARD.encode(&input)));
        }
        count += 1;
    }
    Ok(count)
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

#[test]
fn every_decoder_survives_whatever_arrives() {
    let seconds = Duration::from_secs(setting("CELERIAC_FUZZ_SECONDS").unwrap_or(20));
    let seed = setting("CELERIAC_FUZZ_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap() | 1
    });
    println!("CELERIAC_FUZZ_SEED={seed}");
    let until = Instant::now() + seconds;
    let (sender, results) = mpsc::channel();
    let currents: Vec<_> = DECODERS
        .iter()
        .map(|decoder| {
            let current = Arc::new(Mutex::new(Vec::new()));
            let (sender, shared) = (sender.clone(), Arc::clone(&current));
            thread::spawn(move || {
                let result = run(decoder, seed, until, &shared);
                let _ = sender.send((*decoder, result));
            });
            current
        })
        .collect();
    drop(sender);
    let mut waiting = DECODERS.to_vec();
    let mut failures = Vec::new();
    while !waiting.is_empty() {
        let wait = until.saturating_duration_since(Instant::now()) + HANGING;
        let Ok((decoder, result)) = results.recv_timeout(wait) else { break };
        waiting.retain(|name| *name != decoder);
        match result {
            Ok(count) => println!("{decoder}: {count} inputs"),
            Err(failure) => failures.push(failure),
        }
    }
    for (decoder, current) in DECODERS.iter().zip(&currents) {
        if waiting.contains(decoder) {
            let input = STANDARD.encode(&*current.lock().unwrap());
            failures.push(format!("{decoder} hangs on {input}"));
        }
    }
    assert!(failures.is_empty(), "seed {seed}:\n{}", failures.join("\n"));
}
