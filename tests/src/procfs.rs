//! What the kernel says of a process, read without memtrace's code: mappings, text bytes, open descriptors.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};

/// One line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// Permissions, such as `r-xp`.
    pub permissions: String,
    /// Offset in the file.
    pub offset: u64,
    /// File or name in brackets; empty for anonymous memory.
    pub path: String,
}

/// The kernel's version, as far as it orders kernels.
///
/// # Errors
///
/// Fails when it is not two numbers.
pub fn kernel() -> Result<(u32, u32)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map(str::parse);
    let mut number = || numbers.next().context("a short version");
    Ok((number()??, number()??))
}

/// All mappings of a process.
///
/// # Errors
///
/// Fails when the process is gone or a line has another shape.
pub fn mappings(pid: u32) -> Result<Vec<Mapping>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    maps.lines()
        .map(|line| parse_mapping(line).with_context(|| format!("maps line `{line}`")))
        .collect()
}

/// One line of `/proc/PID/maps`: `start-end perms offset dev inode path`.
#[must_use]
pub fn parse_mapping(line: &str) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?.to_owned();
    let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
    let path = fields.nth(2).unwrap_or_default().trim_start().to_owned();
    Some(Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        permissions,
        offset,
        path,
    })
}

/// All executable bytes that a process maps from the file whose name begins with `name`, in address order.
///
/// # Errors
///
/// Fails when the process is gone or maps no such file.
pub fn text_of(pid: u32, name: &str) -> Result<Vec<u8>> {
    let is_text = |mapping: &Mapping| {
        mapping.permissions.contains('x')
            && file_name(&mapping.path).is_some_and(|file| file.starts_with(name))
    };
    let mapping = mappings(pid)?
        .into_iter()
        .find(is_text)
        .with_context(|| format!("{pid} maps no `{name}`"))?;
    let mut text = vec![0; usize::try_from(mapping.end - mapping.start)?];
    File::open(format!("/proc/{pid}/mem"))?.read_exact_at(&mut text, mapping.start)?;
    Ok(text)
}

fn file_name(path: &str) -> Option<&str> {
    Path::new(path).file_name()?.to_str()
}

/// The command name of a process.
///
/// # Errors
///
/// Fails when the process is gone.
pub fn comm(pid: u32) -> Result<String> {
    Ok(fs::read_to_string(format!("/proc/{pid}/comm"))?
        .trim_end()
        .to_owned())
}

/// Whether a process exists and is not a zombie.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| {
            stat.rsplit_once(") ")
                .map(|(_, rest)| !rest.starts_with(['Z', 'X']))
        })
        .unwrap_or(false)
}

/// CPU time that the threads of a process have used: the first field of schedstat, in nanoseconds.
///
/// # Errors
///
/// Fails when the process is gone.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let mut total = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let schedstat = fs::read_to_string(thread?.path().join("schedstat"))?;
        let ns = schedstat.split(' ').next().context("an empty schedstat")?;
        total += Duration::from_nanos(ns.parse()?);
    }
    Ok(total)
}
