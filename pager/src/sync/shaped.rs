//! `parking_lot`'s locks, as far as we use them, over `std`'s, or over those of a model, which look
//! like `std`'s.
//!
//! A wait with a time limit ends, in a model, whenever the others have had a turn (shuttle), or never
//! by itself (loom): what is right must not depend on how long a moment takes. A limit of an hour or
//! more stands for none, so that a wake-up that gets lost is seen.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{PoisonError, TryLockError};
use std::time::Duration;

#[cfg(loom)]
use loom::sync as inner;
#[cfg(shuttle)]
use shuttle::sync as inner;
#[cfg(not(any(loom, shuttle)))]
use std::sync as inner;

/// As `parking_lot::Mutex`.
#[derive(Default)]
pub struct Mutex<T>(inner::Mutex<T>);

/// As `parking_lot::MutexGuard`.
pub struct MutexGuard<'m, T> {
    mutex: &'m Mutex<T>,
    /// Absent while a condition variable has it.
    guard: Option<inner::MutexGuard<'m, T>>,
}

impl<T> Mutex<T> {
    /// An unlocked mutex.
    pub fn new(value: T) -> Self {
        Mutex(inner::Mutex::new(value))
    }

    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        MutexGuard {
            mutex: self,
            guard: Some(guard),
        }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let guard = match self.0.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(MutexGuard {
            mutex: self,
            guard: Some(guard),
        })
    }

    /// The value, which nobody else can reach.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value, without the lock.
    pub fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mutex")
    }
}

impl<T> MutexGuard<'_, T> {
    /// Does `work` without the lock.
    pub fn unlocked<R>(guard: &mut Self, work: impl FnOnce() -> R) -> R {
        guard.guard = None;
        let result = work();
        *guard = guard.mutex.lock();
        result
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_ref().expect("locked")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("locked")
    }
}

/// As `parking_lot::Condvar`.
#[derive(Debug, Default)]
pub struct Condvar(inner::Condvar);

impl Condvar {
    /// A condition variable on which nobody waits.
    pub fn new() -> Self {
        Condvar(inner::Condvar::new())
    }

    /// Wakes one of those who wait.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all who wait.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Gives the lock back until notified.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let locked = guard.guard.take().expect("locked");
        let locked = self.0.wait(locked).unwrap_or_else(PoisonError::into_inner);
        guard.guard = Some(locked);
    }

    /// Gives the lock back until notified, or for a while.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, most: Duration) {
        #[cfg(not(any(loom, shuttle)))]
        {
            let locked = guard.guard.take().expect("locked");
            let woken = self.0.wait_timeout(locked, most);
            guard.guard = Some(woken.unwrap_or_else(PoisonError::into_inner).0);
        }
        #[cfg(shuttle)]
        if most < Duration::from_secs(3600) {
            return MutexGuard::unlocked(guard, shuttle::thread::yield_now);
        }
        #[cfg(any(loom, shuttle))]
        {
            let _ = most;
            self.wait(guard);
        }
    }
}
