//! `memtrace doctor`: what this kernel and this user can do, one line each.

use std::io::{self, Write};

use crate::system::{Check, Verdict};

/// Writes the checks, with the remedy under whatever is not as wanted, and what follows from them.
pub fn render(checks: &[Check], out: &mut dyn Write) -> io::Result<()> {
    let column = checks
        .iter()
        .map(|check| check.name.len())
        .max()
        .unwrap_or(0);
    for Check {
        name,
        verdict,
        detail,
        remedy,
    } in checks
    {
        writeln!(out, "{:8}  {name:column$}  {detail}", word(*verdict))?;
        if let Some(remedy) = remedy {
            writeln!(out, "{:8}  {:column$}  try: {remedy}", "", "")?;
        }
    }
    let conclusion = if can_trace(checks) {
        "memtrace can trace here"
    } else {
        "memtrace cannot trace here"
    };
    writeln!(out, "\n{conclusion}")
}

/// Whether nothing that tracing needs is missing.
#[must_use]
pub fn can_trace(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.verdict != Verdict::Missing)
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Degraded => "degraded",
        Verdict::Missing => "missing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_is_a_line_with_its_remedy() {
        let checks = [
            Check::ok("kernel", "6.18.44"),
            Check::degraded(
                "sessions",
                "before 6.13",
                "a newer kernel makes attaching cheaper",
            ),
            Check::missing(
                "tracefs",
                "not mounted",
                "sudo mount -t tracefs nodev /sys/kernel/tracing",
            ),
        ];
        let text = |checks: &[Check]| {
            let mut bytes = Vec::new();
            render(checks, &mut bytes).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        insta::assert_snapshot!(text(&checks), @r"
        ok        kernel    6.18.44
        degraded  sessions  before 6.13
                            try: a newer kernel makes attaching cheaper
        missing   tracefs   not mounted
                            try: sudo mount -t tracefs nodev /sys/kernel/tracing

        memtrace cannot trace here
        ");
        assert!(can_trace(&checks[..2]) && !can_trace(&checks));
        assert!(text(&checks[..2]).ends_with("\nmemtrace can trace here\n"));
    }
}
