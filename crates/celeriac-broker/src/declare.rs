//! The queues that a process needs, declared once each.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use celeriac_error::Result;

use crate::delay;
use crate::sync::lock;
use crate::transport::{Publication, Queue, Transport};

/// What is known of a queue that is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Delayed delivery was not asked for.
    Plain,
    /// Delayed delivery leads to it.
    Delayed,
    /// Delayed delivery was refused.
    Undelayable,
}

/// The queues that this process has declared, so that each is declared once.
pub struct Declarations {
    transport: Arc<dyn Transport>,
    /// By name.
    declared: Mutex<HashMap<String, Known>>,
}

impl Declarations {
    /// Nothing is declared yet.
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, declared: Mutex::default() }
    }

    /// Whether a queue was declared before, with all that it says.
    pub fn knows(&self, queue: &Queue) -> bool {
        covers(&lock(&self.declared), queue)
    }

    /// Declares those of `queues` that were not declared before.
    ///
    /// # Errors
    /// What the transport says.
    pub async fn ensure<'a>(&self, queues: impl Iterator<Item = &'a Queue> + Send) -> Result<()> {
        let missing = self.missing(queues, covers);
        self.declare(&missing).await
    }

    /// Declares what messages need that are to be sent: as [`ensure`](Self::ensure), but a queue that delayed delivery cannot be
    /// declared for is declared without it, and not asked about again; its messages are then sent [`undelayed`](Self::undelayed).
    ///
    /// # Errors
    /// What the transport says, about the queues themselves where it refuses.
    pub async fn ensure_for_sending<'a>(&self, queues: impl Iterator<Item = &'a Queue> + Send) -> Result<()> {
        let missing =
            self.missing(queues, |declared, queue| covers(declared, queue) || refuses(declared, queue));
        match self.declare(&missing).await {
            Err(error) if !error.is_transient() && missing.iter().any(|queue| queue.delays.is_some()) => {}
            outcome => return outcome,
        }
        for queue in missing {
            self.declare_for_sending(queue).await?;
        }
        Ok(())
    }

    async fn declare_for_sending(&self, mut queue: Queue) -> Result<()> {
        let error = match self.declare(std::slice::from_ref(&queue)).await {
            Err(error) if !error.is_transient() && queue.delays.is_some() => error,
            outcome => return outcome,
        };
        queue.delays = None;
        // Where it is the queue that is refused, this says so.
        self.transport.declare(std::slice::from_ref(&queue)).await?;
        log::warn!(
            "The broker cannot hold delayed messages for the queue `{}`: {error}. They are sent at once, and a worker holds each until \
             its time.",
            queue.name,
        );
        lock(&self.declared).insert(queue.name, Known::Undelayable);
        Ok(())
    }

    /// Messages as they are to be sent, each with the queue that was declared for it: those that the broker was to hold go to their
    /// queue's own exchange at once where [`ensure_for_sending`](Self::ensure_for_sending) was refused delayed delivery. Their ETA
    /// tells the worker how long to wait.
    pub fn undelayed<'a, 'q>(
        &self,
        publications: &'a [Publication],
        queues: impl Iterator<Item = Option<&'q Queue>>,
    ) -> Cow<'a, [Publication]> {
        let mut sent = Cow::Borrowed(publications);
        for (index, queue) in queues.enumerate().take(publications.len()) {
            let Some(queue) = queue.filter(|queue| queue.delays.is_some()) else { continue };
            if refuses(&lock(&self.declared), queue) && publications[index].exchange == delay::entrance() {
                let publication = &mut sent.to_mut()[index];
                publication.exchange = queue.exchange.name.as_str().into();
                publication.exchange_type = queue.exchange.kind;
                publication.routing_key = delay::undelayed(&publication.routing_key).into();
            }
        }
        sent
    }

    fn missing<'a>(
        &self,
        queues: impl Iterator<Item = &'a Queue>,
        is_known: impl Fn(&HashMap<String, Known>, &Queue) -> bool,
    ) -> Vec<Queue> {
        let declared = lock(&self.declared);
        let mut missing: Vec<Queue> = Vec::new();
        for queue in queues {
            if is_known(&declared, queue) {
                continue;
            }
            match missing.iter_mut().find(|known| known.name == queue.name) {
                Some(known) => known.delays = known.delays.or(queue.delays),
                None => missing.push(queue.clone()),
            }
        }
        missing
    }

    async fn declare(&self, queues: &[Queue]) -> Result<()> {
        if queues.is_empty() {
            return Ok(());
        }
        self.transport.declare(queues).await?;
        let mut declared = lock(&self.declared);
        for queue in queues {
            let known = declared.entry(queue.name.clone()).or_insert(Known::Plain);
            if queue.delays.is_some() {
                *known = Known::Delayed;
            }
        }
        Ok(())
    }
}

fn covers(declared: &HashMap<String, Known>, queue: &Queue) -> bool {
    declared.get(&queue.name).is_some_and(|known| *known == Known::Delayed || queue.delays.is_none())
}

fn refuses(declared: &HashMap<String, Known>, queue: &Queue) -> bool {
    declared.get(&queue.name) == Some(&Known::Undelayable)
}
