//! Ids of tasks that must not run, as Celery's workers remember them (`celery.worker.state.revoked`).

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The most ids that are remembered (`CELERY_WORKER_REVOKES_MAX`).
const LIMIT: usize = 50_000;

/// How long an id is remembered (`CELERY_WORKER_REVOKE_EXPIRES`).
const EXPIRES: Duration = Duration::from_secs(10_800);

/// A set that forgets the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Revoked {
    since: HashMap<String, Instant>,
    order: VecDeque<(String, Instant)>,
}

impl Revoked {
    pub(crate) fn add(&mut self, id: String, now: Instant) {
        self.order.push_back((id.clone(), now));
        self.since.insert(id, now);
        while self.order.front().is_some_and(|(_, at)| self.since.len() > LIMIT || now - *at > EXPIRES) {
            if let Some((id, at)) = self.order.pop_front()
                && self.since.get(&id) == Some(&at)
            {
                self.since.remove(&id);
            }
        }
    }

    pub(crate) fn contains(&self, id: &str) -> bool {
        !self.since.is_empty() && self.since.contains_key(id)
    }

    pub(crate) fn len(&self) -> usize {
        self.since.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_ids_are_forgotten_beyond_the_limit() {
        let mut revoked = Revoked::default();
        let now = Instant::now();
        for number in 0..=LIMIT {
            revoked.add(number.to_string(), now);
        }
        assert_eq!(revoked.len(), LIMIT);
        assert!(!revoked.contains("0"));
        assert!(revoked.contains("1"));
    }

    #[test]
    fn an_id_that_is_revoked_again_is_remembered_from_then_on() {
        let mut revoked = Revoked::default();
        let start = Instant::now();
        revoked.add("a".to_owned(), start);
        revoked.add("a".to_owned(), start + EXPIRES);
        revoked.add("b".to_owned(), start + EXPIRES + Duration::from_secs(1));
        assert!(revoked.contains("a"));
    }
}
