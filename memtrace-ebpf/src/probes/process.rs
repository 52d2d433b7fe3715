//! Processes that begin, fork, change their program or their name, and end.
//!
//! Raw tracepoints: they are there on every kernel, and a process that is not traced pays for one hash look-up at its
//! fork, exec and exit. The event ring gets what the tracker must see in order with the allocations; the notice ring
//! what the session must act on.

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel_str, macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use aya_log_ebpf::warn;
use memtrace_common::{
    event::{self, Event},
    notice::{self, NOTICE_FOLLOWED, NOTICE_SHARES_MEMORY, Notice},
    process::{PROCESS_FOLLOW, PROCESS_TRACED, Process},
    stats::Stats,
};

use crate::{
    emit,
    maps::{OFFSETS, PROCESSES, WATCH_ALL},
    read,
    thread::ThreadKey,
};

/// `TASK_COMM_LEN`
const COMM_LENGTH: usize = 16;

#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn process_fork(ctx: RawTracePointContext) -> i32 {
    let (parent, child): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    let Some(stats) = emit::stats() else {
        return 0;
    };
    let parent_tgid = ThreadKey::current().tgid();
    // SAFETY: entries are replaced as a whole but for `maps_requested`, which the copy resets.
    let Some(process) = (unsafe { PROCESSES.get(parent_tgid) }) else {
        return 0;
    };
    let Some(child_tgid) = tgid_of(child) else {
        return 0;
    };
    if child_tgid == parent_tgid {
        return 0; // a thread
    }
    let shares_memory = mm_of(parent) == mm_of(child);
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
                &ctx,
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
    notify(stats, notice::FORKED, child_tgid, parent_tgid, flags, child);
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn process_exec(ctx: RawTracePointContext) -> i32 {
    let task: u64 = ctx.arg(0);
    let Some(stats) = emit::stats() else {
        return 0;
    };
    let key = ThreadKey::current();
    let tgid = key.tgid();
    // The thread that ran the old program may have had another id.
    key.forget();
    let old_tid: u32 = ctx.arg::<u64>(1) as u32;
    ThreadKey((u64::from(tgid) << 32) | u64::from(old_tid)).forget();
    // SAFETY: as above.
    let known = unsafe { PROCESSES.get(tgid) };
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
        }
    }
    if known.is_some() || WATCH_ALL.load() != 0 {
        notify(stats, notice::EXECED, tgid, 0, 0, task);
    }
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn process_exit(ctx: RawTracePointContext) -> i32 {
    let task: u64 = ctx.arg(0);
    let key = ThreadKey::current();
    let tgid = key.tgid();
    key.forget();
    // SAFETY: as above.
    let Some(process) = (unsafe { PROCESSES.get(tgid) }) else {
        return 0;
    };
    if !is_last_thread(task) {
        return 0;
    }
    let Some(stats) = emit::stats() else {
        return 0;
    };
    if process.flags & PROCESS_TRACED != 0 {
        emit_change(stats, event::EXIT, tgid);
    }
    let _ = PROCESSES.remove(tgid);
    emit::raise_epoch();
    notify(stats, notice::EXITED, tgid, 0, 0, task);
    0
}

#[raw_tracepoint(tracepoint = "task_rename")]
fn process_rename(ctx: RawTracePointContext) -> i32 {
    if WATCH_ALL.load() == 0 {
        return 0;
    }
    let (task, name): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    let offsets = OFFSETS.load();
    let (Some(tgid), Some(tid)) = (tgid_of(task), read::kernel::<u32>(task, offsets.task_pid))
    else {
        return 0;
    };
    if tgid != tid {
        return 0; // a thread's name is not its process's
    }
    if let Some(stats) = emit::stats() {
        let notice = Notice {
            kind: notice::RENAMED,
            tgid,
            parent: 0,
            flags: 0,
            addr: 0,
            comm: string_at(name),
        };
        emit::notice(stats, &notice);
    }
    0
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
fn is_last_thread(task: u64) -> bool {
    let offsets = OFFSETS.load();
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
fn notify(stats: &mut Stats, kind: u32, tgid: u32, parent: u32, flags: u32, task: u64) {
    let comm = string_at(task.wrapping_add(u64::from(OFFSETS.load().task_comm)));
    let notice = Notice {
        kind,
        tgid,
        parent,
        flags,
        addr: 0,
        comm,
    };
    emit::notice(stats, &notice);
}

/// A command name in kernel memory.
#[inline(always)]
fn string_at(addr: u64) -> [u8; COMM_LENGTH] {
    let mut comm = [0; COMM_LENGTH];
    // SAFETY: the length is that of the destination. A failure leaves an empty name.
    let _ = unsafe {
        bpf_probe_read_kernel_str(
            comm.as_mut_ptr().cast(),
            COMM_LENGTH as u32,
            addr as *const _,
        )
    };
    comm
}
