//! The queues that a process needs, declared once each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use celeriac_error::Result;

use crate::sync::lock;
use crate::transport::{Queue, Transport};

/// The queues that this process has declared, so that each is declared once.
pub struct Declarations {
    transport: Arc<dyn Transport>,
    /// By name, and whether delayed delivery was declared with it.
    declared: Mutex<HashMap<String, bool>>,
}

impl Declarations {
    /// Nothing is declared yet.
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, declared: Mutex::default() }
    }

    /// Whether a queue was declared before.
    pub fn knows(&self, queue: &Queue) -> bool {
        covers(&lock(&self.declared), queue)
    }

    /// Declares those of `queues` that were not declared before.
    ///
    /// # Errors
    /// What the transport says.
    pub async fn ensure<'a>(&self, queues: impl Iterator<Item = &'a Queue> + Send) -> Result<()> {
        let missing: Vec<Queue> = {
            let declared = lock(&self.declared);
            let mut missing: Vec<Queue> = Vec::new();
            for queue in queues {
                if covers(&declared, queue) {
                    continue;
                }
                match missing.iter_mut().find(|known| known.name == queue.name) {
                    Some(known) => known.delays = known.delays.or(queue.delays),
                    None => missing.push(queue.clone()),
                }
            }
            missing
        };
        if missing.is_empty() {
            return Ok(());
        }
        self.transport.declare(&missing).await?;
        let mut declared = lock(&self.declared);
        for queue in missing {
            *declared.entry(queue.name).or_default() |= queue.delays.is_some();
        }
        Ok(())
    }
}

fn covers(declared: &HashMap<String, bool>, queue: &Queue) -> bool {
    declared.get(&queue.name).is_some_and(|delays| *delays || queue.delays.is_none())
}
