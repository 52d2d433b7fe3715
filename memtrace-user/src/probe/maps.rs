//! The maps from the collector's side: rings to drain, tables to fill, counters to read.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use anyhow::Context as _;
use aya::{
    Ebpf,
    maps::{Map, MapData, PerCpuArray, RingBuf},
    programs::RawTracePoint,
};
use memmap2::{MmapMut, MmapOptions};
use memtrace_common::{
    edit::{self, Edit},
    kind,
    process::Process,
    python::Python,
    stats::Stats,
    unwind,
};
use nix::errno::Errno;

use super::sys;
use crate::ids::Pid;

/// A ring the probes write and one thread reads.
pub type Ring = RingBuf<MapData>;

/// An array that is written through memory, without a system call for each entry.
#[derive(Debug)]
pub struct MappedArray {
    memory: MmapMut,
    /// Programs may be loaded later, and name the map by its descriptor.
    _map: MapData,
}

impl MappedArray {
    /// Maps a whole array whose values take `stride` bytes (a multiple of 8).
    fn new(map: MapData, stride: usize) -> io::Result<Self> {
        let entries = map.info().map_err(io::Error::other)?.max_entries() as usize;
        let page = 4096;
        let length = (entries * stride).next_multiple_of(page);
        // SAFETY: the descriptor is a BPF array made with BPF_F_MMAPABLE. The kernel keeps it as long as the mapping;
        // the programs that read it only load whole words.
        let memory = unsafe {
            MmapOptions::new()
                .len(length)
                .map_mut(map.fd().as_fd().as_raw_fd())?
        };
        Ok(Self { memory, _map: map })
    }

    /// Number of words in the array.
    #[must_use]
    pub fn word_count(&self) -> usize {
        self.memory.len() / 8
    }

    /// The array as words.
    pub fn words(&mut self) -> &mut [u64] {
        let length = self.memory.len() / 8;
        // SAFETY: the mapping begins at a page, `u64` has no invalid values, and the slice ends with the mapping.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), length) }
    }

    /// The array as values.
    pub fn values<T: zerocopy::FromBytes + zerocopy::IntoBytes>(&mut self) -> &mut [T] {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let length = self.memory.len() / size_of::<T>();
        // SAFETY: as above; `T` is plain data whose size is a multiple of the array's stride unit.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), length) }
    }
}

/// What the probes write and one thread each reads.
pub struct Rings {
    /// Allocator calls and process changes.
    pub events: Ring,
    /// Stacks, each once.
    pub stacks: Ring,
    /// Copies of Python code objects that are freed.
    pub obituaries: Ring,
    /// What the session must act on.
    pub notices: Ring,
}

impl std::fmt::Debug for Rings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rings").finish_non_exhaustive()
    }
}

/// What the collector writes and the stack walk reads.
#[derive(Debug)]
pub struct Arrays {
    /// Unwind rows.
    pub rows: MappedArray,
    /// Text pages.
    pub pages: MappedArray,
    /// Executable mappings of all processes.
    pub mappings: MappedArray,
    /// CPythons.
    pub pythons: MappedArray,
}

/// The tables of processes and objects, and the counters.
pub struct Maps {
    /// Where the program `edit` finds what to change.
    desk: MappedArray,
    edit: OwnedFd,
    stats: PerCpuArray<MapData, Stats>,
    /// What memtrace's own calibration has counted.
    before: Stats,
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

/// Takes a map of a loaded object.
fn take(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<Map> {
    ebpf.take_map(name)
        .with_context(|| format!("the probe object has no map `{name}`"))
}

impl Rings {
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        Ok(Self {
            events: take(ebpf, "EVENTS")?.try_into()?,
            stacks: take(ebpf, "STACKS")?.try_into()?,
            obituaries: take(ebpf, "OBITUARIES")?.try_into()?,
            notices: take(ebpf, "NOTICES")?.try_into()?,
        })
    }
}

impl Arrays {
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        Ok(Self {
            rows: mapped(take(ebpf, "ROWS")?, 8)?,
            pages: mapped(take(ebpf, "PAGES")?, 8)?,
            mappings: mapped(take(ebpf, "MAPPINGS")?, size_of::<unwind::Mapping>())?,
            pythons: mapped(take(ebpf, "PYTHONS")?, size_of::<Python>())?,
        })
    }
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        Ok(Self {
            desk: mapped(take(ebpf, "DESK")?, size_of::<Edit>())?,
            edit: load_edit(ebpf).context("failed to load the program that changes tables")?,
            stats: take(ebpf, "STATS")?.try_into()?,
            before: Stats::default(),
        })
    }

    /// Makes a process known to the probes, unless it is.
    ///
    /// # Errors
    /// When the table is full.
    pub fn introduce(&mut self, pid: Pid, process: Process) -> anyhow::Result<()> {
        match self.edit_process(edit::INTRODUCE, pid, process) {
            Err(error) if is(&error, Errno::EEXIST) => Ok(()),
            result => result.context("no room in the probes' table of processes"),
        }
    }

    /// Changes what the probes know of a process. `false` when they do not know it: it has ended.
    ///
    /// # Errors
    /// When the kernel refuses for another reason.
    pub fn update(&mut self, pid: Pid, process: Process) -> anyhow::Result<bool> {
        match self.edit_process(edit::UPDATE, pid, process) {
            Err(error) if is(&error, Errno::ENOENT) => Ok(false),
            result => result
                .context("failed to change the probes' table of processes")
                .map(|()| true),
        }
    }

    /// Makes the probes forget a process.
    pub fn forget(&mut self, pid: Pid) {
        // An error means that it is unknown already.
        let _ = self.edit_process(edit::FORGET, pid, Process::default());
    }

    /// Tells the probes where the rows of a file lie.
    ///
    /// # Errors
    /// When the table is full.
    pub fn publish(&mut self, file: unwind::FileKey, object: unwind::Object) -> io::Result<()> {
        self.edit(Edit {
            operation: edit::OBJECT,
            file,
            object,
            ..Edit::default()
        })
    }

    fn edit_process(&mut self, operation: u32, pid: Pid, process: Process) -> io::Result<()> {
        self.edit(Edit {
            operation,
            tgid: pid.0,
            process,
            ..Edit::default()
        })
    }

    fn edit(&mut self, edit: Edit) -> io::Result<()> {
        if let Some(desk) = self.desk.values().first_mut() {
            *desk = edit;
        }
        match sys::run_program(self.edit.as_fd())? {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno.wrapping_neg())),
        }
    }

    /// The probes' counters, summed over all CPUs, without what was counted before [`Maps::begin_counting`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn stats(&self) -> anyhow::Result<Stats> {
        let per_cpu = self
            .stats
            .get(&0, 0)
            .context("failed to read the probes' counters")?;
        let mut sum = Stats::default();
        for stats in per_cpu.iter() {
            combine(&mut sum, stats, u64::wrapping_add);
        }
        combine(&mut sum, &self.before, u64::wrapping_sub);
        Ok(sum)
    }

    /// Counts from zero.
    pub(super) fn begin_counting(&mut self) -> anyhow::Result<()> {
        let counted = self.stats()?;
        combine(&mut self.before, &counted, u64::wrapping_add);
        Ok(())
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

fn load_edit(ebpf: &mut Ebpf) -> anyhow::Result<OwnedFd> {
    let program = ebpf
        .program_mut("edit")
        .context("the probe object has no program `edit`")?;
    let program: &mut RawTracePoint = program.try_into()?;
    program.load()?;
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}

/// Calls of memtrace's own trial function, before the maps are taken out of the object.
pub(super) fn trial_calls(stats: &Map) -> anyhow::Result<u64> {
    let stats: PerCpuArray<&MapData, Stats> = stats.try_into()?;
    let per_cpu = stats
        .get(&0, 0)
        .context("failed to read the probes' counters")?;
    Ok(per_cpu
        .iter()
        .map(|stats| stats.entries[kind::CALIBRATE as usize])
        .sum())
}

/// Combines counters one by one. All fields of [`Stats`] are `u64` counters.
fn combine(counters: &mut Stats, others: &Stats, with: fn(u64, u64) -> u64) {
    use zerocopy::{FromBytes as _, IntoBytes as _};
    let others = <[u64]>::ref_from_bytes(others.as_bytes());
    let counters = <[u64]>::mut_from_bytes(counters.as_mut_bytes());
    if let (Ok(others), Ok(counters)) = (others, counters) {
        for (counter, other) in counters.iter_mut().zip(others) {
            *counter = with(*counter, *other);
        }
    }
}

fn mapped(map: Map, stride: usize) -> anyhow::Result<MappedArray> {
    let Map::Array(data) = map else {
        anyhow::bail!("not an array");
    };
    MappedArray::new(data, stride).context("failed to map an array of the probes")
}

/// The descriptor behind any of the probe object's maps.
pub(super) fn map_fd(map: &Map) -> Option<BorrowedFd<'_>> {
    let data = match map {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::RingBuf(data)
        | Map::ProgramArray(data) => data,
        _ => return None,
    };
    Some(data.fd().as_fd())
}
