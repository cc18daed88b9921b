//! The dead list: a hash of entries, a hash of the messages' bytes, and an index by time.

use bytes::Bytes;
use celeriac_error::Result;
use redis::{FromRedisValue, Value};

use super::link::{Link, explain_text};
use super::scripts::{DROP, REPLAY};
use super::settings::Settings;
use crate::dead::DeadLetter;

/// The most messages of one script: the server does nothing else meanwhile.
const MESSAGES_PER_SCRIPT: usize = 100;

/// An entry, the bytes, and the time of one id.
type Found = (Option<Vec<u8>>, Option<Bytes>, Option<f64>);

/// The dead list of one database.
pub(super) struct DeadList<'a> {
    pub(super) settings: &'a Settings,
    pub(super) link: &'a Link,
}

impl DeadList<'_> {
    pub(super) async fn count(&self) -> Result<u64> {
        self.link.command(redis::cmd("ZCARD").arg(self.settings.keys.dead_index())).await
    }

    pub(super) async fn list(&self, offset: usize, limit: usize) -> Result<Vec<DeadLetter>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let last = offset.saturating_add(limit - 1).min(i64::MAX as usize);
        let mut range = redis::cmd("ZRANGE");
        range.arg(self.settings.keys.dead_index()).arg(offset.min(last)).arg(last).arg("WITHSCORES");
        let page: Vec<(String, f64)> = self.link.command(&range).await?;
        if page.is_empty() {
            return Ok(Vec::new());
        }
        let (entries, sizes) = self.entries(page.iter().map(|(id, _)| id.as_str())).await?;
        let known = page.iter().zip(entries.iter().zip(sizes));
        Ok(known
            .map(|((id, at_ms), (entry, size))| {
                DeadLetter::from_entry(id, entry.as_deref(), *at_ms as u64, || size)
            })
            .collect())
    }

    /// The entries with these ids, where they are, and the sizes of the messages.
    async fn entries(
        &self,
        ids: impl Iterator<Item = &str> + Clone,
    ) -> Result<(Vec<Option<Vec<u8>>>, Vec<u64>)> {
        let keys = &self.settings.keys;
        let mut both = redis::pipe();
        let entries = both.cmd("HMGET").arg(keys.dead());
        for id in ids.clone() {
            entries.arg(id);
        }
        for id in ids {
            both.cmd("HSTRLEN").arg(keys.dead_raw()).arg(id);
        }
        let mut replies = self.link.commands::<Vec<Value>>(&both).await?.into_iter();
        let entries = replies.next().unwrap_or(Value::Nil);
        let read = || -> redis::RedisResult<_> {
            let sizes =
                replies.map(|size| Ok(u64::from_redis_value(size)?)).collect::<redis::RedisResult<_>>()?;
            Ok((FromRedisValue::from_redis_value(entries)?, sizes))
        };
        read().map_err(|error| super::link::explain(&self.settings.url, &error))
    }

    pub(super) async fn get(&self, id: &str) -> Result<Option<(DeadLetter, Bytes)>> {
        let keys = &self.settings.keys;
        let mut all = redis::pipe();
        all.cmd("HGET").arg(keys.dead()).arg(id);
        all.cmd("HGET").arg(keys.dead_raw()).arg(id);
        all.cmd("ZSCORE").arg(keys.dead_index()).arg(id);
        let (entry, raw, at_ms): Found = self.link.commands(&all).await?;
        if entry.is_none() && raw.is_none() && at_ms.is_none() {
            return Ok(None);
        }
        let raw = raw.unwrap_or_default();
        let at_ms = at_ms.unwrap_or_default() as u64;
        Ok(Some((DeadLetter::from_entry(id, entry.as_deref(), at_ms, || raw.len() as u64), raw)))
    }

    pub(super) async fn replay(&self, ids: &[String], queue: Option<&str>) -> Result<Vec<bool>> {
        let keys = &self.settings.keys;
        let mut moves = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(MESSAGES_PER_SCRIPT) {
            let (entries, sizes) = self.entries(chunk.iter().map(String::as_str)).await?;
            for (id, (entry, size)) in chunk.iter().zip(entries.iter().zip(sizes)) {
                // What is not there goes nowhere, so it needs no destination.
                if entry.is_none() && size == 0 {
                    continue;
                }
                let letter = DeadLetter::from_entry(id, entry.as_deref(), 0, || size);
                let destination = letter.destination(queue)?;
                keys.check_queue(destination)?;
                let list = keys.list(destination, letter.priority);
                let counted = letter.task_id.map(|id| keys.deliveries(&id)).unwrap_or_default();
                moves.push((id, list, counted));
            }
        }
        let mut replayed = std::collections::HashSet::new();
        for chunk in moves.chunks(MESSAGES_PER_SCRIPT) {
            let mut call = REPLAY.call(&[keys.dead(), keys.dead_raw(), keys.dead_index()]);
            for (id, list, counted) in chunk {
                call.arg(id).arg(list).arg(counted);
            }
            let replies: Vec<Value> = self.link.script(&REPLAY, &call).await?;
            for ((id, ..), reply) in chunk.iter().zip(replies) {
                match reply {
                    Value::Int(1) => _ = replayed.insert(id.as_str()),
                    Value::BulkString(text) => {
                        return Err(explain_text(&self.settings.url, &String::from_utf8_lossy(&text)));
                    }
                    _ => {}
                }
            }
        }
        Ok(ids.iter().map(|id| replayed.remove(id.as_str())).collect())
    }

    pub(super) async fn drop(&self, ids: &[String]) -> Result<Vec<bool>> {
        let keys = &self.settings.keys;
        let mut dropped = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(MESSAGES_PER_SCRIPT) {
            let mut call = DROP.call(&[keys.dead(), keys.dead_raw(), keys.dead_index()]);
            call.arg(chunk);
            dropped.extend(
                self.link.script::<Vec<i64>>(&DROP, &call).await?.into_iter().map(|there| there == 1),
            );
        }
        Ok(dropped)
    }
}
