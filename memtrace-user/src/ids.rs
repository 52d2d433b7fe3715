//! Ids and quantities as types, so that a count of bytes is never taken for a process id.
//!
//! Owns no behaviour beyond construction, display and order. Every other module may use it.

use std::{fmt, time::Duration};

/// Declares a newtype over an integer with the usual conversions.
macro_rules! id {
    ($(#[$meta:meta])* $name:ident($int:ty), $format:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[serde(transparent)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

id!(
    /// A process: the kernel's thread group id.
    Pid(u32),
    "{}"
);
id!(
    /// A thread.
    Tid(u32),
    "{}"
);
id!(
    /// A stack as the probes number it: a 64-bit hash of its frames. See `memtrace_common::stack`.
    StackId(u64),
    "{:016x}"
);
id!(
    /// An object (mapped file) as frame words number it; never reused within a run. 0 is no object.
    ObjectId(u32),
    "{}"
);
id!(
    /// A site on every host: a stable hash of its frames. See `resolve::site`.
    SiteId(u64),
    "{:016x}"
);
id!(
    /// One incarnation of a Python code object: what an address of a process stands for until it is freed. Numbered in the
    /// order in which they are met, never reused within a run.
    CodeId(u32),
    "{}"
);
id!(
    /// What the Python frames of a stack stand for in a process: a [`CodeId`] for each of them.
    BindingId(u32),
    "{}"
);
id!(
    /// An amount of memory in bytes.
    Bytes(u64),
    "{}"
);

id!(
    /// A moment: whole milliseconds since the session began, good for 49 days.
    Millis(u32),
    "{} ms"
);

impl CodeId {
    /// Stands for a code object that was freed before it was known.
    pub const FREED: Self = Self(0);
    /// Stands for a code object for which there was no room.
    pub const NO_ROOM: Self = Self(1);
    /// The first number of a code object.
    pub const FIRST: Self = Self(2);
}

impl BindingId {
    /// Not bound: the stack has no Python frames, or came too late.
    pub const NONE: Self = Self(0);
    /// Events were lost that may have told of changes.
    pub const DOUBTED: Self = Self(u32::MAX);
}

impl From<Duration> for Millis {
    /// Saturates: a session that outlives the type gives its later blocks one common time of birth.
    fn from(elapsed: Duration) -> Self {
        Self(u32::try_from(elapsed.as_millis()).unwrap_or(u32::MAX))
    }
}

impl From<Millis> for Duration {
    fn from(moment: Millis) -> Self {
        Self::from_millis(moment.0.into())
    }
}

impl std::ops::AddAssign for Bytes {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl std::iter::Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        Self(iter.map(|bytes| bytes.0).sum())
    }
}
