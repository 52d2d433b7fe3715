//! CPython's version numbers.

use std::fmt;

/// `PY_VERSION_HEX` without the release level: 3.11.7 is `(3, 11, 7)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// 3.
    pub major: u8,
    /// 11 of 3.11.7.
    pub minor: u8,
    /// 7 of 3.11.7; `None` where only the series is known.
    pub micro: Option<u8>,
}

impl Version {
    /// The version that `PY_VERSION_HEX` spells (`Include/patchlevel.h`): a byte each for major, minor and micro, one for
    /// the release level.
    #[must_use]
    pub fn from_hex(hex: u32) -> Self {
        let [_, micro, minor, major] = hex.to_le_bytes();
        Self {
            major,
            minor,
            micro: Some(micro),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        self.micro.map_or(Ok(()), |micro| write!(f, ".{micro}"))
    }
}
