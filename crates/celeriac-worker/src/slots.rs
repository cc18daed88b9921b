//! What JavaScript has been given, and what of it has begun, in memory that both sides see.
//!
//! A call into the core before each body would cost more than most of what is around the body. So each delivery that
//! JavaScript has takes a slot here, a word: JavaScript turns it from *given* to *begun* right before the body, the core from
//! *given* to *gone* before anybody else may have the message. Whoever comes second sees it.

use std::sync::atomic::{AtomicI32, Ordering};

use celeriac_broker::DeliveryTag;

/// No delivery's *given*, which is even.
const GONE: i32 = -1;

/// The word that JavaScript sets to 1 to say that it sees this memory: some runtimes are given a copy.
const SEEN: usize = 0;

/// One word for each delivery that JavaScript can have at once, after the first.
#[derive(Debug)]
pub struct Slots {
    words: Box<[AtomicI32]>,
}

/// The most slots. Whoever runs more at once asks before the bodies of the others.
const MOST: usize = 65_535;

impl Slots {
    pub(crate) fn new(concurrency: usize) -> Self {
        Self {
            words: (0..=concurrency.min(MOST))
                .map(|place| AtomicI32::new(if place == SEEN { 0 } else { GONE }))
                .collect(),
        }
    }

    /// The words, for whoever shows them to JavaScript.
    pub fn words(&self) -> &[AtomicI32] {
        &self.words
    }

    /// Whether JavaScript sees this memory. Otherwise it asks before each body.
    pub(crate) fn are_seen(&self) -> bool {
        self.words[SEEN].load(Ordering::Relaxed) == 1
    }

    fn word(&self, slot: u32) -> Option<&AtomicI32> {
        self.words.get(slot as usize)
    }

    /// Before JavaScript hears of it.
    pub(crate) fn give(&self, slot: u32, tag: DeliveryTag) {
        if let Some(word) = self.word(slot) {
            word.store(given(tag), Ordering::SeqCst);
        }
    }

    /// From now on its body has begun; false when it is gone, or has begun before.
    pub(crate) fn begin(&self, slot: u32, tag: DeliveryTag) -> bool {
        self.change(slot, given(tag), given(tag).wrapping_add(1))
    }

    /// From now on its body cannot begin; false when it has begun.
    pub(crate) fn take_back(&self, slot: u32, tag: DeliveryTag) -> bool {
        self.change(slot, given(tag), GONE)
    }

    pub(crate) fn has_begun(&self, slot: u32, tag: DeliveryTag) -> bool {
        self.word(slot).is_some_and(|word| word.load(Ordering::SeqCst) == given(tag).wrapping_add(1))
    }

    /// Nothing is in this slot.
    pub(crate) fn clear(&self, slot: u32) {
        if let Some(word) = self.word(slot) {
            word.store(GONE, Ordering::SeqCst);
        }
    }

    fn change(&self, slot: u32, from: i32, to: i32) -> bool {
        let change = |word: &AtomicI32| word.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
        self.word(slot).is_some_and(|word| change(word).is_ok())
    }
}

/// JavaScript has it, and has not begun its body: a number of its own, so that what comes late means no other delivery.
fn given(tag: DeliveryTag) -> i32 {
    (tag.0 as u32).wrapping_mul(2) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_who_want_a_delivery_one_gets_it() {
        for number in [1, 7, (1 << 31) - 1, 1 << 31, 1 << 40] {
            let (slots, tag) = (Slots::new(3), DeliveryTag(number));
            slots.give(2, tag);
            assert!(!slots.has_begun(2, tag));
            assert!(slots.begin(2, tag));
            assert!(slots.has_begun(2, tag));
            assert!(!slots.take_back(2, tag) && !slots.begin(2, tag), "it has begun");
            slots.give(2, tag);
            assert!(slots.take_back(2, tag));
            assert!(!slots.begin(2, tag), "it is gone");
            slots.give(2, DeliveryTag(number + 1));
            assert!(!slots.begin(2, tag), "somebody else is in its slot");
        }
    }

    #[test]
    fn there_are_as_many_slots_as_said() {
        let slots = Slots::new(2);
        let has = |slot| {
            slots.give(slot, DeliveryTag(5));
            slots.begin(slot, DeliveryTag(5))
        };
        assert_eq!([has(1), has(2), has(3), has(u32::MAX)], [true, true, false, false]);
        assert_eq!(Slots::new(usize::MAX).words().len(), MOST + 1);
        assert!(!slots.are_seen());
        slots.words()[0].store(1, Ordering::Relaxed);
        assert!(slots.are_seen());
    }
}
