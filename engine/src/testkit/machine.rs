//! A machine without power, and how it is booted.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bifolio_pager::{
    Faulty, META_AREA_LEN, META_LEN, MemPager, MetaSlot, PageSize, Pager, witness,
};
use bifolio_pager_bufpool::{BufPool, Direct, IoBackend, PoolOptions};
use bifolio_pager_mmap::{MmapOptions, MmapPager};
use rustix::fs::MemfdFlags;

use super::running::{Pages, Running};
use super::shadow::{Content, Shadow};
use crate::core::{AnyPager, Keeping};
use crate::database::Database;
use crate::error::{Error, Result};
use crate::file;
use crate::log::sim::SimDisk;
use crate::log::{self, SyncMethod};
use crate::meta::Meta;
use crate::options::LogPlace;

/// Frames of a pool: few, so that pages are stolen.
const FRAMES: usize = 24;
/// Address space of a file.
const MAX_BYTES: u64 = 1 << 28;

/// On what a machine's pages are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum On {
    /// The pager without a file, which models storage itself.
    Model,
    /// The mmap pager.
    Mmap,
    /// The buffer pool with `pread`.
    Pread,
    /// The buffer pool with io_uring.
    Uring,
}

/// Pages as storage has them.
pub enum Stored {
    /// In the pager that models storage.
    Model(MemPager),
    /// In a file.
    File(Content),
}

/// Both disks of a machine.
pub struct Machine {
    /// What the database's file holds.
    pub pages: Stored,
    /// The directory of its log.
    pub log: SimDisk,
}

impl Machine {
    /// A machine with a new, empty database, its first metas durable, that will run on `on`.
    pub fn new(page_size: PageSize, on: On) -> Self {
        let (newest, other) = file::first_metas(page_size);
        let slots = [(MetaSlot::A, newest), (MetaSlot::B, other)];
        let pages = if on == On::Model {
            let disk = MemPager::new(newest.geometry());
            for (slot, meta) in slots {
                let flushed = disk.flush(&[]).expect("the model's disk does not fail");
                let written = disk.write_meta(flushed, slot, &meta.encode_slot());
                written.expect("the model's disk does not fail");
            }
            Stored::Model(disk)
        } else {
            let mut file = vec![0; META_AREA_LEN as usize];
            for (slot, meta) in slots {
                let at = slot.offset() as usize;
                file[at..at + META_LEN].copy_from_slice(&meta.encode_slot());
            }
            Stored::File(Content::new(file))
        };
        Machine {
            pages,
            log: SimDisk::new(1),
        }
    }

    /// The same once more.
    pub fn copy(&self) -> Self {
        let pages = match &self.pages {
            Stored::Model(disk) => Stored::Model(disk.power_cut()),
            Stored::File(file) => Stored::File(file.clone()),
        };
        Machine {
            pages,
            log: self.log.copy(),
        }
    }

    /// Opens the database as the product does, recovery and all, but that checkpoints come only when
    /// asked for. What is stored in a file can be opened on every pager but the model.
    ///
    /// # Errors
    /// As [`Options::open`](crate::Options::open).
    pub fn open(self, on: On) -> Result<Running> {
        let running = self.assemble(on, 1 << 40)?;
        running.recover()?;
        Ok(running)
    }

    /// The database before its recovery ([`Running::recover`]), with checkpoints due after so many
    /// bytes of log.
    ///
    /// # Errors
    /// As [`Options::open`](crate::Options::open).
    pub fn assemble(self, on: On, limit_bytes: u64) -> Result<Running> {
        let Machine { pages, log } = self;
        let (a, b) = (pages.meta(MetaSlot::A), pages.meta(MetaSlot::B));
        let path = Path::new("modelled");
        let newest = file::newest_of(path, Meta::decode_slot(&a), Meta::decode_slot(&b))?;
        let (pager, watched) = pages.boot(on, &newest.0)?;
        let place = LogPlace {
            disk: Arc::new(log.clone()),
            prefix: "modelled".into(),
            options: log::Options {
                segment_bytes: 1 << 14,
                spare_segments: 1,
                buffer_bytes: 1 << 17,
                sync: SyncMethod::Fdatasync,
            },
            limit_bytes,
        };
        let keeping = Keeping::Log(place);
        let db = Database::assemble(PathBuf::new(), pager, keeping, newest, false, None)?;
        Ok(Running::new(db, log, watched))
    }
}

impl Stored {
    /// What a meta slot holds; short, or empty, if the file ends before.
    fn meta(&self, slot: MetaSlot) -> Vec<u8> {
        match self {
            Stored::Model(disk) => disk.read_meta(slot).unwrap_or_default(),
            Stored::File(file) => {
                let at = slot.offset() as usize;
                file.slice(at..at + META_LEN)
            }
        }
    }

    fn boot(self, on: On, meta: &Meta) -> Result<(AnyPager, Pages)> {
        let content = match self {
            Stored::Model(disk) => {
                assert_eq!(on, On::Model, "no other pager reads the model");
                return Ok((AnyPager::Modelled(Faulty::new(disk)), Pages::Model));
            }
            Stored::File(content) => content,
        };
        let expected = meta.bytes_in_use();
        if (content.len as u64) < expected {
            return Err(Error::Truncated {
                path: "modelled".into(),
                expected,
                found: content.len as u64,
            });
        }
        let failed = |error: io::Error| Error::file("make", "modelled", error);
        let file = in_memory(&content).map_err(failed)?;
        let own = file.try_clone().map_err(failed)?;
        let shadow = Arc::new(Shadow::new(own, content));
        let watching = witness::watch(&file, shadow.clone()).map_err(failed)?;
        let geometry = meta.geometry();
        let pager = match on {
            On::Model => unreachable!("asserted above"),
            On::Mmap => {
                let options = MmapOptions {
                    max_bytes: MAX_BYTES,
                    ..MmapOptions::default()
                };
                AnyPager::Mmap(MmapPager::open(file, geometry, options)?)
            }
            On::Pread | On::Uring => {
                let mut options = PoolOptions {
                    io: match on {
                        On::Pread => IoBackend::Pread,
                        _ => IoBackend::IoUring,
                    },
                    // The shadow looks at what the page cache holds.
                    direct: Direct::Off,
                    max_bytes: MAX_BYTES,
                    ..PoolOptions::default()
                };
                options.budget_bytes = options.budget_for(geometry, FRAMES);
                AnyPager::Pool(BufPool::open(file, geometry, options)?)
            }
        };
        Ok((pager, Pages::File(shadow, watching)))
    }
}

/// A file that no directory has, with this content.
fn in_memory(content: &Content) -> io::Result<File> {
    let file = File::from(rustix::fs::memfd_create("bifolio", MemfdFlags::CLOEXEC)?);
    file.write_all_at(&content.bytes, 0)?;
    file.set_len(content.len as u64)?;
    Ok(file)
}
