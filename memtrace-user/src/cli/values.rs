//! Values of options as people write them: `5`, `500ms`, `10k`, `1MiB`.

use std::time::Duration;

use globset::Error as GlobError;

use crate::{ids::Bytes, target::rule::CommPattern};

/// A duration: a number of seconds, or numbers with units (`500ms`, `1m30s`).
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string());
    }
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

/// A size: a number of bytes, or a number with a unit. `k`, `M`, `G`, `KiB`, `MiB`, `GiB` are powers of 1024; `kB`, `MB`,
/// `GB` of 1000.
pub(super) fn size(text: &str) -> Result<Bytes, String> {
    let unit_at = text
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number: f64 = number
        .parse()
        .map_err(|_| "not a number, like 10k or 1MiB".to_owned())?;
    let factor = unit_factor(unit.trim())
        .ok_or_else(|| format!("unknown unit `{unit}`; try k, M, G or KiB, MiB, GiB"))?;
    let bytes = number * factor as f64;
    if bytes >= u64::MAX as f64 {
        return Err("too large".to_owned());
    }
    Ok(Bytes(bytes as u64))
}

fn unit_factor(unit: &str) -> Option<u64> {
    Some(match unit {
        "" | "b" | "B" => 1,
        "k" | "K" | "KiB" | "kiB" => 1 << 10,
        "m" | "M" | "MiB" => 1 << 20,
        "g" | "G" | "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    })
}

/// A size that a 32-bit number holds.
pub(super) fn small_size(text: &str) -> Result<u32, String> {
    u32::try_from(size(text)?.0).map_err(|_| "too large".to_owned())
}

/// A command name, or a glob over command names.
pub(super) fn comm(text: &str) -> Result<CommPattern, GlobError> {
    CommPattern::new(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "-1", "NaN", "inf", "5 parsecs", "1e300"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("10"), Ok(Bytes(10)));
        assert_eq!(size("10k"), Ok(Bytes(10_240)));
        assert_eq!(size("1MiB"), Ok(Bytes(1 << 20)));
        assert_eq!(size("1.5G"), Ok(Bytes(3 << 29)));
        assert_eq!(size("2kB"), Ok(Bytes(2000)));
        for wrong in ["", "k", "-1", "1X", "1..2", "99999999999G", "1 000"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_value_or_an_error(text in "\\PC{0,20}") {
            let _ = duration(&text);
            let _ = size(&text);
            let _ = comm(&text);
        }
    }
}
