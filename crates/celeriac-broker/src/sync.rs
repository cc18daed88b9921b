//! Locks, and waiting for what another task tells.

use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Locks, also after a thread panicked that had the lock: the others go on.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Resolves when something is told from now on. Whoever looks whether there is something to wait for calls this before, so that
/// nothing is missed that comes between looking and waiting: with `notified()` alone two who look at once would have to share what
/// is told twice meanwhile.
pub fn listen(notify: &Notify) -> Pin<Box<Notified<'_>>> {
    let mut told = Box::pin(notify.notified());
    told.as_mut().enable();
    told
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn what_is_told_between_looking_and_waiting_reaches_everybody_who_looked() {
        let tell_twice = |notify: &Notify| (notify.notify_one(), notify.notify_one());
        let tell_all = |notify: &Notify| (notify.notify_waiters(), ());
        for tell in [tell_twice, tell_all] {
            let notify = Notify::new();
            let mut context = Context::from_waker(Waker::noop());
            let mut told = [listen(&notify), listen(&notify)];
            tell(&notify);
            assert!(told.iter_mut().all(|told| told.as_mut().poll(&mut context).is_ready()));
            assert!(listen(&notify).as_mut().poll(&mut context).is_pending(), "nothing new was told");
        }
    }
}
