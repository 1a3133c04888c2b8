//! Pools over files that can be closed, damaged and opened again.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use bifolio_pager::conformance::Fixture;
use bifolio_pager::{Error, Geometry, META_LEN, MetaSlot, PageId, Pager};
use bifolio_pager_bufpool::{BufPool, Direct, IoBackend, Policy, PoolOptions};

/// One kind of pool, as the conformance suite makes them.
pub struct Kind {
    pub frames: usize,
    pub options: PoolOptions,
    /// In memory, where a device can be broken on purpose, or in a directory for temporary files.
    pub in_memory: bool,
    /// The file of the pool made last.
    file: Arc<Mutex<Option<File>>>,
}

impl Kind {
    pub fn new(io: IoBackend, direct: Direct, policy: Policy, frames: usize) -> Self {
        Kind {
            frames,
            options: PoolOptions {
                io,
                direct,
                policy,
                max_bytes: 1 << 30,
                ..PoolOptions::default()
            },
            in_memory: false,
            file: Arc::default(),
        }
    }

    pub fn in_memory(self) -> Self {
        Kind {
            in_memory: true,
            ..self
        }
    }

    /// A pool over the file, or over what is there where something was asked for that is not.
    fn open(&self, file: &File, geometry: Geometry) -> BufPool {
        let mut options = self.options.clone();
        options.budget_bytes = options.budget_for(geometry, self.frames);
        loop {
            match BufPool::open(file.try_clone().unwrap(), geometry, options.clone()) {
                Ok(pool) => return pool,
                Err(Error::Unavailable { what, why }) => {
                    println!("SKIPPED: {what}: {why}");
                    match what {
                        "O_DIRECT" => options.direct = Direct::Off,
                        _ => options.io = IoBackend::Pread,
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn file(&self) -> File {
        let file = self.file.lock().unwrap();
        file.as_ref().expect("a pool was made").try_clone().unwrap()
    }
}

impl Fixture for Kind {
    type Pager = BufPool;

    fn create(&self, geometry: Geometry) -> BufPool {
        let file = if self.in_memory {
            let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
            File::from(rustix::fs::memfd_create("pool", flags).unwrap())
        } else {
            tempfile::tempfile().unwrap()
        };
        let pool = self.open(&file, geometry);
        *self.file.lock().unwrap() = Some(file);
        pool
    }

    fn reopen(&self, pool: BufPool) -> BufPool {
        let geometry = pool.geometry();
        drop(pool);
        self.open(&self.file(), geometry)
    }

    fn reopen_damaged(
        &self,
        pool: BufPool,
        id: PageId,
        damage: &mut dyn FnMut(&mut [u8]),
    ) -> Option<BufPool> {
        let geometry = pool.geometry();
        drop(pool);
        let file = self.file();
        set_buffered(&file);
        let mut image = vec![0; geometry.page_size.bytes()];
        file.read_exact_at(&mut image, geometry.page_size.offset(id))
            .unwrap();
        damage(&mut image);
        file.write_all_at(&image, geometry.page_size.offset(id))
            .unwrap();
        Some(self.open(&file, geometry))
    }

    fn stored_meta(&self, _pool: &BufPool, slot: MetaSlot) -> Option<Vec<u8>> {
        // Through a descriptor of its own: the pool's may be in direct mode, this buffer unaligned.
        let file = reopened(&self.file());
        let mut meta = vec![0; META_LEN];
        file.read_exact_at(&mut meta, slot.offset()).unwrap();
        Some(meta)
    }

    fn break_device(&self, _pool: &BufPool) -> bool {
        if !self.in_memory {
            return false;
        }
        use rustix::fs::SealFlags;
        let seals = SealFlags::WRITE | SealFlags::GROW;
        rustix::fs::fcntl_add_seals(self.file(), seals).is_ok()
    }
}

/// The same file through another open file description.
pub fn reopened(file: &File) -> File {
    use std::os::fd::AsRawFd;
    File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .unwrap()
}

/// Undoes a pool's `O_DIRECT`.
pub fn set_buffered(file: &File) {
    let flags = rustix::fs::fcntl_getfl(file).unwrap();
    rustix::fs::fcntl_setfl(file, flags - rustix::fs::OFlags::DIRECT).unwrap();
}

/// A generator of its own, so that a seed in a failure's message is enough to see it again.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % sides
    }
}
