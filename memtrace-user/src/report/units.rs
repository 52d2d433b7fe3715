//! Numbers as people read them: sizes, ages, counts and shares.

use std::{fmt, time::Duration};

use crate::ids::Bytes;

/// `512 B`, `1.5 KiB`, `12.4 MiB`, `120 GiB`: powers of 1024.
#[derive(Clone, Copy, Debug)]
pub struct Size(pub Bytes);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let Bytes(bytes) = self.0;
        if bytes < 1024 {
            return write!(f, "{bytes} B");
        }
        let mut value = bytes as f64 / 1024.0;
        let mut unit = 0;
        while value >= 1023.5 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        let decimals = usize::from(value < 99.95);
        write!(f, "{value:.decimals$} {}", UNITS[unit])
    }
}

/// `12,345,678`.
#[derive(Clone, Copy, Debug)]
pub struct Count(pub u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let head = digits.len() % 3;
        let mut text = String::with_capacity(digits.len() + digits.len() / 3);
        for (index, digit) in digits.char_indices() {
            if index > 0 && index % 3 == head {
                text.push(',');
            }
            text.push(digit);
        }
        f.pad(&text)
    }
}

/// A count with its noun: `1 block`, `2 blocks`, `0 processes`.
#[derive(Clone, Copy, Debug)]
pub struct Counted(pub u64, pub &'static str);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = match self {
            Self(1, _) => "",
            Self(_, noun) if noun.ends_with('s') => "es",
            _ => "s",
        };
        write!(f, "{} {}{plural}", Count(self.0), self.1)
    }
}

/// `0 ms`, `350 ms`, `33 s`, `5 m 12 s`, `2 h 5 m`, `3 d 4 h`.
#[derive(Clone, Copy, Debug)]
pub struct Age(pub Duration);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
        match seconds {
            0 => write!(f, "{} ms", self.0.as_millis()),
            1..60 => write!(f, "{seconds} s"),
            60..3600 => write!(f, "{minutes} m {} s", seconds % 60),
            3600..86_400 => write!(f, "{hours} h {} m", minutes % 60),
            _ => write!(f, "{days} d {} h", hours % 24),
        }
    }
}

/// Seconds of time used: `0.004 s`, `12.3 s`, `1234 s`.
#[derive(Clone, Copy, Debug)]
pub struct Seconds(pub f64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = match self.0 {
            value if value < 0.9995 => 3,
            value if value < 9.995 => 2,
            value if value < 99.95 => 1,
            _ => 0,
        };
        write!(f, "{:.decimals$} s", self.0)
    }
}

/// A share in per cent: `0 %`, `<0.1 %`, `34.2 %`, `100 %`.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Part.
    pub part: f64,
    /// Whole; a share of nothing is 0.
    pub whole: f64,
}

impl Share {
    /// A share of counts.
    #[must_use]
    pub fn of(part: u64, whole: u64) -> Self {
        Self {
            part: part as f64,
            whole: whole as f64,
        }
    }

    /// In per cent.
    #[must_use]
    pub fn percent(self) -> f64 {
        if self.whole > 0.0 {
            100.0 * self.part / self.whole
        } else {
            0.0
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.percent() {
            0.0 => f.write_str("0 %"),
            percent if percent < 0.1 => f.write_str("<0.1 %"),
            percent if percent >= 99.95 => write!(f, "{percent:.0} %"),
            percent => write!(f, "{percent:.1} %"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let text = |bytes| Size(Bytes(bytes)).to_string();
        assert_eq!(text(0), "0 B");
        assert_eq!(text(1023), "1023 B");
        assert_eq!(text(1024), "1.0 KiB");
        assert_eq!(text(3200), "3.1 KiB");
        assert_eq!(text((1 << 20) - 1), "1.0 MiB");
        assert_eq!(text(120 << 30), "120 GiB");
        assert_eq!(text(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn counts_have_thousands() {
        assert_eq!(Count(0).to_string(), "0");
        assert_eq!(Count(999).to_string(), "999");
        assert_eq!(Count(1000).to_string(), "1,000");
        assert_eq!(Count(12_345_678).to_string(), "12,345,678");
        assert_eq!(Counted(1, "block").to_string(), "1 block");
        assert_eq!(Counted(0, "block").to_string(), "0 blocks");
        assert_eq!(Counted(2, "process").to_string(), "2 processes");
    }

    #[test]
    fn ages_have_two_units_at_most() {
        let text = |seconds| Age(Duration::from_secs_f64(seconds)).to_string();
        assert_eq!(text(0.35), "350 ms");
        assert_eq!(text(59.9), "59 s");
        assert_eq!(text(312.0), "5 m 12 s");
        assert_eq!(text(7500.0), "2 h 5 m");
        assert_eq!(text(273_600.0), "3 d 4 h");
    }

    #[test]
    fn shares_of_nothing_are_nothing() {
        assert_eq!(Share::of(1, 0).to_string(), "0 %");
        assert_eq!(Share::of(1, 100_000).to_string(), "<0.1 %");
        assert_eq!(Share::of(342, 1000).to_string(), "34.2 %");
        assert_eq!(Share::of(1, 1).to_string(), "100 %");
    }
}
