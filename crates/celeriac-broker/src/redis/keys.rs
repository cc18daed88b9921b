//! The names of all keys and channels: kombu's, and our own beside them.

use celeriac_error::{Error, Result};

/// How our own keys begin.
const OWN: &str = "celeriac.";

/// How kombu's tables of bindings begin.
const BINDINGS: &str = "_kombu.binding";

/// How keys are named (`kombu.transport.redis.Channel`). All carry the `global_keyprefix`.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// `global_keyprefix`.
    pub(super) prefix: String,
    /// Hash of what is held: tag to `[message, exchange, routing key]`.
    pub(super) unacked: String,
    /// When it was taken; for ours, when the lease ends.
    pub(super) unacked_index: String,
    /// kombu's lock for restoring, which we do not need.
    pub(super) unacked_mutex: String,
    /// Between a queue and its priority step (`sep`).
    pub(super) separator: String,
    /// `priority_steps`, ascending; the first is the most urgent.
    pub(super) steps: Vec<u8>,
    /// Before the exchange in the name of a channel, with `global_keyprefix`.
    pub(super) fanout_prefix: String,
    /// Whether the routing key is part of the name of a channel.
    pub(super) fanout_patterns: bool,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            unacked: "unacked".to_owned(),
            unacked_index: "unacked_index".to_owned(),
            unacked_mutex: "unacked_mutex".to_owned(),
            separator: "\x06\x16".to_owned(),
            steps: vec![0, 3, 6, 9],
            fanout_prefix: "/0.".to_owned(),
            fanout_patterns: true,
        }
    }
}

impl Keys {
    /// The list of a queue for messages of this priority: the nearest step that is not above it, where 0 is the most
    /// urgent. Below the first step kombu takes the last one.
    pub(super) fn list(&self, queue: &str, priority: u8) -> String {
        // kombu caps what is above 9 (`max_priority`).
        let priority = priority.min(9);
        let above = self.steps.partition_point(|&step| step <= priority);
        let place = above.checked_sub(1).unwrap_or(self.steps.len() - 1);
        self.list_of_step(queue, self.steps[place])
    }

    /// The lists of a queue, the most urgent first.
    pub(super) fn lists(&self, queue: &str) -> Vec<String> {
        self.steps.iter().map(|&step| self.list_of_step(queue, step)).collect()
    }

    /// Refuses a queue whose lists would lie where this transport, or kombu's, keeps something else.
    pub(super) fn check_queue(&self, queue: &str) -> Result<()> {
        let held = [&self.unacked, &self.unacked_index, &self.unacked_mutex];
        let is_taken = queue.starts_with(OWN)
            || queue.starts_with(BINDINGS)
            || held.iter().any(|key| key.strip_prefix(&*self.prefix) == Some(queue));
        if !is_taken {
            return Ok(());
        }
        Err(Error::InvalidArgument {
            what: format!("the queue `{queue}`"),
            reason: "the Redis transport keeps data of its own under this name, which the queue would destroy; choose \
                     another name for the queue"
                .to_owned(),
        })
    }

    fn list_of_step(&self, queue: &str, step: u8) -> String {
        if step == 0 {
            format!("{}{queue}", self.prefix)
        } else {
            format!("{}{queue}{}{step}", self.prefix, self.separator)
        }
    }

    /// The table of an exchange: a set of `routing key SEP pattern SEP queue`.
    pub(super) fn bindings(&self, exchange: &str) -> String {
        format!("{}{BINDINGS}.{exchange}", self.prefix)
    }

    /// The bindings of queues that do not expire, which keep kombu's sweep from removing the table.
    pub(super) fn permanent_bindings(&self, exchange: &str) -> String {
        format!("{}{BINDINGS}_permanent.{exchange}", self.prefix)
    }

    /// When tables of expiring queues may be removed.
    pub(super) fn binding_deadlines(&self) -> String {
        format!("{}{BINDINGS}_deadlines", self.prefix)
    }

    /// The channel that a fanout message is published on.
    pub(super) fn channel(&self, exchange: &str, routing_key: &str) -> String {
        if routing_key.is_empty() || !self.fanout_patterns {
            format!("{}{exchange}", self.fanout_prefix)
        } else {
            format!("{}{exchange}/{routing_key}", self.fanout_prefix)
        }
    }

    /// A key of our own.
    pub(super) fn own(&self, name: &str) -> String {
        format!("{}{OWN}{name}", self.prefix)
    }

    /// When the leases of our claims end: the mark by which our claims are known.
    pub(super) fn leases(&self) -> String {
        self.own("leases")
    }

    /// What is known of messages that nobody could handle, by id.
    pub(super) fn dead(&self) -> String {
        self.own("dead")
    }

    /// Their bytes.
    pub(super) fn dead_raw(&self) -> String {
        self.own("dead_raw")
    }

    /// Their ids by time.
    pub(super) fn dead_index(&self) -> String {
        self.own("dead_index")
    }

    /// All that scripts need to add to the dead list: these three, and the last id that was given.
    pub(super) fn dead_list(&self) -> [String; 4] {
        [self.dead(), self.dead_raw(), self.dead_index(), self.own("dead_last")]
    }

    /// How often the body of a task has begun whose messages came back.
    pub(super) fn deliveries(&self, task_id: &str) -> String {
        self.own(&format!("deliveries:{task_id}"))
    }

    /// How many messages each waiting consumer would take.
    pub(super) fn credits(&self) -> String {
        self.own("credits")
    }

    /// The last sign of life of each consumer.
    pub(super) fn workers(&self) -> String {
        self.own("workers")
    }

    /// The set of lists that a consumer waits on, and the prefix of its private lists.
    pub(super) fn claims(&self, consumer: &str) -> String {
        self.own(&format!("claim:{consumer}"))
    }

    /// Where BLMOVE puts what it takes from `list` for a consumer, until the script beside it has run.
    pub(super) fn private_list(&self, consumer: &str, list: &str) -> String {
        format!("{}:{list}", self.claims(consumer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_priority_goes_to_the_step_at_or_below_it() {
        let keys = Keys::default();
        let lists: Vec<_> = (0..=10).map(|priority| keys.list("q", priority)).collect();
        assert_eq!(
            lists,
            [
                "q",
                "q",
                "q",
                "q\x06\x163",
                "q\x06\x163",
                "q\x06\x163",
                "q\x06\x166",
                "q\x06\x166",
                "q\x06\x166",
                "q\x06\x169",
                "q\x06\x169"
            ]
        );
    }

    #[test]
    fn below_the_first_step_is_the_last_one_as_in_kombu() {
        let keys = Keys { steps: vec![2, 5], ..Keys::default() };
        assert_eq!(keys.list("q", 1), "q\x06\x165");
        assert_eq!(keys.lists("q"), ["q\x06\x162", "q\x06\x165"]);
    }

    #[test]
    fn a_queue_cannot_have_the_name_of_a_key_of_the_transport() {
        let taken = [
            "unacked",
            "unacked_index",
            "unacked_mutex",
            "_kombu.binding.celery",
            "_kombu.binding_permanent.celery",
            "celeriac.workers",
            "celeriac.claim:celery@host",
            "celeriac.anything",
        ];
        let with_prefix = Keys {
            prefix: "app:".to_owned(),
            unacked: "app:unacked".to_owned(),
            unacked_index: "app:unacked_index".to_owned(),
            unacked_mutex: "app:unacked_mutex".to_owned(),
            ..Keys::default()
        };
        for keys in [Keys::default(), with_prefix] {
            for name in taken {
                let error = keys.check_queue(name).unwrap_err();
                assert_eq!(error.code(), "ERR_CELERIAC_INVALID_ARGUMENT");
                assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
            }
            for name in ["celery", "unacked2", "celeriac", "my.celeriac.workers", "kombu.binding"] {
                keys.check_queue(name).unwrap();
            }
        }
    }

    #[test]
    fn a_channel_has_the_routing_key_only_where_there_is_one() {
        let mut keys = Keys::default();
        assert_eq!(keys.channel("celery.pidbox", ""), "/0.celery.pidbox");
        assert_eq!(keys.channel("celeryev", "task.received"), "/0.celeryev/task.received");
        keys.fanout_patterns = false;
        assert_eq!(keys.channel("celeryev", "task.received"), "/0.celeryev");
    }
}
