//! How long a connection to Redis has been silent: one count for the broker and for the result store.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::sync::lock;

/// What is known about the answers on one connection. They come in the order of the calls, so an answer stands for those
/// to all calls before it.
#[derive(Debug)]
pub struct Silence(Mutex<Calls>);

#[derive(Debug)]
struct Calls {
    last: u64,
    /// The last call that was answered.
    answered: u64,
    /// The last answer, or the first call after it where that is what we wait for.
    since: Instant,
}

impl Default for Silence {
    fn default() -> Self {
        Self(Mutex::new(Calls { last: 0, answered: 0, since: Instant::now() }))
    }
}

impl Silence {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        lock(&self.0)
    }

    /// A call begins. Its number is for [`answered`](Self::answered).
    pub fn begin(&self) -> u64 {
        let mut calls = self.calls();
        if calls.last == calls.answered {
            calls.since = Instant::now();
        }
        calls.last += 1;
        calls.last
    }

    /// This call was answered, whatever the answer.
    pub fn answered(&self, call: u64) {
        let mut calls = self.calls();
        calls.answered = calls.answered.max(call);
        calls.since = Instant::now();
    }

    /// Nothing is waited for any more: there is a new connection.
    pub fn end(&self) {
        let mut calls = self.calls();
        calls.answered = calls.last;
    }

    /// For how long there has been no answer to the calls that wait for one, also to those whose callers have given up.
    /// Zero where nobody waits.
    pub fn lasts(&self) -> Duration {
        let calls = self.calls();
        if calls.last == calls.answered { Duration::ZERO } else { calls.since.elapsed() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG_AGO: Duration = Duration::from_secs(60);

    fn pass(silence: &Silence) {
        silence.calls().since -= LONG_AGO;
    }

    #[test]
    fn a_connection_that_nobody_uses_is_not_silent() {
        let silence = Silence::default();
        pass(&silence);
        assert_eq!(silence.lasts(), Duration::ZERO);
        let call = silence.begin();
        assert!(silence.lasts() < LONG_AGO);
        silence.answered(call);
        pass(&silence);
        assert_eq!(silence.lasts(), Duration::ZERO);
    }

    #[test]
    fn an_answer_to_another_call_breaks_the_silence_and_does_not_end_the_wait() {
        let silence = Silence::default();
        let first = silence.begin();
        silence.begin();
        pass(&silence);
        silence.answered(first);
        assert!(silence.lasts() < LONG_AGO);
        pass(&silence);
        assert!(silence.lasts() >= LONG_AGO);
    }

    #[test]
    fn a_call_whose_caller_has_gone_is_still_unanswered() {
        let silence = Silence::default();
        silence.begin();
        pass(&silence);
        let call = silence.begin();
        assert!(silence.lasts() >= LONG_AGO);
        silence.answered(call);
        assert_eq!(silence.lasts(), Duration::ZERO);
        silence.begin();
        pass(&silence);
        silence.end();
        assert_eq!(silence.lasts(), Duration::ZERO);
    }
}
