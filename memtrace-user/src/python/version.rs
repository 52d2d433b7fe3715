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

    /// The version that a text ending in a zero byte spells, as `PY_VERSION` does: `3.8.18`, `3.10.0+`, `3.14.0rc1`.
    /// None when it is anything else.
    #[must_use]
    pub fn from_text(text: &[u8]) -> Option<Self> {
        let end = text.iter().position(|&byte| byte == 0)?;
        let text = std::str::from_utf8(&text[..end]).ok()?;
        let mut numbers = text.splitn(3, '.');
        let (major, minor, rest) = (numbers.next()?, numbers.next()?, numbers.next()?);
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (micro, suffix) = rest.split_at(digits);
        let is_suffix = suffix
            .bytes()
            .all(|byte| matches!(byte, b'a' | b'b' | b'r' | b'c' | b'+' | b'0'..=b'9'));
        let version = Self {
            major: small_number(major)?,
            minor: small_number(minor)?,
            micro: Some(small_number(micro)?),
        };
        (is_suffix && matches!(version.major, 2 | 3)).then_some(version)
    }

    /// Whether its series is this one or newer.
    #[must_use]
    pub fn is_at_least(self, major: u8, minor: u8) -> bool {
        (self.major, self.minor) >= (major, minor)
    }
}

/// A number of one to three digits and nothing else; `parse` alone would take a sign.
fn small_number(text: &str) -> Option<u8> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        self.micro.map_or(Ok(()), |micro| write!(f, ".{micro}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_versions_or_nothing() {
        let text = |text: &[u8]| Version::from_text(text).map(|version| version.to_string());
        assert_eq!(text(b"3.8.18\0rest"), Some("3.8.18".into()));
        assert_eq!(text(b"3.14.0rc1\0"), Some("3.14.0".into()));
        assert_eq!(text(b"2.7.18+\0"), Some("2.7.18".into()));
        for wrong in [
            &b"3.8.18"[..],
            b"3.8\0",
            b"4.8.1\0",
            b"3.8.x\0",
            b"3.8.1 (x)\0",
            b"%.80s (%.80s)\0",
            b"+3.8.1\0",
            b"3..1\0",
            b"3.999.1\0",
            b"\0",
            b"",
        ] {
            assert_eq!(text(wrong), None, "{}", wrong.escape_ascii());
        }
    }

    #[test]
    fn series_are_ordered() {
        let version = Version::from_hex(0x030a_0df0);
        assert_eq!(version.to_string(), "3.10.13");
        assert!(version.is_at_least(3, 8) && version.is_at_least(3, 10));
        assert!(!version.is_at_least(3, 11) && version.is_at_least(2, 99));
    }
}
