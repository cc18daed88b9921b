//! How often the bodies of tasks have begun whose messages came back.
//!
//! `RabbitMQ` says that a message was handed out before, not how often, and not whether anything was done with it. So each
//! begin of such a message is a small message in a queue named after its task: how many are there is how often it has
//! begun. Nothing changes about the task's own message, and nobody but us needs to know of it. The queue goes when the task
//! is settled, or a week after it was used last.

use std::sync::Arc;

use bytes::Bytes;
use celeriac_error::{Error, Result};
use lapin::BasicProperties;

use super::core::Core;
use super::publish::Ready;
use super::topology::{Topology, expiring};
use crate::fault_point;
use crate::transport::DeliveryTag;

/// How long a count is kept, in milliseconds.
const KEPT: i32 = 7 * 24 * 60 * 60 * 1000;

/// More begins than this are not told apart.
const MOST: i32 = 10_000;

/// The queue that counts the begins of a task.
pub(super) fn queue_of(task_id: &str) -> String {
    const PREFIX: &str = "celeriac.begun.";
    if task_id.len() + PREFIX.len() <= 255 {
        return format!("{PREFIX}{task_id}");
    }
    // AMQP's names are short: FNV-1a, which is the same in every process.
    let hash = |basis: u64| {
        task_id.bytes().fold(basis, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    };
    format!("{PREFIX}{:016x}{:016x}", hash(0xcbf2_9ce4_8422_2325), hash(0x8422_2325_cbf2_9ce4))
}

pub(super) async fn begin(core: &Arc<Core>, batch: &[(DeliveryTag, &str)]) -> Result<Vec<Option<u32>>> {
    core.make_certain().await?;
    // One after the other: two deliveries of one task share the count.
    let _beginning = core.beginning.lock().await;
    let mut counts = Vec::with_capacity(batch.len());
    for (tag, task_id) in batch {
        let count = match core.with_held(*tag, |held| held.begun.as_ref().map(|(_, count)| *count)) {
            None => None,
            Some(Some(count)) => Some(count),
            Some(None) => {
                let count = count(core, task_id).await?;
                core.with_held(*tag, |held| held.begun = Some(((*task_id).to_owned(), count))).map(|()| count)
            }
        };
        counts.push(count);
    }
    Ok(counts)
}

async fn count(core: &Core, task_id: &str) -> Result<u32> {
    let queue = queue_of(task_id);
    let before = match core.topology().own_queue(&queue, expiring(KEPT, MOST)).await {
        Ok(before) => before,
        Err(error) if error.is_transient() => return Err(error),
        // Better not counted than never run.
        Err(error) => {
            log::warn!("Task {task_id} begins again, and how often it has cannot be counted: {error}");
            return Ok(2);
        }
    };
    fault_point!("amqp.begin.before");
    let mark = Ready::to_queue(&queue, Bytes::new(), BasicProperties::default().with_delivery_mode(1))?;
    match core.lane.send(vec![mark]).await.pop() {
        Some(Err(Error::Unroutable { .. })) | None => {}
        Some(outcome) => outcome?,
    }
    fault_point!("amqp.begin.after");
    Ok(u32::try_from(before).unwrap_or(u32::MAX).saturating_add(2))
}

/// Forgets the counts of tasks.
pub(super) async fn forget(core: &Core, task_ids: Vec<String>) {
    for task_id in task_ids {
        forget_one(core.topology(), &task_id).await;
    }
}

/// A count that could not be forgotten goes by itself after a week.
pub(super) async fn forget_one(topology: &Topology, task_id: &str) {
    if let Err(error) = topology.delete_queue(&queue_of(task_id)).await {
        log::debug!("The count of task {task_id} stays: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_id_makes_a_name_that_amqp_takes() {
        assert_eq!(queue_of("1-2"), "celeriac.begun.1-2");
        let long = "x".repeat(300);
        assert!(queue_of(&long).len() <= 255);
        assert_ne!(queue_of(&long), queue_of(&"x".repeat(301)));
    }
}
