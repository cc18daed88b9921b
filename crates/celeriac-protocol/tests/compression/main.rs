//! Compression against bytes that Python wrote, against bounds, and against whatever else may arrive.

#![allow(clippy::unwrap_used, clippy::panic)]

mod bombs;
#[path = "../common/mutation.rs"]
mod common;
mod mutation;
mod python;
mod round_trips;

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// A bound that no test reaches unless it means to.
const LIMIT: usize = 64 << 20;

fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}

/// JSON as tasks carry it: words that repeat, numbers that do not.
fn text(length: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(length + 64);
    for number in 0_u64.. {
        if text.len() >= length {
            break;
        }
        let noise = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        text.extend_from_slice(
            format!("{{\"id\": {number}, \"name\": \"some name\", \"value\": {noise}}}, ").as_bytes(),
        );
    }
    text.truncate(length);
    text
}
