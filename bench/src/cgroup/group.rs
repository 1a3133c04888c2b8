//! One group: made, read and removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::find::{Located, Version};
use crate::error::{Error, Result};
use crate::sys;

/// Our groups are called this, the process that made them, and a number.
const NAME_PREFIX: &str = "bifolio-bench-";

/// A group with a memory limit; removed when dropped.
#[derive(Debug)]
pub struct Group {
    path: GroupPath,
}

/// Where a group is, so that another process can read its counters or join it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupPath {
    dir: PathBuf,
    is_v2: bool,
}

/// What the kernel counts for a group at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryNow {
    /// All memory charged to the group.
    pub usage_bytes: u64,
    /// The page cache's part of it.
    pub cache_bytes: u64,
    /// The part that is private memory of its processes.
    pub anonymous_bytes: u64,
    /// Page cache that differs from storage.
    pub dirty_bytes: Option<u64>,
    /// The kernel's own part: page tables and the like.
    pub kernel_bytes: Option<u64>,
}

impl Group {
    /// Makes a group with this limit, trying one place after the other: below our own group, then
    /// below the groups above it. On v2, where a group has either processes or children with a
    /// limit, the last try is to move this process into a child and then make the other one.
    ///
    /// # Errors
    /// [`Error::NoLimit`] with what was tried and why each place refused; [`Error::LimitAbove`] if
    /// a group above allows less.
    pub fn create(located: &Located, number: u64, limit_bytes: u64) -> Result<Group> {
        let name = format!("{NAME_PREFIX}{}-{number}", std::process::id());
        let mut tried = Vec::new();
        let places = bases(located).into_iter().map(|base| (base, MayMove::No));
        for (base, may_move) in places.chain([(located.own.clone(), MayMove::Yes)]) {
            match create_below(located.version, &base, &name, limit_bytes, may_move) {
                Ok(group) => {
                    check_ancestors(located, &base, limit_bytes)?;
                    return Ok(group);
                }
                Err(source) => {
                    let why = format!("{}: {source}", base.display());
                    if !tried.contains(&why) {
                        tried.push(why);
                    }
                }
            }
        }
        Err(Error::NoLimit { tried })
    }

    /// Where it is.
    pub fn path(&self) -> &GroupPath {
        &self.path
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What the dead process left in the page cache would linger as a group without a name.
        // Failing to drop it costs memory until the kernel reclaims it, and nothing else.
        let reclaim = if self.path.is_v2 {
            "memory.reclaim"
        } else {
            "memory.force_empty"
        };
        let amount = self
            .path
            .read_number("memory.current")
            .unwrap_or(0)
            .to_string();
        let _ = fs::write(self.path.dir.join(reclaim), amount);
        remove_dir_patiently(&self.path.dir);
    }
}

/// A process that has just ended can hold its group for some milliseconds more.
fn remove_dir_patiently(dir: &Path) {
    for _ in 0..200 {
        match fs::remove_dir(dir) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                thread::sleep(Duration::from_millis(5));
            }
            // Removed, or never to be removed by us; the next comparison tries again.
            _ => return,
        }
    }
}

/// Our own group and those above it, nearest first, as far as they can hold one of ours.
fn bases(located: &Located) -> Vec<PathBuf> {
    let above = located
        .own
        .ancestors()
        .take_while(|dir| dir.starts_with(&located.mount));
    above.map(Path::to_path_buf).collect()
}

/// Whether this process may leave the group it is in, to free it for children.
#[derive(Clone, Copy, PartialEq)]
enum MayMove {
    No,
    Yes,
}

fn create_below(
    version: Version,
    base: &Path,
    name: &str,
    limit: u64,
    may_move: MayMove,
) -> io::Result<Group> {
    if version == Version::V2 {
        hand_down_memory(base, may_move)?;
    }
    let dir = base.join(name);
    fs::create_dir(&dir)?;
    let path = GroupPath {
        dir,
        is_v2: version == Version::V2,
    };
    // From here on dropping the group removes the directory.
    let group = Group { path };
    set_limit(&group.path, limit)?;
    Ok(group)
}

/// Makes sure that children of the v2 group `base` have the memory controller.
fn hand_down_memory(base: &Path, may_move: MayMove) -> io::Result<()> {
    let has = |file: &str| -> io::Result<bool> {
        Ok(fs::read_to_string(base.join(file))?
            .split_whitespace()
            .any(|word| word == "memory"))
    };
    if has("cgroup.subtree_control")? {
        return Ok(());
    }
    if !has("cgroup.controllers")? {
        return Err(io::Error::other("the group has no memory controller"));
    }
    let enable = || fs::write(base.join("cgroup.subtree_control"), "+memory");
    match enable() {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) && may_move == MayMove::Yes => {
            // The child stays, empty, when we have ended: the next comparison removes it.
            let leaf = base.join(format!("{NAME_PREFIX}{}-main", std::process::id()));
            fs::create_dir(&leaf)?;
            let moved = fs::write(leaf.join("cgroup.procs"), "0").and_then(|()| enable());
            moved.inspect_err(|_| {
                // Other processes are in the group too: go back and leave it as it was.
                let _ = fs::write(base.join("cgroup.procs"), "0");
                let _ = fs::remove_dir(&leaf);
            })
        }
        result => result,
    }
}

/// Sets the limit for memory and for memory with swap, and checks that the kernel took it.
fn set_limit(path: &GroupPath, limit: u64) -> io::Result<()> {
    let write = |file: &str, value: &str| fs::write(path.dir.join(file), value);
    let limit_file = path.limit_file();
    write(limit_file, &limit.to_string())?;
    // Swap would be memory that the limit does not see. A kernel without swap accounting has none
    // of these files, and the row reports the swap that the machine has.
    if path.is_v2 {
        let _ = write("memory.swap.max", "0");
    } else {
        let _ = write("memory.memsw.limit_in_bytes", &limit.to_string());
        let _ = write("memory.swappiness", "0");
    }
    // It is rounded to whole pages, of which the largest have 64 KiB.
    match path.read_number(limit_file) {
        Some(set) if set.abs_diff(limit) < 65_536 => Ok(()),
        set => Err(io::Error::other(format!(
            "the kernel set a limit of {set:?} bytes"
        ))),
    }
}

fn check_ancestors(located: &Located, base: &Path, limit_bytes: u64) -> Result<()> {
    let allowed = ancestor_limit_in(located, base).unwrap_or(u64::MAX);
    if allowed < limit_bytes {
        return Err(Error::LimitAbove {
            allowed_mib: allowed >> 20,
        });
    }
    Ok(())
}

/// The smallest memory limit that already holds for this process, if any.
pub fn ancestor_limit_bytes(located: &Located) -> Option<u64> {
    ancestor_limit_in(located, &located.own)
}

fn ancestor_limit_in(located: &Located, base: &Path) -> Option<u64> {
    let is_v2 = located.version == Version::V2;
    base.ancestors()
        .take_while(|dir| dir.starts_with(&located.mount))
        .filter_map(|dir| {
            let path = GroupPath {
                dir: dir.to_path_buf(),
                is_v2,
            };
            path.read_number(path.limit_file())
        })
        .min()
}

/// Removes groups of comparisons that were killed before they could do it themselves.
pub fn remove_leftovers(located: &Located) {
    for base in bases(located) {
        let Ok(entries) = fs::read_dir(&base) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let owner = name
                .to_str()
                .and_then(|name| name.strip_prefix(NAME_PREFIX))
                .and_then(|rest| {
                    rest.split('-')
                        .next()
                        .and_then(|pid| pid.parse::<u32>().ok())
                });
            // A group with a process in it cannot be removed, so a recycled pid does no harm.
            if owner.is_some_and(sys::has_ended) {
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

impl GroupPath {
    /// Puts the calling process into the group. What it has touched before stays charged elsewhere.
    ///
    /// # Errors
    /// [`Error::Io`] if the kernel refuses.
    pub fn join(dir: &Path) -> Result<()> {
        let procs = dir.join("cgroup.procs");
        fs::write(&procs, "0").map_err(|source| Error::io("join the control group", procs, source))
    }

    /// The group's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the interface is called in the rows.
    pub fn mechanism(&self) -> &'static str {
        if self.is_v2 { "cgroup v2" } else { "cgroup v1" }
    }

    /// Memory charged to the group now. Costs one small read.
    pub fn usage_bytes(&self) -> Option<u64> {
        let file = if self.is_v2 {
            "memory.current"
        } else {
            "memory.usage_in_bytes"
        };
        self.read_number(file)
    }

    /// The most that was ever charged to it; `None` on v2 before Linux 5.19.
    pub fn peak_bytes(&self) -> Option<u64> {
        let file = if self.is_v2 {
            "memory.peak"
        } else {
            "memory.max_usage_in_bytes"
        };
        self.read_number(file)
    }

    /// How often the limit was hit, so that memory had to be reclaimed first.
    pub fn limit_hits(&self) -> Option<u64> {
        if self.is_v2 {
            self.read_field("memory.events", "max")
        } else {
            self.read_number("memory.failcnt")
        }
    }

    /// Processes that the kernel killed because memory could not be reclaimed.
    pub fn oom_kills(&self) -> Option<u64> {
        let file = if self.is_v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        self.read_field(file, "oom_kill")
    }

    /// What is charged to the group now, by kind.
    pub fn memory_now(&self) -> Option<MemoryNow> {
        let stat = fs::read_to_string(self.dir.join("memory.stat")).ok()?;
        let (cache, anonymous, dirty) = if self.is_v2 {
            ("file", "anon", "file_dirty")
        } else {
            ("total_cache", "total_rss", "total_dirty")
        };
        let kernel_bytes = if self.is_v2 {
            field(&stat, "kernel")
        } else {
            self.read_number("memory.kmem.usage_in_bytes")
        };
        Some(MemoryNow {
            usage_bytes: self.usage_bytes()?,
            cache_bytes: field(&stat, cache)?,
            anonymous_bytes: field(&stat, anonymous)?,
            dirty_bytes: field(&stat, dirty),
            kernel_bytes,
        })
    }

    fn limit_file(&self) -> &'static str {
        if self.is_v2 {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        }
    }

    /// A file of one number; `None` too for `max`, which is how v2 writes "no limit".
    fn read_number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.dir.join(file))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    fn read_field(&self, file: &str, name: &str) -> Option<u64> {
        field(&fs::read_to_string(self.dir.join(file)).ok()?, name)
    }
}

/// The value of `name` in a file of `name value` lines.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(' ')?;
        (found == name).then(|| value.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, file: &str, text: &str) {
        fs::write(dir.join(file), text).unwrap();
    }

    #[test]
    fn v1_counters_are_read_from_their_files() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "memory.usage_in_bytes", "4096000\n");
        write(dir.path(), "memory.max_usage_in_bytes", "5000000\n");
        write(dir.path(), "memory.failcnt", "12\n");
        write(dir.path(), "memory.kmem.usage_in_bytes", "777\n");
        write(
            dir.path(),
            "memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        );
        write(
            dir.path(),
            "memory.stat",
            "cache 1\nrss 2\ntotal_cache 300\ntotal_rss 200\n",
        );
        let path = GroupPath {
            dir: dir.path().to_path_buf(),
            is_v2: false,
        };
        assert_eq!(path.peak_bytes(), Some(5_000_000));
        assert_eq!((path.limit_hits(), path.oom_kills()), (Some(12), Some(2)));
        let now = path.memory_now().unwrap();
        assert_eq!(
            (now.usage_bytes, now.cache_bytes, now.anonymous_bytes),
            (4_096_000, 300, 200)
        );
        assert_eq!((now.dirty_bytes, now.kernel_bytes), (None, Some(777)));
    }

    #[test]
    fn v2_counters_are_read_from_their_files() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "memory.current", "4096000\n");
        write(dir.path(), "memory.peak", "5000000\n");
        write(dir.path(), "memory.max", "max\n");
        write(
            dir.path(),
            "memory.events",
            "low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\n",
        );
        write(
            dir.path(),
            "memory.stat",
            "anon 200\nfile 300\nkernel 50\nfile_dirty 7\n",
        );
        let path = GroupPath {
            dir: dir.path().to_path_buf(),
            is_v2: true,
        };
        assert_eq!(
            path.read_number(path.limit_file()),
            None,
            "max means no limit"
        );
        assert_eq!((path.limit_hits(), path.oom_kills()), (Some(12), Some(2)));
        let now = path.memory_now().unwrap();
        assert_eq!((now.cache_bytes, now.anonymous_bytes), (300, 200));
        assert_eq!((now.dirty_bytes, now.kernel_bytes), (Some(7), Some(50)));
    }

    #[test]
    fn a_counter_that_the_kernel_lacks_is_absent_and_not_zero() {
        let dir = tempfile::tempdir().unwrap();
        let path = GroupPath {
            dir: dir.path().to_path_buf(),
            is_v2: true,
        };
        assert_eq!((path.peak_bytes(), path.oom_kills()), (None, None));
        assert!(path.memory_now().is_none());
    }

    #[test]
    fn the_smallest_limit_above_is_the_one_that_holds() {
        let top = tempfile::tempdir().unwrap();
        let own = top.path().join("a/b");
        fs::create_dir_all(&own).unwrap();
        write(top.path(), "memory.max", "max\n");
        write(&top.path().join("a"), "memory.max", "1000\n");
        write(&own, "memory.max", "2000\n");
        let located = Located {
            version: Version::V2,
            mount: top.path().to_path_buf(),
            own,
        };
        assert_eq!(ancestor_limit_bytes(&located), Some(1000));
        let refused = check_ancestors(&located, &located.own, 1001);
        assert!(matches!(refused, Err(Error::LimitAbove { .. })));
    }

    #[test]
    fn places_are_tried_from_our_own_group_upwards_and_not_beyond_the_mount() {
        let (mount, own) = (PathBuf::from("/cg"), PathBuf::from("/cg/a/b"));
        let located = Located {
            version: Version::V2,
            mount,
            own,
        };
        let bases = bases(&located);
        assert_eq!(bases, ["/cg/a/b", "/cg/a", "/cg"].map(PathBuf::from));
    }

    #[test]
    fn a_v2_group_whose_children_have_the_controller_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "cgroup.subtree_control", "cpu memory\n");
        hand_down_memory(dir.path(), MayMove::No).unwrap();
        assert_eq!(
            fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap(),
            "cpu memory\n"
        );
    }

    #[test]
    fn a_v2_group_hands_the_controller_down_if_it_has_it() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "cgroup.subtree_control", "");
        write(dir.path(), "cgroup.controllers", "cpu memory\n");
        hand_down_memory(dir.path(), MayMove::No).unwrap();
        let written = fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap();
        assert_eq!(written, "+memory");
        write(dir.path(), "cgroup.subtree_control", "");
        write(dir.path(), "cgroup.controllers", "cpu\n");
        assert!(hand_down_memory(dir.path(), MayMove::No).is_err());
    }

    #[test]
    fn where_no_group_can_be_made_the_error_says_what_was_tried() {
        let located = Located {
            version: Version::V1,
            mount: PathBuf::from("/nonexistent"),
            own: PathBuf::from("/nonexistent/a"),
        };
        match Group::create(&located, 0, 1 << 26) {
            Err(Error::NoLimit { tried }) => assert_eq!(tried.len(), 2),
            other => panic!("{other:?}"),
        }
    }
}
