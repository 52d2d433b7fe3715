//! What is copied of a Python code object at the moment at which it is freed: enough to name it, when it is gone too
//! soon to be read from outside.
//!
//! A record of the obituary ring is an [`ObituaryHeader`] and four parts, each in a slot of fixed size of which the header
//! says how much is filled. Records have two sizes, [`SMALL`] and [`LARGE`], because the ring gives out fixed sizes only;
//! most code objects are small. An obituary is sent before the event that tells of the end; both carry its stamp.

/// Bytes of the slot for the beginning of the code object.
pub const MAX_HEAD: usize = 256;
/// Bytes of a `bytes` object before its content. Of a line table that is too large, this is all that is copied.
pub const BYTES_HEAD: usize = 32;

/// Bytes of the slots. A part is smaller than its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// For the `str` with the file's name.
    pub file: usize,
    /// For the `str` with the name.
    pub name: usize,
    /// For the `bytes` with the lines.
    pub lines: usize,
}

impl Slots {
    /// Bytes of a record.
    #[must_use]
    pub const fn record(self) -> usize {
        size_of::<ObituaryHeader>() + MAX_HEAD + self.file + self.name + self.lines
    }
}

/// Slots of most code objects.
pub const SMALL: Slots = Slots {
    file: 256,
    name: 256,
    lines: 512,
};
/// Slots of the others.
pub const LARGE: Slots = Slots {
    file: 1024,
    name: 1024,
    lines: 4096,
};

wire! {
    /// Head of a record of the obituary ring.
    pub struct ObituaryHeader (64) {
        /// Address of the code object.
        pub addr: u64,
        /// `CLOCK_MONOTONIC` in nanoseconds, never 0. An address is not freed twice at one time, so with process and address
        /// it says which end this is.
        pub stamp: u64,
        /// Address of the `str` with the file's name.
        pub file: u64,
        /// Address of the `str` with the name.
        pub name: u64,
        /// Address of the `bytes` with the lines.
        pub lines: u64,
        /// Process that frees it.
        pub tgid: u32,
        /// Bytes copied of the code object.
        pub head_size: u32,
        /// Bytes copied of the file's name.
        pub file_size: u32,
        /// Bytes copied of the name.
        pub name_size: u32,
        /// Bytes copied of the lines.
        pub lines_size: u32,
        /// Always 0.
        pub reserved: u32,
    }
}

// The probes bound a part by a mask.
const _: () = assert!(MAX_HEAD.is_power_of_two());
const _: () = assert!(SMALL.file.is_power_of_two() && LARGE.file.is_power_of_two());
const _: () = assert!(SMALL.name.is_power_of_two() && LARGE.name.is_power_of_two());
const _: () = assert!(SMALL.lines.is_power_of_two() && LARGE.lines.is_power_of_two());
