//! Counts of passed, failed and skipped checks, added up over all runners.

use std::{
    fmt,
    io::{self, BufRead, BufReader, Write},
    ops::AddAssign,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result};

/// How many checks ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Checks that held.
    pub(crate) passed: u64,
    /// Checks that did not hold, or could not be built.
    pub(crate) failed: u64,
    /// Checks that were left out.
    pub(crate) skipped: u64,
}

impl Tally {
    /// One check.
    pub(crate) fn of(passed: bool) -> Self {
        Self {
            passed: passed.into(),
            failed: (!passed).into(),
            skipped: 0,
        }
    }

    /// What the last line of a libtest run says: `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn of_libtest(line: &str) -> Option<Self> {
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let mut tally = Self::default();
        for count in counts.split("; ") {
            let (number, what) = count.split_once(' ')?;
            match what {
                "passed" => tally.passed = number.parse().ok()?,
                "failed" => tally.failed = number.parse().ok()?,
                "ignored" => tally.skipped = number.parse().ok()?,
                _ => {}
            }
        }
        Some(tally)
    }

    /// Success when nothing failed and something was checked.
    pub(crate) fn exit_code(self) -> ExitCode {
        ExitCode::from(u8::from(self.failed > 0 || self.passed == 0))
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// Runs `cargo test …`, passes its output on line by line, and adds up its runners' results.
///
/// A run that fails without a failed test (it did not compile, or a runner crashed) counts as one failure.
pub(crate) fn libtest(command: &mut Command) -> Result<Tally> {
    let (output, input) = io::pipe().context("failed to make a pipe")?;
    command.stdout(input.try_clone()?).stderr(input);
    let mut child = command.spawn().context("failed to start cargo test")?;
    // The command keeps the pipe's writing end: as long as it does, the output has no end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut tally = count(BufReader::new(output), io::stdout().lock())?;
    let status = child.wait().context("failed to wait for cargo test")?;
    if !status.success() && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(tally)
}

/// Adds up what libtest's runners print while copying it to the terminal.
///
/// A test that finds at run time that it cannot run says `SKIPPED` on a line of its own and returns, which libtest
/// counts as passed.
fn count(output: impl BufRead, mut terminal: impl Write) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut skipped = 0;
    for line in output.split(b'\n') {
        let mut line = line.context("failed to read from cargo test")?;
        line.push(b'\n');
        terminal.write_all(&line)?;
        let line = String::from_utf8_lossy(&line);
        skipped += u64::from(line.contains("SKIPPED "));
        tally += Tally::of_libtest(line.trim_end()).unwrap_or_default();
    }
    let skipped = skipped.min(tally.passed);
    tally.passed -= skipped;
    tally.skipped += skipped;
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_libtest_is_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 4 ignored; 0 measured; 9 filtered out; finished in 0.01s";
        let counted = Tally {
            passed: 12,
            failed: 3,
            skipped: 4,
        };
        assert_eq!(Tally::of_libtest(line), Some(counted));
        assert_eq!(Tally::of_libtest("test result: "), None);
        assert_eq!(Tally::of_libtest("test tally::tests::x ... ok"), None);
    }

    #[test]
    fn a_runner_that_crashes_counts_as_a_failure() {
        let mut crash = Command::new("sh");
        let tally = libtest(crash.args(["-c", "kill -9 $$"])).unwrap();
        assert_eq!(tally.to_string(), "0 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn a_test_that_skips_itself_has_not_passed() {
        let said =
            "SKIPPED t (1 so far): needs root\ntest result: ok. 2 passed; 0 failed; 1 ignored\n";
        let mut shown = Vec::new();
        let tally = count(said.as_bytes(), &mut shown).unwrap();
        assert_eq!(tally.to_string(), "1 passed, 0 failed, 2 skipped");
        assert_eq!(shown, said.as_bytes());
    }

    #[test]
    fn nothing_checked_is_no_success() {
        assert_eq!(
            format!("{:?}", Tally::default().exit_code()),
            format!("{:?}", ExitCode::from(1))
        );
    }
}
