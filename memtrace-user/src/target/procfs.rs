//! What `/proc` says of processes: names, places, ages, memory and CPU time.
//!
//! A process may end at any moment, so every read may fail; what is gone is `None` or left out.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf, time::Duration};

use nix::time::{ClockId, clock_gettime};

use crate::ids::{Bytes, Pid};

/// A process as it was when it was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its id.
    pub pid: Pid,
    /// Command name of its first thread.
    pub comm: String,
    /// Start, in clock ticks since boot: with the id, what tells processes apart.
    pub start_ticks: u64,
}

/// All processes that have a program (kernel threads have none), in no order.
#[must_use]
pub fn processes() -> Vec<ProcessInfo> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Pid))
        .filter_map(process)
        .collect()
}

/// One process. `None` when it is gone, dying, or a kernel thread.
#[must_use]
pub fn process(pid: Pid) -> Option<ProcessInfo> {
    let stat = Stat::read(pid)?;
    let alive = !matches!(stat.state, 'Z' | 'X') && stat.virtual_bytes != 0;
    alive.then_some(ProcessInfo {
        pid,
        comm: stat.comm,
        start_ticks: stat.start_ticks,
    })
}

/// Whether there is such a process, be it dying.
#[must_use]
pub fn exists(pid: Pid) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap_or(false)
}

/// The file a process runs, as the process sees it. `None` when it is gone.
#[must_use]
pub fn exe(pid: Pid) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// Device and inode of the file a process runs: the same as long as it does, whatever becomes of the file's name.
#[must_use]
pub fn program(pid: Pid) -> Option<(u64, u64)> {
    let file = fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    Some((file.dev(), file.ino()))
}

/// The process that has made it, or the one that took its place when that one ended.
#[must_use]
pub fn parent(pid: Pid) -> Option<Pid> {
    Some(Stat::read(pid)?.parent)
}

/// Now, as [`ProcessInfo::start_ticks`] counts.
#[must_use]
pub fn ticks_since_boot() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    (now.as_secs_f64() * ticks_per_second()) as u64
}

/// Resident memory.
#[must_use]
pub fn rss(pid: Pid) -> Option<Bytes> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(Bytes(pages * page_size()))
}

/// CPU time of all its threads, user and system.
#[must_use]
pub fn cpu_time(pid: Pid) -> Option<Duration> {
    let stat = Stat::read(pid)?;
    Some(Duration::from_secs_f64(
        stat.cpu_ticks as f64 / ticks_per_second(),
    ))
}

/// Number of its threads.
#[must_use]
pub fn threads(pid: Pid) -> Option<u32> {
    Some(Stat::read(pid)?.threads)
}

/// Its cgroup, relative to the root of the cgroup-2 hierarchy. `None` when it is gone or there is no such hierarchy.
#[must_use]
pub fn cgroup(pid: Pid) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(PathBuf::from)
}

/// The fields of `/proc/PID/stat` that are used here (proc_pid_stat(5)).
struct Stat {
    comm: String,
    state: char,
    parent: Pid,
    cpu_ticks: u64,
    threads: u32,
    start_ticks: u64,
    virtual_bytes: u64,
}

impl Stat {
    fn read(pid: Pid) -> Option<Self> {
        Self::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name stands in brackets and may hold brackets, spaces and any bytes.
    fn parse(stat: &[u8]) -> Option<Self> {
        let open = stat.iter().position(|&byte| byte == b'(')?;
        let close = stat.iter().rposition(|&byte| byte == b')')?;
        let comm = String::from_utf8_lossy(stat.get(open + 1..close)?).into_owned();
        let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The first field here is number 3 of the manual.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            comm,
            state: fields.first()?.chars().next()?,
            parent: Pid(number(4)?.try_into().ok()?),
            cpu_ticks: number(14)? + number(15)?,
            threads: number(20)?.try_into().ok()?,
            start_ticks: number(22)?,
            virtual_bytes: number(23)?,
        })
    }
}

fn page_size() -> u64 {
    sysconf(nix::unistd::SysconfVar::PAGE_SIZE, 4096)
}

fn ticks_per_second() -> f64 {
    sysconf(nix::unistd::SysconfVar::CLK_TCK, 100) as f64
}

fn sysconf(variable: nix::unistd::SysconfVar, usual: u64) -> u64 {
    let value = nix::unistd::sysconf(variable).ok().flatten();
    value
        .and_then(|value| u64::try_from(value).ok())
        .unwrap_or(usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_with_its_own_facts() {
        let own = Pid(std::process::id());
        let info = process(own).expect("this process runs");
        assert!(processes().contains(&info));
        assert_eq!(exe(own), std::env::current_exe().ok());
        assert!(rss(own).is_some_and(|rss| rss > Bytes(100 << 10)));
        assert!(exists(own));
        assert_eq!(parent(own), Some(Pid(std::os::unix::process::parent_id())));
        assert!((1..=ticks_since_boot()).contains(&info.start_ticks));
        let file = fs::metadata(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(program(own), Some((file.dev(), file.ino())));
    }

    #[test]
    fn a_name_may_hold_brackets_and_spaces() {
        let stat = b"7 (a) b (c) S 1 7 7 0 -1 4194304 1 0 0 0 11 22 0 0 20 0 1 0 555 4096 1";
        let stat = Stat::parse(stat).expect("well-formed");
        assert_eq!((stat.comm.as_str(), stat.state), ("a) b (c", 'S'));
        assert_eq!(
            (stat.cpu_ticks, stat.start_ticks, stat.virtual_bytes),
            (33, 555, 4096)
        );
    }

    #[test]
    fn kernel_threads_and_the_gone_are_left_out() {
        assert!(processes().iter().all(|process| process.pid != Pid(2)));
        assert_eq!(process(Pid(u32::MAX)), None);
        assert!(!exists(Pid(u32::MAX)));
    }
}
