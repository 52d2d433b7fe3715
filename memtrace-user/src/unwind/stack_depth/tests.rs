//! The oracle for code without call frame information is code that has it: the same functions, once decoded as if
//! nothing were known, once as the compiler describes them. For musl, which has none, it is the call chain that a
//! program is known to have.

use std::{collections::HashMap, os::unix::fs::FileExt, path::Path};

use memtrace_common::unwind::{
    ROW_CFA_AT_RBP, ROW_END, ROW_NONE, ROW_RBP, ROW_RSP, ROW_SIGNAL, ROW_UNSUPPORTED,
    row_cfa_words, row_kind, row_rbp_words, row_rel,
};

use super::*;
use crate::{
    ids::{ObjectId, Pid},
    target::{maps, store::ObjectStore},
    unwind::{
        eh_frame::{
            self,
            tests::{compile_with, open},
        },
        mappings,
        object_rows::ObjectRows,
        tables::Tables,
    },
};

/// What two ways to the same rule say of one byte of code.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The compiler says nothing: padding.
    NoOracle,
    /// Decoding gives nothing.
    Unknown,
    /// Both find the same frame.
    Agree,
    /// They find different frames.
    Differ,
    /// They count from different registers, which says nothing.
    Incomparable,
}

fn verdict(oracle: u64, ours: u64) -> Verdict {
    let (oracle_kind, our_kind) = (row_kind(oracle), row_kind(ours));
    match (oracle_kind, our_kind) {
        (ROW_NONE | ROW_UNSUPPORTED, _) => Verdict::NoOracle,
        (_, ROW_NONE) => Verdict::Unknown,
        _ if oracle as u32 == ours as u32 => Verdict::Agree,
        // Compilers do not say when rbp holds the caller's value again: the word below rsp still has it.
        (ROW_RSP, ROW_RSP)
            if row_cfa_words(oracle) == row_cfa_words(ours) && row_rbp_words(ours) == 0 =>
        {
            Verdict::Agree
        }
        (ROW_RSP | ROW_RBP | ROW_CFA_AT_RBP, ROW_RSP | ROW_RBP) if oracle_kind != our_kind => {
            Verdict::Incomparable
        }
        _ => Verdict::Differ,
    }
}

/// Bytes of `.text` by what decoding says of them: agreeing, differing, unknown.
fn compare(path: &Path) -> [u32; 3] {
    let object = open(path);
    let (image, elf) = object.contents().unwrap();
    let [mut described, mut decoded] = [RowsBuilder::default(), RowsBuilder::default()];
    eh_frame::add_rows(image, elf, &mut described);
    add_rows(image, elf, &mut decoded);
    let (described, decoded) = (described.finish(), decoded.finish());
    let text = elf.section(b".text").unwrap();
    let first = (text.vaddr - elf.base) as u32;
    let end = first + (text.file.end - text.file.start) as u32;
    let in_force = |rows: &[u64], rel| {
        rows[..rows.partition_point(|&row| row_rel(row) <= rel)]
            .last()
            .copied()
    };
    let mut counts = [0; 3];
    for rel in first..end {
        match verdict(
            in_force(&described, rel).unwrap_or(0),
            in_force(&decoded, rel).unwrap_or(0),
        ) {
            Verdict::Agree => counts[0] += 1,
            Verdict::Differ => counts[1] += 1,
            Verdict::Unknown => counts[2] += 1,
            Verdict::NoOracle | Verdict::Incomparable => {}
        }
    }
    counts
}

/// Stripped programs and libraries in C. In libc the few bytes that differ are multi-precision arithmetic whose
/// description leaves out its pushes, and the entry point.
#[test]
fn decoding_finds_what_the_compiler_describes() {
    for (path, least_known) in [
        ("/usr/lib/x86_64-linux-gnu/libsqlite3.so.0", 0.90),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", 0.80),
        ("/usr/bin/redis-server", 0.85),
    ] {
        if !Path::new(path).exists() {
            continue;
        }
        let [agree, differ, unknown] = compare(path.as_ref()).map(f64::from);
        println!("{path}: {agree} bytes agree, {differ} differ, {unknown} are unknown");
        assert!(
            differ / agree < 0.0005,
            "{path}: {differ} of {agree} bytes differ"
        );
        assert!(
            agree / (agree + unknown) > least_known,
            "{path}: {unknown} bytes are unknown"
        );
    }
}

/// A thread that calls back through musl's sort, which has no call frame information, and through a signal handler;
/// and the main thread, which waits for it.
const MUSL_PROGRAM: &str = "
    #include <pthread.h>
    #include <signal.h>
    #include <stdlib.h>
    #include <unistd.h>
    __attribute__((noipa)) void deepest(void) { for (;;) pause(); }
    __attribute__((noipa)) void handler(int number) { deepest(); }
    __attribute__((noipa)) int compare(const void *a, const void *b) { raise(SIGUSR1); return 0; }
    __attribute__((noipa)) int sorting(void) { int numbers[9] = {0}; qsort(numbers, 9, 4, compare); return numbers[0]; }
    __attribute__((noipa)) void *thread(void *nothing) { sorting(); return nothing; }
    __attribute__((noipa)) int waiting(pthread_t id) { return pthread_join(id, NULL) + 1; }
    int main(void) {
        pthread_t id;
        signal(SIGUSR1, handler);
        pthread_create(&id, NULL, thread, NULL);
        return waiting(id) + 1;
    }
";

/// Registers of a thread that waits in the kernel.
fn stopped_registers(pid: i32) -> libc::user_regs_struct {
    // SAFETY: zeros are a value of the structure; the calls write into it and nowhere else.
    unsafe {
        let mut registers: libc::user_regs_struct = std::mem::zeroed();
        assert_eq!(libc::ptrace(libc::PTRACE_ATTACH, pid, 0, 0), 0);
        libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL);
        assert_eq!(
            libc::ptrace(libc::PTRACE_GETREGS, pid, 0, &raw mut registers),
            0
        );
        assert_eq!(libc::ptrace(libc::PTRACE_DETACH, pid, 0, 0), 0);
        registers
    }
}

/// Walks a thread's stack by rows, as the probe does. Gives the places and whether the end was reached.
fn walk(pid: Pid, tid: u32) -> (Vec<(ObjectId, u32)>, bool) {
    let mappings = maps::read(pid).unwrap();
    let mut store = ObjectStore::new(100);
    let mut tables = Tables::new(vec![0; 1 << 20], vec![0; 1 << 18]);
    let list = mappings::list(pid, &mappings, &mut store, &mut tables);
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let word = |addr: u64| {
        let mut bytes = [0; 8];
        memory.read_exact_at(&mut bytes, addr).unwrap();
        u64::from_le_bytes(bytes)
    };
    let regs = stopped_registers(tid as i32);
    let (mut pc, mut sp, mut bp, mut exact) = (regs.rip, regs.rsp, regs.rbp, true);
    let mut frames = Vec::new();
    let mut built = HashMap::new();
    for _ in 0..64 {
        let addr = if exact { pc } else { pc - 1 };
        let Some(mapping) = list
            .entries
            .iter()
            .find(|entry| (entry.start..entry.end).contains(&addr))
        else {
            return (frames, false);
        };
        let id = ObjectId(mapping.object);
        frames.push((id, (pc - mapping.bias) as u32));
        let built = built
            .entry(id)
            .or_insert_with(|| ObjectRows::build(store.get(id).unwrap()).unwrap());
        let row = built.lookup((addr - mapping.bias) as u32).unwrap_or(0);
        let cfa = match row_kind(row) {
            ROW_RSP => sp + 8 * u64::from(row_cfa_words(row)),
            ROW_RBP => bp + 8 * u64::from(row_cfa_words(row)),
            ROW_SIGNAL => {
                (bp, pc, exact) = (word(sp + 120), word(sp + 168), true);
                sp = word(sp + 160);
                continue;
            }
            kind => return (frames, kind == ROW_END),
        };
        if row_rbp_words(row) != 0 {
            bp = word(cfa.wrapping_add_signed(8 * i64::from(row_rbp_words(row))));
        }
        (pc, sp, exact) = (word(cfa - 8), cfa, false);
    }
    (frames, false)
}

/// The function around a place, by the program's symbols.
fn name_of(program: &Path, rel: u32) -> String {
    let bytes = std::fs::read(program).unwrap();
    let file = object::read::elf::ElfFile64::<object::LittleEndian>::parse(&bytes[..]).unwrap();
    let base = open(program).elf.unwrap().base;
    let symbols = object::Object::symbol_map(&file);
    symbols
        .containing(base + u64::from(rel))
        .map_or_else(|| "?".into(), |symbol| symbol.name().to_owned())
}

#[test]
fn a_stack_through_musl_is_walked_to_its_end() {
    if std::process::Command::new("musl-gcc")
        .arg("--version")
        .output()
        .is_err()
    {
        eprintln!("musl-gcc is not installed: nothing was tested");
        return;
    }
    for linking in ["-static", "-no-pie", "-pie"] {
        let flags = ["-O2", "-fno-optimize-sibling-calls", linking];
        let program = compile_with("musl-gcc", MUSL_PROGRAM, &flags);
        let mut child = std::process::Command::new(&program).spawn().unwrap();
        let pid = Pid(child.id());
        let thread = wait_for_thread(pid);
        let walks = [walk(pid, pid.0), walk(pid, thread)];
        child.kill().unwrap();
        child.wait().unwrap();
        let wanted = [
            &["waiting", "main", "_start"][..],
            &["deepest", "handler", "compare", "sorting", "thread"],
        ];
        for ((frames, complete), wanted) in walks.into_iter().zip(wanted) {
            let names: Vec<String> = frames
                .iter()
                .map(|&(_, rel)| name_of(&program, rel - 1))
                .collect();
            assert!(complete, "{linking}: {names:?}");
            let mut rest = names.iter();
            for wanted in wanted {
                assert!(
                    rest.any(|name| name == wanted),
                    "{linking}: {wanted} in {names:?}"
                );
            }
        }
    }
}

/// Waits until the program's second thread is at its deepest place.
fn wait_for_thread(pid: Pid) -> u32 {
    for _ in 0..400 {
        std::thread::sleep(std::time::Duration::from_millis(5));
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let mut ids = threads.map(|thread| {
            thread
                .unwrap()
                .file_name()
                .to_string_lossy()
                .parse()
                .unwrap()
        });
        let second = ids.find(|&id: &u32| id != pid.0);
        let call = second.and_then(|tid| {
            std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).ok()
        });
        if call.is_some_and(|call| call.starts_with(&libc::SYS_pause.to_string())) {
            return second.unwrap();
        }
    }
    panic!("the thread never waited");
}
