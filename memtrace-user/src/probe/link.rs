//! Attaches the programs to one process and lets them go again.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use anyhow::Context as _;
use memtrace_common::{cookie, kind};

use super::{
    program::{ATTACH_MULTI, ATTACH_SESSION, AttachLevel, Programs},
    sys,
};
use crate::ids::Pid;

/// Where the kernel describes its `uprobe` perf source.
const UPROBE_PMU: &str = "/sys/bus/event_source/devices/uprobe";

/// A place to probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeSite {
    /// Offset in the file.
    pub file_off: u64,
    /// What the function does, and where its arguments are (`memtrace_common::cookie`).
    pub cookie: u32,
}

/// The probes of one file in one process; dropping it removes them.
///
/// Dropping waits for the kernel (30-40 ms a link, longer for single probes), so it is done on a thread that may wait.
#[derive(Debug)]
pub struct FileLinks {
    _links: Vec<OwnedFd>,
}

/// Attaches to all `sites` of `file` in process `pid`.
pub(super) fn attach(
    programs: &Programs,
    file: BorrowedFd<'_>,
    sites: &[ProbeSite],
    pid: Pid,
) -> anyhow::Result<FileLinks> {
    let sites: Vec<ProbeSite> = sites
        .iter()
        .copied()
        .filter(|site| programs.level.takes(site.cookie))
        .collect();
    // Through the descriptor: the path may be deleted or belong to another mount namespace.
    let path = OsString::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let links = match programs.level {
        AttachLevel::Session => attach_session(programs, &path, &sites, pid)?,
        AttachLevel::Multi => attach_multi(programs, &path, &sites, pid)?,
        AttachLevel::Single => attach_single(programs, &path, &sites, pid)?,
    };
    Ok(FileLinks { _links: links })
}

fn attach_session(
    programs: &Programs,
    path: &OsStr,
    sites: &[ProbeSite],
    pid: Pid,
) -> anyhow::Result<Vec<OwnedFd>> {
    let program = programs.session().context("no session program is loaded")?;
    let sites = SiteArrays::of(sites.iter().copied());
    Ok(vec![sys::link_uprobes(
        program,
        ATTACH_SESSION,
        path,
        sites.as_slices(),
        pid,
        false,
    )?])
}

fn attach_multi(
    programs: &Programs,
    path: &OsStr,
    sites: &[ProbeSite],
    pid: Pid,
) -> anyhow::Result<Vec<OwnedFd>> {
    let (entry, at_return) = programs.multi().context("no multi programs are loaded")?;
    let all = SiteArrays::of(sites.iter().copied());
    let returning = SiteArrays::of(
        sites
            .iter()
            .copied()
            .filter(|site| kind::takes_return(cookie::kind(site.cookie))),
    );
    let mut links = Vec::new();
    // Returns first: a return without its entry is ignored, an entry without its return is a lost block.
    if !returning.offsets.is_empty() {
        let slices = returning.as_slices();
        links.push(sys::link_uprobes(
            at_return,
            ATTACH_MULTI,
            path,
            slices,
            pid,
            true,
        )?);
    }
    links.push(sys::link_uprobes(
        entry,
        ATTACH_MULTI,
        path,
        all.as_slices(),
        pid,
        false,
    )?);
    Ok(links)
}

fn attach_single(
    programs: &Programs,
    path: &OsStr,
    sites: &[ProbeSite],
    pid: Pid,
) -> anyhow::Result<Vec<OwnedFd>> {
    let pmu = uprobe_pmu().context("failed to read the kernel's uprobe source")?;
    let mut links = Vec::new();
    for site in sites {
        for at_return in [true, false] {
            if at_return && !kind::takes_return(cookie::kind(site.cookie)) {
                continue;
            }
            links.push(programs.with_single(site.cookie, at_return, |program| {
                let event = sys::open_uprobe(pmu, path, site.file_off, pid, at_return)?;
                sys::run_at(event.as_fd(), program)?;
                Ok(event)
            })?);
        }
    }
    Ok(links)
}

/// Number of the kernel's `uprobe` perf source, and the bit of its `config` that asks for the return.
pub(super) fn uprobe_pmu() -> io::Result<(u32, u32)> {
    let number = |file: &str, prefix: &str| {
        let text = fs::read_to_string(format!("{UPROBE_PMU}/{file}"))?;
        text.trim().trim_start_matches(prefix).parse().map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("`{}` in {file}", text.trim()),
            )
        })
    };
    Ok((number("type", "")?, number("format/retprobe", "config:")?))
}

/// Sites as the kernel takes them: offsets and cookies in two arrays.
#[derive(Debug)]
struct SiteArrays {
    offsets: Vec<u64>,
    cookies: Vec<u64>,
}

impl SiteArrays {
    fn of(sites: impl Iterator<Item = ProbeSite> + Clone) -> Self {
        Self {
            offsets: sites.clone().map(|site| site.file_off).collect(),
            cookies: sites.map(|site| u64::from(site.cookie)).collect(),
        }
    }

    fn as_slices(&self) -> (&[u64], &[u64]) {
        (&self.offsets, &self.cookies)
    }
}
