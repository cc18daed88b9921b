//! Locks.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, also after a thread panicked that had the lock: the others go on.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
