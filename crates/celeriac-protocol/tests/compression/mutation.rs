//! Damaged streams: an error, or other bytes, or the same; never more than the bound, never a panic.
//!
//! `CELERIAC_MUTATION_SECONDS` is how long each of the two threads goes on; 3 without it.

use std::time::Instant;

use celeriac_error::Error;
use celeriac_protocol::compression::{METHODS, Method, stored};
use proptest::prelude::Rng;
use proptest::test_runner::TestRng;

use crate::common::on_two_threads;
use crate::{LIMIT, text};

/// The most that damaged bytes may become here.
const BOUND: usize = 1 << 20;

#[test]
fn a_truncated_stream_is_an_error_wherever_it_ends() {
    for method in METHODS {
        for plain in [text(0), text(10), text(700), vec![b'a'; 5000]] {
            let packed = (method.compress)(&plain).unwrap();
            for length in 0..packed.len() {
                let found = (method.decompress)(&packed[..length], LIMIT);
                let nothing = method.name == "bzip2" && length == 0;
                assert!(
                    matches!(found, Err(Error::Decode { .. })) || nothing && found.unwrap().is_empty(),
                    "{} {length} of {}",
                    method.name,
                    packed.len()
                );
            }
        }
    }
}

#[test]
fn a_changed_byte_anywhere_ends_in_bytes_or_an_error() {
    for method in METHODS {
        let packed = (method.compress)(&text(400)).unwrap();
        for position in 0..packed.len() {
            for change in [1, 0x80, 0xff] {
                let mut changed = packed.clone();
                changed[position] ^= change;
                read(method, &changed);
            }
        }
    }
}

fn read(method: &Method, packed: &[u8]) {
    match (method.decompress)(packed, BOUND) {
        Ok(plain) => assert!(plain.len() <= BOUND),
        Err(Error::Decode { .. } | Error::LimitExceeded { .. }) => {}
        Err(other) => panic!("{}: {other}", method.name),
    }
}

#[test]
fn streams_that_were_mutated_at_random_end_in_bytes_or_an_error() {
    on_two_threads(mutate_until);
}

fn mutate_until(end: Instant, mut random: TestRng) -> u64 {
    let corpus: Vec<_> = METHODS
        .iter()
        .flat_map(|method| {
            [text(0), text(60), text(3000), text(100_000), vec![7; 70_000]]
                .map(|plain| (method, (method.compress)(&plain).unwrap()))
        })
        .collect();
    let mut tried = 0;
    while Instant::now() < end {
        let (method, packed) = &corpus[random.next_u32() as usize % corpus.len()];
        let mut packed = packed.clone();
        for _ in 0..=random.next_u32() % 4 {
            mutate(&mut packed, &mut random);
        }
        read(method, &packed);
        let stored = [stored::MARKER, method.content_type.as_bytes(), b"\0", &packed].concat();
        let _ = stored::decode(&stored, BOUND);
        tried += 1;
    }
    tried
}

fn mutate(bytes: &mut Vec<u8>, random: &mut TestRng) {
    if bytes.is_empty() {
        bytes.push(random.next_u32() as u8);
        return;
    }
    // Headers are short and matter most: every second change is in the first bytes.
    let reach = if random.next_u32().is_multiple_of(2) { bytes.len().min(32) } else { bytes.len() };
    let at = random.next_u32() as usize % reach;
    match random.next_u32() % 6 {
        0 => bytes[at] ^= 1 << (random.next_u32() % 8),
        1 => bytes[at] = random.next_u32() as u8,
        2 => bytes.truncate(at),
        3 => drop(bytes.splice(at..at, [0xff; 4])),
        4 => {
            let length = (random.next_u32() as usize % 64).min(bytes.len() - at);
            let part = bytes[at..at + length].to_vec();
            bytes.extend_from_slice(&part);
        }
        _ => drop(bytes.drain(at..(at + 1 + random.next_u32() as usize % 8).min(bytes.len()))),
    }
}
