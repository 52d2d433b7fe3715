//! The probes as the collector holds them: loaded, attached, read.
//!
//! Owns every BPF handle: maps, programs, links. Knows files, offsets and processes, but not which of them matter; see
//! [`target`](crate::target) for that and `session` for who asks. What the maps mean is said in `memtrace_common`.

mod btf;
mod calibrate;
pub mod features;
mod guard;
mod link;
mod maps;
mod memory;
mod program;
mod sys;
mod text;
mod tracefs;
mod tracepoint;

use std::{os::fd::BorrowedFd, sync::Arc};

use anyhow::Context as _;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};

use self::{
    btf::KernelTypes,
    maps::map_fd as aya_map_fd,
    program::Programs,
    text::Text,
    tracepoint::{Choice, Tracepoints},
};
pub use self::{
    btf::{BtfError, VMLINUX},
    calibrate::Calibration,
    guard::Guard,
    link::{FileLinks, ProbeSite},
    maps::{Arrays, MappedArray, Maps, Ring, Rings},
    program::{AttachLevel, Unwinder},
    text::TextError,
    tracepoint::TracepointForm,
};
use crate::ids::Pid;

/// The probe object, built by this package's build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/memtrace-ebpf"));

/// What is decided before the probes are loaded.
#[derive(Clone, Debug)]
pub struct ProbeOptions {
    /// Bytes of the event ring; rounded up to a power of two of pages by the kernel's rule.
    pub event_ring_bytes: u32,
    /// Unwind rows of all objects together.
    pub unwind_rows: u32,
    /// Only this attach level; otherwise the best that works.
    pub level: Option<AttachLevel>,
    /// Only this unwinder; otherwise the best that works.
    pub unwinder: Option<Unwinder>,
    /// Only this form of the process tracepoints; otherwise the one that suits the kernel.
    pub tracepoints: Option<TracepointForm>,
    /// Hear of every program that begins, not only of traced processes'.
    pub watch_all: bool,
    /// Most verbose level of the probes' own log (`log::Level` as a number); 0 = silent.
    pub log_level: u8,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        Self {
            event_ring_bytes: 32 << 20,
            unwind_rows: 1 << 22,
            level: None,
            unwinder: None,
            tracepoints: None,
            watch_all: false,
            log_level: 0,
        }
    }
}

/// Loaded probes, in the parts that go to those who use them.
#[derive(Debug)]
pub struct Loaded {
    /// Keeps the tracepoints attached.
    pub probes: Probes,
    /// What the session keeps up to date and reads.
    pub maps: Maps,
    /// What is read as it is written.
    pub rings: Rings,
    /// What the stack walk reads.
    pub arrays: Arrays,
}

/// Loaded probes. Dropping it removes the tracepoints; links are the caller's.
#[derive(Debug)]
pub struct Probes {
    calibration: Calibration,
    attacher: Attacher,
    tracepoints: Tracepoints,
    ebpf: Ebpf,
}

/// How often the kernel has not run a program, because another one had not come to its end on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Programs that tell of processes, for all processes of the machine.
    pub tracepoints: u64,
    /// Programs of allocator functions.
    pub probes: u64,
}

/// Attaches the loaded programs; may be cloned and used on any thread, because attaching waits for the kernel.
#[derive(Clone, Debug)]
pub struct Attacher {
    programs: Arc<Programs>,
    guard: Option<Arc<Guard>>,
}

impl Attacher {
    /// The same, with a guard that is told of everything before it is probed.
    #[must_use]
    pub fn guarded_by(self, guard: Option<Arc<Guard>>) -> Self {
        Self { guard, ..self }
    }

    /// Who takes the probes out when memtrace cannot.
    #[must_use]
    pub fn guard(&self) -> Option<&Guard> {
        self.guard.as_deref()
    }

    /// How probes are attached.
    #[must_use]
    pub fn level(&self) -> AttachLevel {
        self.programs.level
    }

    /// How stacks are walked.
    #[must_use]
    pub fn unwinder(&self) -> Unwinder {
        self.programs.unwinder
    }

    /// Attaches to `sites` of `file` in process `pid` alone.
    ///
    /// # Errors
    /// When the process is gone or the kernel refuses.
    pub fn attach(
        &self,
        file: BorrowedFd<'_>,
        sites: &[ProbeSite],
        pid: Pid,
    ) -> anyhow::Result<FileLinks> {
        if let Some(guard) = self.guard() {
            guard.watch(file, sites.iter().map(|site| site.file_off));
        }
        link::attach(&self.programs, file, sites, pid)
    }
}

impl Probes {
    /// Loads the probes in the best form this kernel takes and attaches the tracepoints.
    ///
    /// # Errors
    /// When the kernel's types are missing, a map cannot be made, or no form of the programs is accepted; the error says
    /// which forms were tried and why each failed.
    pub fn load(options: &ProbeOptions) -> anyhow::Result<Loaded> {
        anyhow::ensure!(
            !OBJECT.is_empty(),
            "this memtrace was built without probes (MEMTRACE_SKIP_EBPF=1)"
        );
        let types = KernelTypes::of_running_kernel()?;
        let choice = Choice::make(options.tracepoints)?;
        let mut ebpf = load_maps(options, &types, &choice)?;
        let programs = Arc::new(load_programs(options, &types, &ebpf)?);
        let tracepoints = Tracepoints::attach(&mut ebpf, choice)?;
        let mut maps = Maps::take(&mut ebpf)?;
        let rings = Rings::take(&mut ebpf)?;
        let arrays = Arrays::take(&mut ebpf)?;
        let calibration = calibrate::measure(&programs, &maps)?;
        maps.begin_counting()?;
        let probes = Self {
            calibration,
            // The calibration has probed memtrace alone, whose breakpoints end with it.
            attacher: Attacher {
                programs,
                guard: None,
            },
            tracepoints,
            ebpf,
        };
        Ok(Loaded {
            probes,
            maps,
            rings,
            arrays,
        })
    }

    /// What a probe costs here.
    #[must_use]
    pub fn calibration(&self) -> Calibration {
        self.calibration
    }

    /// What attaches them.
    #[must_use]
    pub fn attacher(&self) -> &Attacher {
        &self.attacher
    }

    /// What the kernel has skipped so far.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn skipped(&self) -> anyhow::Result<Skipped> {
        Ok(Skipped {
            tracepoints: self.tracepoints.skipped()?,
            probes: self.attacher.programs.skipped()?,
        })
    }

    /// Why the process tracepoints are in a form that this kernel may skip, if they are.
    #[must_use]
    pub fn tracepoints_may_be_skipped(&self) -> Option<&anyhow::Error> {
        self.tracepoints.fallback.as_ref()
    }

    /// The probes' log, to be polled from a tokio task.
    ///
    /// # Errors
    /// When the log's map is missing.
    pub fn logger(&mut self) -> anyhow::Result<aya_log::EbpfLogger<&'static dyn log::Log>> {
        aya_log::EbpfLogger::init(&mut self.ebpf).context("failed to open the probes' log")
    }
}

/// Creates the maps; loads nothing yet.
fn load_maps(
    options: &ProbeOptions,
    types: &KernelTypes,
    tracepoints: &Choice,
) -> anyhow::Result<Ebpf> {
    let (offsets, records) = (types.offsets()?, tracepoints.offsets());
    let watch_all = u32::from(options.watch_all);
    EbpfLoader::new()
        .verifier_log_level(VerifierLogLevel::DISABLE)
        .map_max_entries("EVENTS", options.event_ring_bytes)
        .map_max_entries("ROWS", options.unwind_rows)
        .map_max_entries("PAGES", options.unwind_rows / 4)
        .override_global("OFFSETS", &offsets, true)
        .override_global("RECORDS", &records, true)
        .override_global("WATCH_ALL", &watch_all, true)
        .override_global("LARGEST_REQUEST", &memory::largest_request(), true)
        .override_global("AYA_LOG_LEVEL", &options.log_level, false)
        .load(OBJECT)
        .context("failed to create the probes' maps")
}

/// Tries every form from the best on, or the one that was asked for.
fn load_programs(
    options: &ProbeOptions,
    types: &KernelTypes,
    ebpf: &Ebpf,
) -> anyhow::Result<Programs> {
    let levels = [
        AttachLevel::Session,
        AttachLevel::Multi,
        AttachLevel::Single,
    ];
    let unwinders = [Unwinder::Loop, Unwinder::TailCall];
    let mut refusals = Vec::new();
    for level in levels
        .into_iter()
        .filter(|level| options.level.is_none_or(|only| only == *level))
    {
        for unwinder in unwinders
            .into_iter()
            .filter(|u| options.unwinder.is_none_or(|only| only == *u))
        {
            match load_form(types, ebpf, level, unwinder) {
                Ok(programs) => return Ok(programs),
                Err(error) => refusals.push(format!("{level}, {unwinder}: {error:#}")),
            }
        }
    }
    anyhow::bail!(
        "the kernel takes no form of the allocator probes\n{}",
        refusals.join("\n")
    )
}

/// Loads one form and proves on this process that it can be attached.
fn load_form(
    types: &KernelTypes,
    ebpf: &Ebpf,
    level: AttachLevel,
    unwinder: Unwinder,
) -> anyhow::Result<Programs> {
    let text = Text::parse(OBJECT, ebpf)?;
    let programs = Programs::load(text, types, level, unwinder)?;
    let stats = ebpf
        .map("STATS")
        .context("the probe object has no map `STATS`")?;
    calibrate::try_attach(&programs, || maps::trial_calls(stats))?;
    Ok(programs)
}
