//! Fault points: the places where a test build can be told to die, as if it were killed with -9 at that instant.
//!
//! Without the feature `fault-points` nothing of this is compiled. With it, the environment variable `FAILPOINTS` says
//! where: `settle.before=2*off->return` dies at the third time that the point is reached.

#[cfg(feature = "fault-points")]
pub use enabled::{hit, is_listed};

/// Dies here when the environment says so; nothing at all without the feature `fault-points`. The name must be in
/// [`NAMES`].
#[cfg(feature = "fault-points")]
#[macro_export]
macro_rules! fault_point {
    ($name:literal) => {
        const { assert!($crate::fault::is_listed($name), "this fault point is not in the list") };
        $crate::fault::hit($name);
    };
}

/// Dies here when the environment says so; nothing at all without the feature `fault-points`.
#[cfg(not(feature = "fault-points"))]
#[macro_export]
macro_rules! fault_point {
    ($name:literal) => {};
}

/// Every fault point, in the order of a delivery's life. Those that begin with `redis.`, `sqlite.` or `amqp.` belong to that
/// transport, the others to every worker.
#[cfg(feature = "fault-points")]
pub const NAMES: &[&str] = &[
    // A claim, found at once.
    "redis.claim.before",
    "redis.claim.after",
    // A claim by a connection that waits; `moved` is after BLMOVE where its script has not run.
    "redis.wake.before",
    "redis.wake.moved",
    "redis.wake.after",
    "sqlite.claim.before",
    "sqlite.claim.written",
    "sqlite.claim.after",
    // Pushed, and given to the worker.
    "amqp.receive.after",
    // What cannot be read: claimed, not yet in the dead list; and there.
    "redis.bury.before",
    "redis.bury.after",
    "amqp.bury.before",
    "amqp.bury.after",
    // Claimed, and known to the worker.
    "receive.after",
    // An acknowledgement before the body.
    "early_ack.before",
    "early_ack.after",
    // To JavaScript.
    "collect.before",
    "collect.after",
    // Leases.
    "redis.renew.before",
    "redis.renew.after",
    "sqlite.renew.before",
    "sqlite.renew.written",
    "sqlite.renew.after",
    // The outcome, in parts.
    "publish.before",
    "publish.after",
    "store.before",
    "store.after",
    // The outcome in one step, or what is left of it.
    "settle.before",
    "sqlite.settle.written",
    // Sent to the broker, and confirmed; the begin of a body counted.
    "amqp.publish.before",
    "amqp.publish.after",
    "amqp.begin.before",
    "amqp.begin.after",
    // What it sends is confirmed, its acknowledgement is not written; and it is.
    "amqp.ack.before",
    "amqp.ack.after",
    "settle.after",
    // What others left.
    "redis.restore.before",
    "redis.restore.listed",
    "redis.restore.after",
    "sqlite.restore.before",
    "sqlite.restore.written",
    "sqlite.restore.after",
    // From the dead list back to a queue.
    "amqp.replay.before",
    "amqp.replay.after",
];

#[cfg(feature = "fault-points")]
mod enabled {
    use std::io::Write;
    use std::sync::Once;

    /// Whether there is a fault point of this name; known when the program is compiled.
    pub const fn is_listed(name: &str) -> bool {
        let mut place = 0;
        while place < super::NAMES.len() {
            if is_same(super::NAMES[place].as_bytes(), name.as_bytes()) {
                return true;
            }
            place += 1;
        }
        false
    }

    const fn is_same(one: &[u8], other: &[u8]) -> bool {
        let mut place = 0;
        while place < one.len() && place < other.len() && one[place] == other[place] {
            place += 1;
        }
        place == one.len() && place == other.len()
    }

    /// Reaches the point: dies when the environment says that it is time.
    pub fn hit(name: &'static str) {
        static SET_UP: Once = Once::new();
        // Kept for the life of the process.
        SET_UP.call_once(|| std::mem::forget(fail::FailScenario::setup()));
        fail::fail_point!(name, |_| die(name));
    }

    /// As SIGKILL does: no destructor, no buffer, no goodbye to anybody.
    #[allow(unsafe_code, reason = "a signal to this very process")]
    fn die(name: &str) {
        // In one write, so that nothing of JavaScript's falls between; that it cannot be written stops nobody.
        let _ = std::io::stderr().write_all(format!("died at the fault point {name}\n").as_bytes());
        #[cfg(unix)]
        // SAFETY: kill() touches no memory.
        unsafe {
            libc::kill(libc::getpid(), libc::SIGKILL);
        }
        std::process::abort()
    }
}
