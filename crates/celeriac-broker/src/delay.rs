//! Where a message goes that `RabbitMQ` is to hold until its time: kombu's native delayed delivery
//! (`kombu.transport.native_delayed_delivery`).
//!
//! There is a queue for each bit of a number of seconds, which holds what has that bit for so many seconds. The bits are the
//! first words of the routing key, so that exchanges lead a message from queue to queue and at last to where it belongs.

use std::sync::{Arc, LazyLock};

/// How many bits a delay has: up to eight and a half years.
pub const LEVELS: u32 = 28;

/// What leads to the queues of the app, once the time has come.
pub const EXIT: &str = "celery_delayed_delivery";

/// The exchange and the queue of a bit, 0 being the lowest.
pub fn level(level: u32) -> String {
    format!("celery_delayed_{level}")
}

/// The exchange that delayed messages are published to.
pub fn entrance() -> Arc<str> {
    static ENTRANCE: LazyLock<Arc<str>> = LazyLock::new(|| level(LEVELS - 1).into());
    Arc::clone(&ENTRANCE)
}

/// The key by which a message is held for so many seconds, of which no more are counted than there are bits for, and then goes
/// where `routing_key` leads. What a message has that was delayed before is replaced.
pub fn routing_key(seconds: u32, routing_key: &str) -> String {
    let seconds = seconds.min((1 << LEVELS) - 1);
    let own = undelayed(routing_key);
    let mut key = String::with_capacity(2 * LEVELS as usize + own.len());
    for bit in (0..LEVELS).rev() {
        key.push(if seconds >> bit & 1 == 1 { '1' } else { '0' });
        key.push('.');
    }
    key.push_str(own);
    key
}

/// A routing key without the delay that it may begin with.
pub(crate) fn undelayed(routing_key: &str) -> &str {
    let words = 2 * LEVELS as usize;
    let is_delay = |bits: &[u8]| bits.chunks(2).all(|pair| matches!(pair, b"0." | b"1."));
    match routing_key.as_bytes().get(..words) {
        Some(bits) if is_delay(bits) => &routing_key[words..],
        _ => routing_key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_begins_with_the_bits_of_the_delay() {
        let zeros = "0.".repeat(24);
        assert_eq!(routing_key(10, "celery"), format!("{zeros}1.0.1.0.celery"));
        assert_eq!(routing_key(1, "a.b"), format!("{}1.a.b", "0.".repeat(27)));
        assert_eq!(routing_key(u32::MAX, "k"), format!("{}k", "1.".repeat(28)));
        assert_eq!(&*entrance(), "celery_delayed_27");
    }

    #[test]
    fn a_delay_takes_the_place_of_the_one_before() {
        let once = routing_key(77, "celery");
        assert_eq!(routing_key(10, &once), routing_key(10, "celery"));
        // Words of the key's own that look like bits stay, and so does a key that is shorter than a delay.
        let own = routing_key(5, "1.0.celery");
        assert!(own.ends_with(".1.0.1.1.0.celery"), "{own}");
        assert_eq!(undelayed("1.0.1"), "1.0.1");
        assert_eq!(undelayed(&"ä".repeat(30)), "ä".repeat(30));
    }
}
