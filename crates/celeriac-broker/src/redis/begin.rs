//! How often the bodies of tasks have begun whose messages came back.

use std::sync::Arc;
use std::time::Duration;

use celeriac_error::Result;

use super::core::{Core, lock};
use super::scripts::BEGIN;
use crate::transport::DeliveryTag;

/// How long a count is kept.
const KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The most deliveries of one script: the server does nothing else meanwhile.
const DELIVERIES_PER_SCRIPT: usize = 500;

pub(super) async fn begin(core: &Core, batch: &[(DeliveryTag, &str)]) -> Result<Vec<Option<u32>>> {
    let mut counts = vec![None; batch.len()];
    let mut asked: Vec<(usize, Arc<str>, Arc<str>)> = Vec::with_capacity(batch.len());
    {
        let mut all = lock(&core.held);
        for (place, (tag, task_id)) in batch.iter().enumerate() {
            if let Some(held) = all.get_mut(&tag.0) {
                let key: Arc<str> = core.settings.keys.deliveries(task_id).into();
                // Before it is sent: a count whose answer is lost has to be forgotten too.
                held.counted = Some(Arc::clone(&key));
                asked.push((place, Arc::clone(&held.id), key));
            }
        }
    }
    for chunk in asked.chunks(DELIVERIES_PER_SCRIPT) {
        let mut call = BEGIN.call(std::slice::from_ref(&core.settings.keys.unacked));
        call.arg(KEPT.as_millis() as u64);
        for (_, tag, key) in chunk {
            call.arg(&**tag).arg(&**key);
        }
        let replies: Vec<u32> = core.link.script(&BEGIN, &call).await?;
        for ((place, ..), count) in chunk.iter().zip(replies) {
            counts[*place] = (count > 0).then_some(count);
        }
    }
    Ok(counts)
}
