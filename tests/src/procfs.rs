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

/// The executable bytes that a process maps from one file, as they are in its memory.
#[derive(Debug)]
pub struct Text {
    memory: File,
    mapping: Mapping,
}

impl Text {
    /// That of the file whose name begins with `name`.
    ///
    /// # Errors
    ///
    /// Fails when the process is gone or maps no such file.
    pub fn of(pid: u32, name: &str) -> Result<Self> {
        let is_text = |mapping: &Mapping| {
            mapping.permissions.contains('x')
                && file_name(&mapping.path).is_some_and(|file| file.starts_with(name))
        };
        let mapping = mappings(pid)?
            .into_iter()
            .find(is_text)
            .with_context(|| format!("{pid} maps no `{name}`"))?;
        let memory = File::open(format!("/proc/{pid}/mem"))?;
        Ok(Self { memory, mapping })
    }

    /// All bytes, in address order.
    ///
    /// # Errors
    ///
    /// Fails when the process is gone.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let mut text = vec![0; usize::try_from(self.mapping.end - self.mapping.start)?];
        self.memory.read_exact_at(&mut text, self.mapping.start)?;
        Ok(text)
    }

    /// The byte at one place.
    ///
    /// # Errors
    ///
    /// Fails when the process is gone.
    pub fn byte(&self, at: usize) -> Result<u8> {
        let mut byte = [0];
        self.memory
            .read_exact_at(&mut byte, self.mapping.start + at as u64)?;
        Ok(byte[0])
    }

    /// The places where memory and file differ.
    ///
    /// # Errors
    ///
    /// Fails when the process or the file is gone.
    pub fn changed(&self) -> Result<Vec<usize>> {
        let text = self.bytes()?;
        let mut original = vec![0; text.len()];
        File::open(&self.mapping.path)?.read_exact_at(&mut original, self.mapping.offset)?;
        if text == original {
            return Ok(Vec::new());
        }
        let differs = |at: &usize| text[*at] != original[*at];
        Ok((0..text.len()).filter(differs).collect())
    }
}

/// All executable bytes that a process maps from the file whose name begins with `name`, in address order.
///
/// # Errors
///
/// Fails when the process is gone or maps no such file.
pub fn text_of(pid: u32, name: &str) -> Result<Vec<u8>> {
    Text::of(pid, name)?.bytes()
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

/// The processes that a process has forked and that still run or wait to be reaped.
///
/// # Errors
///
/// Fails when /proc cannot be read.
pub fn children(pid: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(child) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if stat(child).is_some_and(|[_, parent, ..]| parent == pid.to_string()) {
            children.push(child);
        }
    }
    Ok(children)
}

/// Whether a process is the first of a session of its own.
///
/// # Errors
///
/// Fails when the process is gone.
pub fn is_alone(pid: u32) -> Result<bool> {
    let [.., session] = stat(pid).with_context(|| format!("{pid} is gone"))?;
    Ok(session == pid.to_string())
}

/// Whether there is a process, or a zombie of one.
#[must_use]
pub fn exists(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// State, parent, group and session, as `/proc/PID/stat` has them behind the name.
fn stat(pid: u32) -> Option<[String; 4]> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').map(str::to_owned);
    Some([
        fields.next()?,
        fields.next()?,
        fields.next()?,
        fields.next()?,
    ])
}

/// Whether a process exists and is not a zombie.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|[state, ..]| !["Z", "X"].contains(&state.as_str()))
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
