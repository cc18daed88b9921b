//! A point in time that is still known after this process, or this machine, has stood still.

use std::time::{Duration, Instant, SystemTime};

/// Now, by two clocks: the monotonic one runs on while the process is stopped, but not on every system while the machine
/// sleeps; the wall clock does, but may be set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    monotonic: Instant,
    wall: SystemTime,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }

    /// How long ago it was, at least: a clock that was set forward makes it longer, never shorter.
    pub(crate) fn age(self) -> Duration {
        self.monotonic.elapsed().max(self.wall.elapsed().unwrap_or_default())
    }
}
