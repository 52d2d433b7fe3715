//! Processes that begin, fork, change their program or their name, and end.
//!
//! A process that is not traced pays for one hash look-up at its fork, exec and exit. The event ring gets what the
//! tracker must see in order with the allocations; the notice ring what the session must act on.
//!
//! Every program exists twice. *Raw* tracepoints hand over the kernel's own structures and need nothing but BPF; but
//! from 7.0 on their programs are preempted, and a program that is, is skipped for every other task that the CPU runs
//! meanwhile. Programs of *perf* tracepoints are not preempted. They find a record instead (`RECORDS` says where its
//! fields lie), and the running task is the one it is about; only a new task is told of by its parent.

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_comm,
        generated::{bpf_get_current_task, bpf_probe_read_kernel_str},
    },
    macros::{raw_tracepoint, tracepoint},
    programs::{RawTracePointContext, TracePointContext},
};
use aya_log_ebpf::warn;
use memtrace_common::{
    event::{self, Event},
    notice::{self, NOTICE_FOLLOWED, NOTICE_SHARES_MEMORY, NOTICE_TRACED, Notice},
    process::{PROCESS_FOLLOW, PROCESS_TRACED, Process},
    stats::Stats,
};

use crate::{
    emit,
    maps::{OFFSETS, PROCESSES, RECORDS, WATCH_ALL},
    read,
    thread::ThreadKey,
};

/// `TASK_COMM_LEN`
const COMM_LENGTH: usize = 16;
/// `CLONE_VM`: the child shares its parent's memory.
const CLONE_VM: u32 = 0x100;
/// `CLONE_THREAD`: the child is a thread of its parent's process.
const CLONE_THREAD: u32 = 0x1_0000;

#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn fork_raw(ctx: RawTracePointContext) -> i32 {
    let (parent, child): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    let parent_tgid = ThreadKey::current().tgid();
    // SAFETY: entries are replaced as a whole but for `maps_requested`, which the copy in `forked` resets.
    if let Some(process) = unsafe { PROCESSES.get(parent_tgid) }
        && let Some(child_tgid) = tgid_of(child)
        && child_tgid != parent_tgid
    {
        let shares_memory = mm_of(parent) == mm_of(child);
        forked(&ctx, process, parent_tgid, child_tgid, shares_memory);
    }
    0
}

#[tracepoint]
fn fork_perf(ctx: TracePointContext) -> u32 {
    let records = RECORDS.load();
    let parent_tgid = ThreadKey::current().tgid();
    // SAFETY: as above.
    if let Some(process) = unsafe { PROCESSES.get(parent_tgid) }
        && let Some(flags) = field(&ctx, records.newtask_flags)
        && flags & CLONE_THREAD == 0
        && let Some(child) = field(&ctx, records.newtask_pid)
    {
        forked(&ctx, process, parent_tgid, child, flags & CLONE_VM != 0);
    }
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn exec_raw(ctx: RawTracePointContext) -> i32 {
    execed(ctx.arg::<u64>(1) as u32);
    0
}

#[tracepoint]
fn exec_perf(ctx: TracePointContext) -> u32 {
    let old_tid = field(&ctx, RECORDS.load().exec_old_pid);
    execed(old_tid.unwrap_or(ThreadKey::current().tid()));
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn exit_raw(_ctx: RawTracePointContext) -> i32 {
    exited();
    0
}

#[tracepoint]
fn exit_perf(_ctx: TracePointContext) -> u32 {
    exited();
    0
}

#[raw_tracepoint(tracepoint = "task_rename")]
fn rename_raw(ctx: RawTracePointContext) -> i32 {
    if WATCH_ALL.load() == 0 {
        return 0;
    }
    let (task, name): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    if let (Some(tgid), Some(tid)) = (tgid_of(task), read::kernel(task, OFFSETS.load().task_pid)) {
        renamed(tgid, tid, name);
    }
    0
}

/// A task is renamed by a thread of its own process, or by itself.
#[tracepoint]
fn rename_perf(ctx: TracePointContext) -> u32 {
    if WATCH_ALL.load() == 0 {
        return 0;
    }
    let (records, current) = (RECORDS.load(), ThreadKey::current());
    let tid = field(&ctx, records.rename_pid).unwrap_or(current.tid());
    let name = place(&ctx, records.rename_comm);
    renamed(current.tgid(), tid, name);
    0
}

#[inline(always)]
fn forked(
    ctx: &impl EbpfContext,
    process: &Process,
    parent_tgid: u32,
    child_tgid: u32,
    shares_memory: bool,
) {
    let Some(stats) = emit::stats() else {
        return;
    };
    let follows = process.flags & PROCESS_FOLLOW != 0;
    if follows {
        // Its Python frames are walked when its own code objects are watched.
        let copy = Process {
            maps_requested: 0,
            python: 0,
            ..*process
        };
        let inserted = PROCESSES.insert(child_tgid, copy, 0);
        emit::raise_epoch();
        if inserted.is_err() {
            warn!(
                ctx,
                "no room to follow process {}, child of {}", child_tgid, parent_tgid
            );
        }
    }
    if follows {
        let fork = Event {
            kind_and_size: Event::pack(event::FORK, u64::from(shares_memory)),
            tgid: parent_tgid,
            tid: parent_tgid,
            addr: u64::from(child_tgid),
            stack: 0,
        };
        emit::event(stats, &fork);
    }
    let flags = if shares_memory {
        NOTICE_SHARES_MEMORY
    } else {
        0
    } | if follows { NOTICE_FOLLOWED } else { 0 };
    notify(stats, notice::FORKED, child_tgid, parent_tgid, flags);
}

#[inline(always)]
fn execed(old_tid: u32) {
    let Some(stats) = emit::stats() else {
        return;
    };
    let key = ThreadKey::current();
    let tgid = key.tgid();
    // The thread that ran the old program may have had another id.
    key.forget();
    ThreadKey((u64::from(tgid) << 32) | u64::from(old_tid)).forget();
    // SAFETY: as above.
    let known = unsafe { PROCESSES.get(tgid) };
    let mut flags = 0;
    if let Some(process) = known {
        let fresh = Process {
            mapping_count: 0,
            maps_requested: 0,
            python: 0,
            ..*process
        };
        let told = PROCESSES.insert(tgid, fresh, 0).is_ok();
        emit::raise_epoch();
        if told && fresh.flags & PROCESS_TRACED != 0 {
            emit_change(stats, event::EXEC, tgid);
            flags = NOTICE_TRACED;
        }
    }
    if known.is_some() || WATCH_ALL.load() != 0 {
        notify(stats, notice::EXECED, tgid, 0, flags);
    }
}

#[inline(always)]
fn exited() {
    let key = ThreadKey::current();
    let tgid = key.tgid();
    key.forget();
    // SAFETY: as above.
    let Some(process) = (unsafe { PROCESSES.get(tgid) }) else {
        return;
    };
    if !is_last_thread() {
        return;
    }
    let Some(stats) = emit::stats() else {
        return;
    };
    if process.flags & PROCESS_TRACED != 0 {
        emit_change(stats, event::EXIT, tgid);
    }
    let _ = PROCESSES.remove(tgid);
    emit::raise_epoch();
    notify(stats, notice::EXITED, tgid, 0, 0);
}

/// `name` is where the new name stands in kernel memory.
#[inline(always)]
fn renamed(tgid: u32, tid: u32, name: u64) {
    if tgid != tid {
        return; // a thread's name is not its process's
    }
    if let Some(stats) = emit::stats() {
        let mut comm = [0; COMM_LENGTH];
        // SAFETY: the length is that of the destination. A failure leaves an empty name.
        let _ = unsafe {
            bpf_probe_read_kernel_str(
                comm.as_mut_ptr().cast(),
                COMM_LENGTH as u32,
                name as *const _,
            )
        };
        let notice = Notice {
            kind: notice::RENAMED,
            tgid,
            parent: 0,
            flags: 0,
            addr: 0,
            comm,
        };
        emit::notice(stats, &notice);
    }
}

/// Where a field of a perf tracepoint's record stands.
#[inline(always)]
fn place(ctx: &TracePointContext, offset: u32) -> u64 {
    ctx.as_ptr() as u64 + u64::from(offset)
}

/// The low half of a field of the record, where there is such a field.
#[inline(always)]
fn field(ctx: &TracePointContext, offset: u32) -> Option<u32> {
    if offset == 0 {
        return None;
    }
    // Through the helper: the verifier lets a context be read at constant offsets only.
    read::kernel(ctx.as_ptr() as u64, offset)
}

fn tgid_of(task: u64) -> Option<u32> {
    read::kernel(task, OFFSETS.load().task_tgid)
}

fn mm_of(task: u64) -> Option<u64> {
    read::kernel(task, OFFSETS.load().task_mm)
}

/// `signal->live` counts the threads that have not begun to exit; the kernel lowers it before this tracepoint
/// (`do_exit`, kernel/exit.c).
#[inline(always)]
fn is_last_thread() -> bool {
    let offsets = OFFSETS.load();
    // SAFETY: the helper has no conditions.
    let task = unsafe { bpf_get_current_task() };
    let Some(signal) = read::kernel::<u64>(task, offsets.task_signal) else {
        return true;
    };
    read::kernel::<u32>(signal, offsets.signal_live).is_none_or(|live| live == 0)
}

#[inline(always)]
fn emit_change(stats: &mut Stats, kind: u8, tgid: u32) {
    let change = Event {
        kind_and_size: Event::pack(kind, 0),
        tgid,
        tid: ThreadKey::current().tid(),
        addr: 0,
        stack: 0,
    };
    emit::event(stats, &change);
}

#[inline(always)]
fn notify(stats: &mut Stats, kind: u32, tgid: u32, parent: u32, flags: u32) {
    let notice = Notice {
        kind,
        tgid,
        parent,
        flags,
        addr: 0,
        // A child has its parent's name.
        comm: bpf_get_current_comm().unwrap_or_default(),
    };
    emit::notice(stats, &notice);
}
