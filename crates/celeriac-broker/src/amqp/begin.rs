//! How often the bodies of tasks have begun whose messages came back.
//!
//! `RabbitMQ` says that a message was handed out before, not how often, and not whether anything was done with it. So each
//! begin of such a message is a small message in a queue named after its task: how many are there is how often it has
//! begun. Nothing changes about the task's own message, and nobody but us needs to know of it. The queue goes when the task
//! is settled, or a week after it was used last.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use celeriac_error::{Error, Result};
use futures_util::{StreamExt, stream};
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

/// How many queues are declared or deleted at once.
const AT_ONCE: usize = 32;

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
    core.make_certain().await;
    // One batch after the other: two deliveries of one task share the count.
    let _beginning = core.beginning.lock().await;
    let known = |tag| core.with_held(tag, |held| held.begun.as_ref().map(|(_, count)| *count));
    let new: Vec<(DeliveryTag, &str)> =
        batch.iter().copied().filter(|(tag, _)| matches!(known(*tag), Some(None))).collect();
    for ((tag, task_id), count) in new.iter().zip(count(core, &new).await?) {
        core.with_held(*tag, |held| held.begun = Some(((*task_id).to_owned(), count)));
    }
    Ok(batch.iter().map(|(tag, _)| known(*tag).flatten()).collect())
}

/// Counts each of these, together.
async fn count(core: &Core, new: &[(DeliveryTag, &str)]) -> Result<Vec<u32>> {
    let mut seen = HashSet::new();
    let task_ids: Vec<&str> = new.iter().map(|(_, task_id)| *task_id).filter(|id| seen.insert(*id)).collect();
    // A task that a count is still being forgotten of begins anew after that.
    all_forgotten(core).await;
    let declare = async |queue: String| core.topology().own_queue(&queue, expiring(KEPT, MOST)).await;
    let asked: Vec<_> = task_ids.iter().map(|task_id| declare(queue_of(task_id))).collect();
    let found: Vec<Result<u64>> = stream::iter(asked).buffered(AT_ONCE).collect().await;
    let mut before: HashMap<&str, Option<u64>> = HashMap::new();
    for (task_id, found) in task_ids.into_iter().zip(found) {
        before.insert(
            task_id,
            match found {
                Ok(count) => Some(count),
                Err(error) if error.is_transient() => return Err(error),
                // Better not counted than never run.
                Err(error) => {
                    uncounted(task_id, &error);
                    None
                }
            },
        );
    }
    fault_point!("amqp.begin.before");
    let counted = |task_id: &str| before.get(task_id).copied().flatten().is_some();
    let mark = |task_id: &str| {
        Ready::to_queue(&queue_of(task_id), Bytes::new(), BasicProperties::default().with_delivery_mode(1))
    };
    let marked: Vec<&str> = new.iter().map(|(_, task_id)| *task_id).filter(|id| counted(id)).collect();
    let marks: Vec<Ready> = marked.iter().copied().map(mark).collect::<Result<_>>()?;
    for (task_id, outcome) in marked.into_iter().zip(core.lane.send(marks).await) {
        match outcome {
            Ok(()) | Err(Error::Unroutable { .. }) => {}
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                uncounted(task_id, &error);
                before.insert(task_id, None);
            }
        }
    }
    fault_point!("amqp.begin.after");
    let counts = new.iter().map(|(_, task_id)| {
        let Some(Some(count)) = before.get_mut(task_id) else { return 2 };
        *count += 1;
        u32::try_from(*count).unwrap_or(u32::MAX - 1).saturating_add(1)
    });
    Ok(counts.collect())
}

fn uncounted(task_id: &str, error: &Error) {
    log::warn!("Task {task_id} begins again, and how often it has cannot be counted: {error}");
}

/// Forgets the counts of tasks.
pub(super) async fn forget(topology: &Topology, task_ids: Vec<String>) {
    let forgotten: Vec<_> = task_ids.iter().map(|task_id| forget_one(topology, task_id)).collect();
    stream::iter(forgotten).buffer_unordered(AT_ONCE).collect::<()>().await;
}

/// Forgets the counts of tasks that are over, in the background.
pub(super) async fn forget_soon(core: &Core, task_ids: Vec<String>) {
    if task_ids.is_empty() {
        return;
    }
    let topology = Arc::clone(core.topology());
    let mut forgetting = core.forgetting.lock().await;
    while forgetting.try_join_next().is_some() {}
    forgetting.spawn(async move { forget(&topology, task_ids).await });
}

/// Waits until nothing is being forgotten.
pub(super) async fn all_forgotten(core: &Core) {
    let mut forgetting = core.forgetting.lock().await;
    while forgetting.join_next().await.is_some() {}
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
