//! Claims whose answer was lost.
//!
//! A connection may break after the server has run a claiming script and before we have its answer. What was claimed is
//! held in our name then, and nobody would know until its lease is over. Each call has tags of its own, so it can be
//! looked up: once before anything else is claimed, and then each second for as long as a lease, since what was sent may
//! still be on its way to the server.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use celeriac_error::Result;
use celeriac_protocol::envelope;
use tokio::sync::Notify;

use super::consumer::bulks;
use super::core::{Claimed, Core, lock};
use super::record;
use super::scripts::FOUND;

/// How often calls are looked for that may still be on their way.
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Unanswered {
    calls: Mutex<Vec<Call>>,
    added: Notify,
    /// One look at a time: what two find at once would be taken twice.
    looking: tokio::sync::Mutex<()>,
}

struct Call {
    prefix: String,
    since: Instant,
    /// It has not been looked for.
    new: bool,
}

impl Unanswered {
    pub(super) fn add(&self, prefix: String) {
        lock(&self.calls).push(Call { prefix, since: Instant::now(), new: true });
        self.added.notify_one();
    }

    /// Whether there are some that nobody has looked for.
    pub(super) fn has_new(&self) -> bool {
        lock(&self.calls).iter().any(|call| call.new)
    }

    fn prefixes(&self) -> Vec<String> {
        lock(&self.calls).iter().map(|call| call.prefix.clone()).collect()
    }
}

/// Looks for all of them and takes what is there; says whether there was any.
pub(super) async fn look(core: &Core) -> Result<bool> {
    let unanswered = &core.unanswered;
    let _looking = unanswered.looking.lock().await;
    let prefixes = unanswered.prefixes();
    if prefixes.is_empty() {
        return Ok(false);
    }
    let keys = &core.settings.keys;
    let mut call = FOUND.call(&[keys.unacked.clone(), keys.unacked_index.clone(), keys.leases()]);
    call.arg(core.lease_ms());
    for prefix in &prefixes {
        call.arg(prefix);
    }
    let replies: Vec<redis::Value> = core.link.script(&FOUND, &call).await?;
    let mut claimed = Vec::new();
    for (prefix, reply) in prefixes.iter().zip(replies) {
        let records = bulks(reply).unwrap_or_default();
        // What has come now will not come again; what has not, may be on its way.
        lock(&unanswered.calls).retain_mut(|call| {
            let ours = call.prefix == *prefix;
            call.new &= !ours;
            !ours || (records.is_empty() && call.since.elapsed() < core.lease.max(INTERVAL))
        });
        claimed.extend(records.iter().zip(1..).map(|(record, number)| claim(core, prefix, number, record)));
    }
    let found = !claimed.is_empty();
    if found {
        core.accept(claimed).await;
    }
    Ok(found)
}

/// The claim that this record was written for.
fn claim(core: &Core, prefix: &str, number: usize, record: &Bytes) -> Claimed {
    // We wrote it, so it has its form.
    let (raw, queue) = match record::split(record) {
        Some(parts) => (record.slice_ref(parts.raw), parts.routing_key.into_owned()),
        None => (record.clone(), String::new()),
    };
    let priority = envelope::decode(&raw).ok().and_then(|message| message.properties.priority).unwrap_or(0);
    Claimed {
        id: format!("{prefix}{number}").into(),
        list: core.settings.keys.list(&queue, priority).into(),
        queue: queue.into(),
        raw,
    }
}

/// Looks each second while there are some.
pub(super) async fn keep(core: Arc<Core>) {
    loop {
        if lock(&core.unanswered.calls).is_empty() {
            core.unanswered.added.notified().await;
        }
        tokio::time::sleep(INTERVAL).await;
        // A server that is away is the receiver's to report.
        let _ = look(&core).await;
    }
}
