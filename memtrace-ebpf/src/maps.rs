//! Every map: key, value, who writes, who reads, how big.
//!
//! Sizes given here are defaults; the collector sets them when it loads the object. No map is made without
//! preallocation: kernels before 6.1 refuse or warn when a tracing program touches one.

use aya_ebpf::{
    Global,
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
};
use memtrace_common::{
    edit::Edit,
    limits::{self, SCRATCH_SLOTS},
    process::{KernelOffsets, Process, RecordOffsets, Thread},
    python::Python,
    stats::Stats,
    unwind::{FileKey, Mapping, Object},
};

use crate::stack::Walk;

/// Allocator calls and process changes, in the order in which they happened. Probes → drain.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(32 << 20, 0);

/// Stacks, each once. Apart from the events, so that a flood of these cannot drop a stack. Probes → drain.
#[map]
pub(crate) static STACKS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// What is copied of Python code objects that are freed. Probes → drain.
#[map]
pub(crate) static OBITUARIES: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// What the session must act on. Probes → session.
#[map]
pub(crate) static NOTICES: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// One set of counters a CPU. Probes → session.
#[map]
pub(crate) static STATS: PerCpuArray<Stats> = PerCpuArray::with_max_entries(1, 0);

/// Threads that have called an allocator, by the low bits of their id: an array is looked up in a tenth of the time that a
/// hash takes, and every call needs it. Probes only; a slot belongs to one thread until that thread ends.
#[map]
pub(crate) static THREAD_SLOTS: Array<Thread> = Array::with_max_entries(limits::THREAD_SLOTS, 0);

/// Threads whose slot belongs to another, by `tgid << 32 | tid`. Probes only; an entry leaves with its thread.
#[map]
pub(crate) static THREADS: HashMap<u64, Thread> = HashMap::with_max_entries(65_536, 0);

/// Traced processes, by tgid. Session → probes; forks of followed processes are added by the probes.
#[map]
pub(crate) static PROCESSES: HashMap<u32, Process> = HashMap::with_max_entries(16_384, 0);

/// CPythons, each with what leads to its frames. Session → probes; an entry is used by a process and its forked children.
#[map]
pub(crate) static PYTHONS: Array<Python> =
    Array::with_max_entries(limits::MAX_PYTHONS, BPF_F_MMAPABLE);

/// The change of [`PROCESSES`] or [`OBJECTS`] that the session asks the program `edit` for. Session → probes.
#[map]
pub(crate) static DESK: Array<Edit> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Raised after every change of [`PROCESSES`] but that of a flag: as long as it stands, what was read there holds. Probes write
/// it; 0 only before the session has begun.
#[map]
pub(crate) static EPOCH: Array<u64> = Array::with_max_entries(1, 0);

/// Executable mappings, in one sorted run a process. Session → probes.
#[map]
pub(crate) static MAPPINGS: Array<Mapping> = Array::with_max_entries(131_072, BPF_F_MMAPABLE);

/// Objects whose rows are loaded, by file. Session → probes.
#[map]
pub(crate) static OBJECTS: HashMap<FileKey, Object> = HashMap::with_max_entries(8_192, 0);

/// Index of text pages. Session → probes. Values are 64 bits wide because the kernel rounds a value's place in a
/// mapped array up to 8 bytes.
#[map]
pub(crate) static PAGES: Array<u64> = Array::with_max_entries(1 << 20, BPF_F_MMAPABLE);

/// Unwind rows. Session → probes.
#[map]
pub(crate) static ROWS: Array<u64> = Array::with_max_entries(1 << 22, BPF_F_MMAPABLE);

/// The id that was last seen with these low bits: what asks [`SEEN`] for most stacks. Probes only.
#[map]
pub(crate) static RECENT: Array<u64> = Array::with_max_entries(limits::RECENT_STACKS, 0);

/// Ids of stacks that have been sent. Losing an entry means that a stack is sent twice.
#[map]
pub(crate) static SEEN: LruHashMap<u64, u8> = LruHashMap::with_max_entries(131_072, 0);

/// Where stacks are walked; see `stack::scratch`.
#[map]
pub(crate) static SCRATCH: PerCpuArray<Walk> = PerCpuArray::with_max_entries(SCRATCH_SLOTS, 0);

/// The one program of the tail-call set that walks on.
#[map]
pub(crate) static TAIL_CALLS: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Where members lie in structures of the running kernel.
#[unsafe(no_mangle)]
pub(crate) static OFFSETS: Global<KernelOffsets> = Global::new(KernelOffsets {
    task_mm: 0,
    task_tgid: 0,
    task_pid: 0,
    task_signal: 0,
    signal_live: 0,
    vma_start: 0,
    vma_end: 0,
    vma_pgoff: 0,
    vma_file: 0,
    file_inode: 0,
    inode_ino: 0,
    inode_sb: 0,
    super_dev: 0,
    task_fsbase: 0,
    reserved: [0; 2],
});

/// Where fields lie in the records of perf tracepoints.
#[unsafe(no_mangle)]
pub(crate) static RECORDS: Global<RecordOffsets> = Global::new(RecordOffsets {
    newtask_pid: 0,
    newtask_flags: 0,
    exec_old_pid: 0,
    rename_pid: 0,
    rename_comm: 0,
});

/// A request for more bytes than this must fail.
#[unsafe(no_mangle)]
pub(crate) static LARGEST_REQUEST: Global<u64> = Global::new(u64::MAX);

/// Not 0 when the session wants to hear of every program that begins, not only of traced processes'.
#[unsafe(no_mangle)]
pub(crate) static WATCH_ALL: Global<u32> = Global::new(0);
