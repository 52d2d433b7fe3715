//! One boot: qemu, its console, and what the guest says there.
//!
//! Emulated (no KVM), so it works in any container. The guest's `init` prints `VM boot …` and `VM end rc=N`; its tests
//! print `RESULT name pass|fail [why]`.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// Longest time for one boot with its tests.
const LIMIT: Duration = Duration::from_secs(600);
/// What every repetition of the tests that are repeated may add to it: the slowest takes 10 s here under load.
const LIMIT_OF_A_RUN: Duration = Duration::from_secs(30);

/// Two CPUs and no disk; the console is standard output. `thread=single`: with a thread for each CPU, 7.3-rc7 panicked in
/// two runs of three while it patched its own code.
const MACHINE: &str = "-accel tcg,thread=single,tb-size=512 -cpu max -smp 2 -m 2048 -nodefaults \
    -display none -serial stdio -no-reboot";

/// An oops is a panic, and a panic ends qemu.
const COMMAND_LINE: &str = "console=ttyS0 quiet oops=panic panic=-1 nokaslr mitigations=off";

/// What the kernel says on the console when it has met a fault.
const FAULTS: [&str; 3] = ["BUG: ", "Oops: ", "Kernel panic"];

/// One line `RESULT name pass|fail`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TestResult {
    pub(super) name: String,
    pub(super) passed: bool,
}

/// What came out of one boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) results: Vec<TestResult>,
    /// Whether the guest came to its end; a panic, a hang or the time limit keeps it from it.
    pub(super) ended: bool,
    /// Whether the kernel reported a fault of its own. A tracer must not cause one.
    pub(super) crashed: bool,
    pub(super) took: Duration,
}

/// What the guest is to do, instead of every test as often as `tests/vm/test` says.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Orders {
    /// Run only this test, written BINARY::TEST (repeatable)
    #[arg(long, value_name = "TEST")]
    only: Vec<String>,
    /// Run every scenario of a test so many times
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: Option<u32>,
    /// Keep so many loops busy beside the tests, each of which starts programs without end
    #[arg(long, value_name = "N", default_value_t = 0)]
    load: u32,
}

impl Orders {
    /// As the kernel's command line: what the kernel does not know, it gives `init` as environment.
    fn words(&self) -> String {
        let repeat = self
            .repeat
            .map_or(String::new(), |runs| format!(" MEMTRACE_TEST_RUNS={runs}"));
        let only = self.only.join(",");
        format!("{repeat} VM_ONLY={only} VM_LOAD={}", self.load)
    }

    fn limit(&self) -> Duration {
        let tests = u32::try_from(self.only.len().max(1)).unwrap_or(u32::MAX);
        LIMIT + LIMIT_OF_A_RUN * self.repeat.unwrap_or(0).saturating_mul(tests)
    }
}

/// Boots a kernel and waits for its end. The console goes to `log`.
pub(super) fn boot(vmlinuz: &Path, image: &Path, log: &Path, orders: &Orders) -> Result<Outcome> {
    let began = Instant::now();
    let mut qemu = qemu(vmlinuz, image, orders);
    let mut child = qemu
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start qemu")?;
    let console = child.stdout.take().context("qemu has no console")?;
    let mut outcome = Outcome::default();
    let mut log =
        File::create(log).with_context(|| format!("failed to create `{}`", log.display()))?;
    for line in BufReader::new(console).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches('\r');
        writeln!(log, "{:7.1} {line}", began.elapsed().as_secs_f32())?;
        outcome.read(line);
    }
    child.wait()?;
    outcome.took = began.elapsed();
    Ok(outcome)
}

impl Outcome {
    fn read(&mut self, line: &str) {
        self.ended |= line.starts_with("VM end ");
        self.crashed |= FAULTS.iter().any(|fault| line.contains(fault));
        self.results.extend(TestResult::read(line));
    }
}

impl TestResult {
    fn read(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("RESULT ")?.split_whitespace();
        let name = words.next()?.to_owned();
        Some(Self {
            name,
            passed: words.next()? == "pass",
        })
    }
}

fn qemu(vmlinuz: &Path, image: &Path, orders: &Orders) -> Command {
    let mut qemu = Command::new("timeout");
    qemu.arg("--kill-after=5")
        .arg(orders.limit().as_secs().to_string());
    qemu.arg("qemu-system-x86_64").args(MACHINE.split(' '));
    qemu.arg("-kernel").arg(vmlinuz).arg("-initrd").arg(image);
    qemu.arg("-append")
        .arg(format!("{COMMAND_LINE}{}", orders.words()));
    qemu
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_from_the_console() {
        let mut outcome = Outcome::default();
        for line in [
            "VM boot 6.1",
            "RESULT leak pass",
            "RESULT every fail why",
            "noise RESULT x pass",
            "VM end rc=1",
        ] {
            outcome.read(line);
        }
        let result = |name: &str, passed| TestResult {
            name: name.to_owned(),
            passed,
        };
        assert_eq!(
            outcome.results,
            [result("leak", true), result("every", false)]
        );
        assert!(outcome.ended && !outcome.crashed);
    }

    #[test]
    fn a_fault_of_the_kernel_is_seen() {
        let mut outcome = Outcome::default();
        outcome
            .read("[    9.362220] BUG: unable to handle page fault for address: 0000008f000000b7");
        assert!(outcome.crashed && !outcome.ended);
    }
}
