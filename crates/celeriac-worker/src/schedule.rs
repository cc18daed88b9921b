//! Messages that are not due yet. They are held, with their leases renewed, and never stand in the way of others.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use celeriac_broker::DeliveryTag;
use jiff::Timestamp;

/// A message and the time from which it may run.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Timestamp,
    tag: DeliveryTag,
}

/// Held messages by due time.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    heap: BinaryHeap<Reverse<Due>>,
}

impl Schedule {
    pub(crate) fn add(&mut self, at: Timestamp, tag: DeliveryTag) {
        self.heap.push(Reverse(Due { at, tag }));
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.heap.peek().map(|Reverse(due)| due.at)
    }

    /// Takes out one that is due at `now`.
    pub(crate) fn pop(&mut self, now: Timestamp) -> Option<DeliveryTag> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(due)| due.tag)
    }

    /// Takes out everything, due or not.
    pub(crate) fn drain(&mut self) -> Vec<DeliveryTag> {
        self.heap.drain().map(|Reverse(due)| due.tag).collect()
    }

    /// Forgets what `keeps` does not want.
    pub(crate) fn retain(&mut self, keeps: impl Fn(DeliveryTag) -> bool) {
        self.heap.retain(|Reverse(due)| keeps(due.tag));
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_first_comes_first_and_nothing_comes_early() {
        let mut schedule = Schedule::default();
        let at = |seconds| Timestamp::from_second(seconds).unwrap_or_default();
        schedule.add(at(20), DeliveryTag(1));
        schedule.add(at(10), DeliveryTag(2));
        assert_eq!(schedule.pop(at(9)), None);
        assert_eq!(schedule.pop(at(10)), Some(DeliveryTag(2)));
        assert_eq!(schedule.pop(at(19)), None);
        assert_eq!(schedule.drain(), vec![DeliveryTag(1)]);
    }
}
