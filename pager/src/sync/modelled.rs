//! `parking_lot`'s locks, as far as we use them, over those of a model, which look like `std`'s.
//!
//! A wait with a time limit ends, in a model, whenever the others have had a turn (shuttle), or never
//! by itself (loom): what is right must not depend on how long a moment takes.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Duration;

#[cfg(loom)]
use loom::sync as model;
#[cfg(shuttle)]
use shuttle::sync as model;

/// As `parking_lot::Mutex`.
#[derive(Default)]
pub struct Mutex<T>(model::Mutex<T>);

/// As `parking_lot::MutexGuard`.
pub struct MutexGuard<'m, T> {
    mutex: &'m Mutex<T>,
    /// Absent while a condition variable has it.
    guard: Option<model::MutexGuard<'m, T>>,
}

impl<T> Mutex<T> {
    /// An unlocked mutex.
    pub fn new(value: T) -> Self {
        Mutex(model::Mutex::new(value))
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
        let guard = self.0.try_lock().ok()?;
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
pub struct Condvar(model::Condvar);

impl Condvar {
    /// A condition variable on which nobody waits.
    pub fn new() -> Self {
        Condvar(model::Condvar::new())
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
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _most: Duration) {
        #[cfg(shuttle)]
        MutexGuard::unlocked(guard, shuttle::thread::yield_now);
        #[cfg(loom)]
        self.wait(guard);
    }
}

/// As `parking_lot::RwLock`.
#[derive(Default)]
pub struct RwLock<T>(model::RwLock<T>);

/// As `parking_lot::RwLockReadGuard`.
pub type RwLockReadGuard<'l, T> = model::RwLockReadGuard<'l, T>;

/// As `parking_lot::RwLockWriteGuard`.
pub type RwLockWriteGuard<'l, T> = model::RwLockWriteGuard<'l, T>;

impl<T> RwLock<T> {
    /// An unlocked lock.
    pub fn new(value: T) -> Self {
        RwLock(model::RwLock::new(value))
    }

    /// Waits until nobody writes.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody else has the lock.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RwLock")
    }
}

/// As `std::sync::OnceLock`, which orders what was made before what others do with it.
#[cfg(loom)]
pub struct OnceLock<T> {
    value: std::sync::OnceLock<T>,
    making: Mutex<()>,
    made: loom::sync::atomic::AtomicBool,
}

#[cfg(loom)]
impl<T> OnceLock<T> {
    /// Empty.
    pub fn new() -> Self {
        OnceLock {
            value: std::sync::OnceLock::new(),
            making: Mutex::new(()),
            made: loom::sync::atomic::AtomicBool::new(false),
        }
    }

    /// The value, if it was made.
    pub fn get(&self) -> Option<&T> {
        let made = self.made.load(std::sync::atomic::Ordering::Acquire);
        made.then(|| self.value.get()).flatten()
    }

    /// The value, made by the first who asks.
    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        if self.get().is_none() {
            let _making = self.making.lock();
            self.value.get_or_init(make);
            self.made.store(true, std::sync::atomic::Ordering::Release);
        }
        self.value.get().expect("just made")
    }
}

#[cfg(loom)]
impl<T> Default for OnceLock<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// As `std`'s, of which loom's does not know `const`.
#[cfg(loom)]
macro_rules! const_thread_local {
    ($($(#[$meta:meta])* static $name:ident: $type:ty = const $init:block;)*) => {
        loom::thread_local! { $($(#[$meta])* static $name: $type = $init;)* }
    };
}
#[cfg(loom)]
pub(crate) use const_thread_local as thread_local;
