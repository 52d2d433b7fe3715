//! What this kernel can do, found by trying: every part of the probes is loaded or attached once, on memtrace itself.

use aya::Ebpf;

use super::{
    AttachLevel, OBJECT, ProbeOptions, Unwinder,
    btf::KernelTypes,
    load_form, load_maps,
    tracepoint::{Choice, Tracepoints},
};
use crate::system::Check;

/// Tries everything the probes need or can use, best effort last.
#[must_use]
pub fn checks() -> Vec<Check> {
    if OBJECT.is_empty() {
        return vec![Check::missing(
            "probes",
            "this memtrace was built without them",
            "cargo xtask setup && cargo build --release",
        )];
    }
    let types =
        match KernelTypes::of_running_kernel().and_then(|types| types.offsets().map(|_| types)) {
            Ok(types) => types,
            Err(error) => {
                return vec![Check::missing(
                    "kernel types",
                    error.to_string(),
                    "a kernel with CONFIG_DEBUG_INFO_BTF=y",
                )];
            }
        };
    let loaded = Choice::make(None).and_then(|choice| {
        Ok((
            load_maps(&ProbeOptions::default(), &types, &choice)?,
            choice,
        ))
    });
    let (mut ebpf, choice) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            return vec![Check::missing(
                "ring buffer, maps",
                format!("{error:#}"),
                "Linux 6.1 or newer; CAP_BPF; a higher RLIMIT_MEMLOCK",
            )];
        }
    };
    let mut checks = vec![Check::ok("ring buffer, maps", "created")];
    checks.push(tracepoints(&mut ebpf, choice));
    checks.extend(forms(&types, &ebpf));
    checks
}

fn tracepoints(ebpf: &mut Ebpf, choice: Choice) -> Check {
    const NAME: &str = "process tracepoints";
    let form = choice.form();
    match Tracepoints::attach(ebpf, choice) {
        Ok(Tracepoints {
            fallback: Some(error),
            ..
        }) => Check::degraded(
            NAME,
            format!("{form}: this kernel skips one now and then, which is counted; {error:#}"),
            "run as root, or mount -t tracefs nodev /sys/kernel/tracing",
        ),
        Ok(_) => Check::ok(NAME, format!("fork, exec, exit, rename ({form})")),
        Err(error) => Check::missing(
            NAME,
            format!("{error:#}"),
            "CAP_PERFMON and CAP_BPF; a kernel with CONFIG_BPF_EVENTS=y",
        ),
    }
}

/// The ways to attach and to walk, each tried apart from the others.
fn forms(types: &KernelTypes, ebpf: &Ebpf) -> Vec<Check> {
    let works = |level, unwinder| load_form(types, ebpf, level, unwinder).map(drop);
    let walks_in_loop = works(AttachLevel::Single, Unwinder::Loop);
    let walks_in_calls = works(AttachLevel::Single, Unwinder::TailCall);
    let unwinder = if walks_in_loop.is_ok() {
        Unwinder::Loop
    } else {
        Unwinder::TailCall
    };
    let multi = works(AttachLevel::Multi, unwinder);
    let session = works(AttachLevel::Session, unwinder);
    vec![
        match (&walks_in_loop, &walks_in_calls) {
            (Err(a), Err(b)) => Check::missing(
                "allocator probes",
                format!("neither set of programs is accepted: {a:#}; {b:#}"),
                "Linux 6.1 or newer with CONFIG_UPROBES=y and CONFIG_BPF_EVENTS=y",
            ),
            _ => Check::ok("allocator probes", "attached and detached"),
        },
        match walks_in_loop {
            Ok(()) => Check::ok("bpf_loop", "stacks are walked in one program"),
            Err(_) => Check::degraded(
                "bpf_loop",
                "not there: stacks are walked in tail calls, and new mappings are placed later",
                "Linux 5.17 or newer",
            ),
        },
        match multi {
            Ok(()) => Check::ok("uprobe_multi", "one link a file"),
            Err(_) => Check::degraded(
                "uprobe_multi",
                "not there: every function has a probe of its own, and detaching takes a second or more",
                "Linux 6.6 or newer",
            ),
        },
        match session {
            Ok(()) => Check::ok("uprobe sessions", "returns are taken only where needed"),
            Err(_) => Check::degraded(
                "uprobe sessions",
                "not there: every return of an allocator function is taken",
                "Linux 6.13 or newer",
            ),
        },
    ]
}
