//! Mistakes that can be planted, to see that some test finds each of them.
//!
//! Only with the feature `defects`, which no product is built with: without it [`planted`] is a
//! constant `false`, and what it guards is not in the program. With it, the environment variable
//! `BIFOLIO_DEFECT` names the one defect that a process has. A defect that no layer of the proof finds
//! is a missing test.

/// Declares the defects, each with its name in the environment and what it does.
macro_rules! defects {
    ($($(#[doc = $what:literal])+ $defect:ident = $name:literal,)*) => {
        /// What can be done wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Defect {
            $($(#[doc = $what])+ $defect,)*
        }

        impl Defect {
            /// Every one.
            pub const ALL: &[Defect] = &[$(Defect::$defect,)*];

            /// Its name in the environment.
            pub const fn name(self) -> &'static str {
                match self { $(Defect::$defect => $name,)* }
            }

            /// What it does, in a sentence.
            pub const fn what(self) -> &'static str {
                match self { $(Defect::$defect => concat!($($what),+),)* }
            }
        }
    };
}

defects! {
    /// The log is written and not synced.
    SkipLogSync = "skip-log-sync",
    /// A group of commits is acknowledged before it is written.
    AckBeforeWrite = "ack-before-write",
    /// A failed write of the log is taken for done.
    IgnoreLogError = "ignore-log-error",
    /// A segment gets its name before its length and zeros are synced.
    SkipFillSync = "skip-fill-sync",
    /// The log's directory is not synced after a change of names.
    SkipDirectorySync = "skip-directory-sync",
    /// Frames are believed whatever their checksum.
    SkipFrameChecksum = "skip-frame-checksum",
    /// A log that ends below what the meta knows as synced is taken as it is.
    AcceptShortLog = "accept-short-log",
    /// A damaged frame below what was synced is taken for a torn end.
    DamageIsTorn = "damage-is-torn",
    /// Replay goes on behind a barrier.
    ReplayPastBarrier = "replay-past-barrier",
    /// Commits behind a barrier are durable when the log is.
    ForgetBarrier = "forget-barrier",
    /// A ticket is good at once.
    TicketsAreGood = "tickets-are-good",
    /// A checkpoint leaves out the last page.
    LeaveOutPage = "leave-out-page",
    /// A checkpoint writes no pages.
    SkipFlush = "skip-flush",
    /// The meta is written over the newest one.
    MetaOverNewest = "meta-over-newest",
    /// A checkpoint's meta refers to the map of the one before.
    OldMap = "old-map",
    /// Segments are used again before the meta that gives them up.
    RecycleBeforeMeta = "recycle-before-meta",
    /// The meta's place in the log is the end of the log, whatever is checkpointed.
    MarkTooFar = "mark-too-far",
    /// After recovery there is no checkpoint.
    SkipRecoveryCheckpoint = "skip-recovery-checkpoint",
    /// The floor is not raised, so that stamps are used twice.
    FloorNotRaised = "floor-not-raised",
    /// The file stays marked as cleanly closed while it is open.
    CleanMarkLeftOn = "clean-mark-left-on",
    /// Pages are used again as soon as they are retired.
    ReuseEarly = "reuse-early",
    /// Only the current version counts as live.
    ForgetOlder = "forget-older",
    /// A failed write does not stop the next one.
    NoPoison = "no-poison",
    /// Both pagers believe pages whatever their checksum.
    SkipChecksum = "skip-checksum",
    /// Page stamps are not compared with what the reference says.
    SkipStamp = "skip-stamp",
    /// A record of a meta is believed whatever its checksum.
    SkipMetaChecksum = "skip-meta-checksum",
    /// The pool does not sync.
    PoolSkipsSync = "pool-skips-sync",
    /// The pool forgets that it wrote, so that a sync seems not needed.
    PoolForgetsWrites = "pool-forgets-writes",
    /// The pool takes a failed write for done.
    PoolIgnoresWriteError = "pool-ignores-write-error",
    /// The pool takes a failed sync for done.
    PoolIgnoresSyncError = "pool-ignores-sync-error",
    /// A page stolen from a transaction passes for a final one.
    StolenIsFinal = "stolen-is-final",
    /// The map is not synced.
    MmapSkipsSync = "mmap-skips-sync",
    /// Half of the span is synced.
    MmapSyncsHalf = "mmap-syncs-half",
    /// The file's new length is not synced.
    MmapSkipsLengthSync = "mmap-skips-length-sync",
    /// A failed sync of the map is taken for done.
    MmapIgnoresSyncError = "mmap-ignores-sync-error",
}

/// Whether this process has that defect.
#[cfg(not(feature = "defects"))]
#[inline(always)]
pub const fn planted(_: Defect) -> bool {
    false
}

/// Whether this process has that defect.
#[cfg(feature = "defects")]
pub fn planted(defect: Defect) -> bool {
    use std::sync::OnceLock;
    static PLANTED: OnceLock<Option<String>> = OnceLock::new();
    let name = PLANTED.get_or_init(|| std::env::var("BIFOLIO_DEFECT").ok());
    name.as_deref() == Some(defect.name())
}
