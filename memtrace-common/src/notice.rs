//! What the probes tell the session, apart from the allocator's own events: the records of the notice ring.

wire! {
    /// A record of the notice ring.
    pub struct Notice (40) {
        /// One of the constants below.
        pub kind: u32,
        /// Process it is about.
        pub tgid: u32,
        /// [`FORKED`]: the parent. Otherwise 0.
        pub parent: u32,
        /// Bits of `NOTICE_*`.
        pub flags: u32,
        /// [`NEED_MAPS`]: the program counter. Otherwise 0.
        pub addr: u64,
        /// Command name, zero-terminated when shorter.
        pub comm: [u8; 16],
    }
}

/// A process was forked.
pub const FORKED: u32 = 1;
/// A process has begun another program.
pub const EXECED: u32 = 2;
/// A process has ended.
pub const EXITED: u32 = 3;
/// A stack ran into a mapping the probes do not know.
pub const NEED_MAPS: u32 = 4;
/// The dynamic linker of a traced process has loaded or unloaded objects.
pub const MAPS_CHANGED: u32 = 5;
/// A process has changed its command name.
pub const RENAMED: u32 = 6;

/// The child shares its parent's memory until it begins another program (`vfork`, `posix_spawn`).
pub const NOTICE_SHARES_MEMORY: u32 = 1;
/// The child is traced because its parent's children are.
pub const NOTICE_FOLLOWED: u32 = 2;
/// [`EXECED`]: the process was traced when it began the program, so that the event ring tells of it too.
pub const NOTICE_TRACED: u32 = 4;
