//! Changes of the tables, made for the session; `memtrace_common::edit` says why it does not make them itself.

use aya_ebpf::{bindings, macros::raw_tracepoint, programs::RawTracePointContext};
use memtrace_common::edit;

use crate::{
    emit,
    maps::{DESK, OBJECTS, PROCESSES},
};

/// Never attached: the session runs it (`BPF_PROG_TEST_RUN`), and gets 0 or a negative errno.
#[raw_tracepoint(tracepoint = "none")]
fn edit(_ctx: RawTracePointContext) -> i32 {
    let Some(edit) = DESK.get_ptr(0) else {
        return -1;
    };
    // SAFETY: the entry is the map's, and only the session writes it, which waits for this program.
    let edit = unsafe { &*edit };
    let done = match edit.operation {
        edit::INTRODUCE => PROCESSES.insert(edit.tgid, edit.process, bindings::BPF_NOEXIST.into()),
        edit::UPDATE => PROCESSES.insert(edit.tgid, edit.process, bindings::BPF_EXIST.into()),
        edit::FORGET => PROCESSES.remove(edit.tgid),
        edit::OBJECT => return result(OBJECTS.insert(edit.file, edit.object, 0)),
        _ => return -1,
    };
    emit::raise_epoch();
    result(done)
}

#[inline(always)]
fn result(done: Result<(), i32>) -> i32 {
    match done {
        Ok(()) => 0,
        Err(error) => error,
    }
}
