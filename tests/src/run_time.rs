//! The kernel's own clock of BPF programs: how often a process's programs ran, and for how long.
//!
//! The figure for a program holds all that it does, and some 50 ns of the measuring itself.

use std::{collections::BTreeMap, fs};

use anyhow::{Result, ensure};

/// The kernel's switch for run times.
const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Run times are counted while this lives.
#[derive(Debug)]
pub struct Counting {
    before: String,
}

/// What all programs of a process have done since they were loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunTime {
    /// How often they ran.
    pub runs: u64,
    /// Nanoseconds that it took.
    pub ns: u64,
}

impl Counting {
    /// Turns the switch.
    ///
    /// # Errors
    ///
    /// Fails without root's rights.
    pub fn begin() -> Result<Self> {
        let before = fs::read_to_string(SWITCH)?;
        fs::write(SWITCH, "1")?;
        Ok(Self { before })
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        // Left on, it costs every BPF program of the machine some nanoseconds; there is nothing more to be done.
        let _ = fs::write(SWITCH, &self.before);
    }
}

impl RunTime {
    /// That of the programs that a process holds: proc_pid_fdinfo(5).
    ///
    /// # Errors
    ///
    /// Fails when the process is gone or holds no program.
    pub fn of(pid: u32) -> Result<Self> {
        let mut programs = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            // Descriptors come and go.
            let info = fs::read_to_string(entry?.path()).unwrap_or_default();
            let field = |name: &str| -> Option<u64> {
                let line = info.lines().find_map(|line| line.strip_prefix(name))?;
                line.trim_start_matches(':').trim().parse().ok()
            };
            if let (Some(id), Some(runs), Some(ns)) =
                (field("prog_id"), field("run_cnt"), field("run_time_ns"))
            {
                programs.insert(id, Self { runs, ns });
            }
        }
        ensure!(!programs.is_empty(), "{pid} holds no BPF program");
        Ok(programs
            .values()
            .fold(Self::default(), |sum, program| Self {
                runs: sum.runs + program.runs,
                ns: sum.ns + program.ns,
            }))
    }
}
