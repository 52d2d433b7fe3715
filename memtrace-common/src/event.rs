//! One call of an allocator, or a change of the process that makes them: the records of the event ring.
//!
//! All records have one size and one shape, so that decoding is a cast and a `match`. The ring buffer keeps
//! the order in which records were *reserved*. An [`ALLOC`] is reserved after the block exists and before the
//! program has seen its address; a [`FREE`] before the allocator can hand the block out again. So in ring order
//! an address is never live twice.

wire! {
    /// A record of the event ring.
    ///
    /// | kind | `addr` | size | `stack` |
    /// |---|---|---|---|
    /// | [`ALLOC`] | new block | requested | stack id |
    /// | [`FREE`] | freed block | 0 | 0 |
    /// | [`REALLOC_ENTER`] | old block | 0 | 0 |
    /// | [`REALLOC_RETURN`] | new block, 0 when none | requested | stack id |
    /// | [`FORK`] | process id of the child | 1 when it shares the parent's memory | 0 |
    /// | [`EXEC`], [`EXIT`] | 0 | 0 | 0 |
    /// | [`CODE_FREED`] | code object | 1 when an [obituary](crate::obituary) was sent before | the obituary's stamp |
    /// | [`TRIAL_MADE`], [`TRIAL_FREED`] | block | 0 | 0 |
    pub struct Event (32) {
        /// Kind in the top byte, requested size in bytes in the lower 56 bits.
        pub kind_and_size: u64,
        /// Process (thread group) that made the call.
        pub tgid: u32,
        /// Thread that made the call.
        pub tid: u32,
        /// Address of the block.
        pub addr: u64,
        /// Id of the stack, see [`crate::stack`]; of a [`CODE_FREED`] the stamp of its obituary.
        pub stack: u64,
    }
}

/// Bits of [`Event::kind_and_size`] that hold the size.
pub const SIZE_BITS: u32 = 56;
/// The largest size an event can carry; larger requests (none can succeed) are clipped to it.
pub const MAX_SIZE: u64 = (1 << SIZE_BITS) - 1;

/// A block was returned.
pub const ALLOC: u8 = 1;
/// A block is about to be freed.
pub const FREE: u8 = 2;
/// A reallocation has begun: the old block may be gone at any moment, or survive if the call fails.
pub const REALLOC_ENTER: u8 = 3;
/// The same thread's reallocation has ended. A null `addr` with a size means that it failed and the old block
/// lives; a null `addr` with size 0 means that the allocator freed it.
pub const REALLOC_RETURN: u8 = 4;
/// The process has a child process that is traced too.
pub const FORK: u8 = 5;
/// The process runs another program from here on; its memory is gone.
pub const EXEC: u8 = 6;
/// The process has ended.
pub const EXIT: u8 = 7;
/// A Python code object is about to be freed: from here on its address may stand for another.
pub const CODE_FREED: u8 = 8;
/// A function that is only listened to has returned a block.
pub const TRIAL_MADE: u8 = 9;
/// A function that is only listened to was given a block to free, or to reallocate.
pub const TRIAL_FREED: u8 = 10;
/// Number of event kinds; per-kind counters are arrays of this length.
pub const COUNT: usize = 16;

impl Event {
    /// Packs a kind and a size into [`Event::kind_and_size`].
    #[inline(always)]
    #[must_use]
    pub const fn pack(kind: u8, size: u64) -> u64 {
        let size = if size > MAX_SIZE { MAX_SIZE } else { size };
        ((kind as u64) << SIZE_BITS) | size
    }

    /// The record's kind; may be one this build does not know.
    #[inline(always)]
    #[must_use]
    pub const fn kind(&self) -> u8 {
        (self.kind_and_size >> SIZE_BITS) as u8
    }

    /// Requested size in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.kind_and_size & MAX_SIZE
    }
}
