//! What only a model has to have: `parking_lot`'s lock for readers and writers, and what loom lacks.

use std::fmt;
use std::sync::PoisonError;

#[cfg(loom)]
use loom::sync as inner;
#[cfg(shuttle)]
use shuttle::sync as inner;

/// As `parking_lot::RwLock`.
#[derive(Default)]
pub struct RwLock<T>(inner::RwLock<T>);

/// As `parking_lot::RwLockReadGuard`.
pub type RwLockReadGuard<'l, T> = inner::RwLockReadGuard<'l, T>;

/// As `parking_lot::RwLockWriteGuard`.
pub type RwLockWriteGuard<'l, T> = inner::RwLockWriteGuard<'l, T>;

impl<T> RwLock<T> {
    /// An unlocked lock.
    pub fn new(value: T) -> Self {
        RwLock(inner::RwLock::new(value))
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
    making: super::Mutex<()>,
    made: loom::sync::atomic::AtomicBool,
}

#[cfg(loom)]
impl<T> OnceLock<T> {
    /// Empty.
    pub fn new() -> Self {
        OnceLock {
            value: std::sync::OnceLock::new(),
            making: super::Mutex::new(()),
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
