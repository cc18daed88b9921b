//! The dead list: a hash of entries and an index by time.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use celeriac_error::Result;
use serde::{Deserialize, Serialize};

use super::link::Link;
use super::settings::Settings;
use crate::dead::DeadLetter;

/// What the hash holds.
#[derive(Serialize, Deserialize)]
struct Entry {
    queue: String,
    reason: String,
    detail: String,
    at_ms: u64,
    /// The original bytes in base64: they may be no text.
    raw: String,
}

/// The entry, and the time in it.
pub(super) fn entry(queue: &str, reason: &str, detail: &str, raw: &[u8]) -> (String, u64) {
    let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64);
    let entry = Entry {
        queue: queue.to_owned(),
        reason: reason.to_owned(),
        detail: detail.to_owned(),
        at_ms,
        raw: STANDARD.encode(raw),
    };
    // Texts and a number always have a form in JSON.
    (serde_json::to_string(&entry).unwrap_or_default(), at_ms)
}

pub(super) async fn list(
    settings: &Settings,
    link: &Link,
    offset: usize,
    limit: usize,
) -> Result<Vec<DeadLetter>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let mut range = redis::cmd("ZRANGE");
    range
        .arg(settings.keys.dead_index())
        .arg(offset)
        .arg(offset.saturating_add(limit - 1).min(i64::MAX as usize));
    let ids: Vec<String> = link.command(&range).await?;
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let entries: Vec<Option<String>> =
        link.command(redis::cmd("HMGET").arg(settings.keys.dead()).arg(&ids)).await?;
    let letters = ids.into_iter().zip(entries).filter_map(|(id, entry)| {
        let entry: Entry = serde_json::from_str(&entry?).ok()?;
        let raw = STANDARD.decode(entry.raw).ok()?;
        let mut letter = DeadLetter::new(&entry.queue, &entry.reason, &entry.detail, &raw);
        letter.id = id;
        letter.at_ms = entry.at_ms;
        Some(letter)
    });
    Ok(letters.collect())
}
