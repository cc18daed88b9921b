//! The queues that a process needs, declared once each.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use celeriac_error::Result;

use crate::transport::{Queue, Transport};

/// The queues that this process has declared, so that each is declared once.
pub struct Declarations {
    transport: Arc<dyn Transport>,
    declared: Mutex<HashSet<String>>,
}

impl Declarations {
    /// Nothing is declared yet.
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, declared: Mutex::default() }
    }

    /// Whether a queue was declared before.
    pub fn knows(&self, queue: &Queue) -> bool {
        self.declared.lock().unwrap_or_else(PoisonError::into_inner).contains(&queue.name)
    }

    /// Declares those of `queues` that were not declared before.
    ///
    /// # Errors
    /// What the transport says.
    pub async fn ensure<'a>(&self, queues: impl Iterator<Item = &'a Queue> + Send) -> Result<()> {
        let missing: Vec<Queue> = {
            let declared = self.declared.lock().unwrap_or_else(PoisonError::into_inner);
            let mut missing: Vec<Queue> = Vec::new();
            for queue in queues {
                if !declared.contains(&queue.name) && missing.iter().all(|known| known.name != queue.name) {
                    missing.push(queue.clone());
                }
            }
            missing
        };
        if missing.is_empty() {
            return Ok(());
        }
        self.transport.declare(&missing).await?;
        let mut declared = self.declared.lock().unwrap_or_else(PoisonError::into_inner);
        declared.extend(missing.into_iter().map(|queue| queue.name));
        Ok(())
    }
}
