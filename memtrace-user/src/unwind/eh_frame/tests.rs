//! The oracle is gimli: its own lookup in `.eh_frame_hdr`, its own evaluation of every rule, on made-up registers
//! and memory.

use std::{fs::File, path::Path};

use gimli::{EvaluationResult, Location, Value};
use memtrace_common::unwind::{
    FileKey, ROW_CFA_AT_RBP, ROW_END, ROW_NONE, ROW_PLT_10, ROW_PLT_11, ROW_RBP, ROW_RSP,
    ROW_SIGNAL, ROW_UNSUPPORTED, row_cfa_words, row_kind, row_rbp_words,
};
use object::{Object as _, ObjectSection as _};
use proptest::{prelude::*, test_runner::TestRunner};

use super::*;
use crate::{ids::ObjectId, target::object::Object, unwind::object_rows::ObjectRows};

/// Objects of different makers, and the share of their code whose rule may be one that the probe does not follow:
/// C and assembly, C++, PLTs, Rust linked by lld. The linker's lazy binding keeps the CFA in rbx, libcrypto's
/// hand-written loops keep it on the stack.
const OBJECTS: [(&str, f64); 8] = [
    ("/lib/x86_64-linux-gnu/libc.so.6", 0.005),
    ("/lib64/ld-linux-x86-64.so.2", 0.05),
    ("/usr/lib/x86_64-linux-gnu/libstdc++.so.6", 0.002),
    ("/usr/lib/x86_64-linux-gnu/libcrypto.so.3", 0.15),
    ("/usr/bin/gdb", 0.002),
    ("/usr/bin/redis-server", 0.002),
    ("/usr/bin/git", 0.002),
    ("/proc/self/exe", 0.002),
];

fn objects() -> impl Iterator<Item = (&'static Path, f64)> {
    OBJECTS
        .iter()
        .map(|&(path, share)| (Path::new(path), share))
        .filter(|(path, _)| path.exists())
}

/// A function that gcc realigns the stack for: it keeps the CFA in r10, then below rbp.
const REALIGNED: &str = "
    #include <alloca.h>
    __attribute__((noipa)) void use(char *a, char *b) { *a = *b = 1; }
    __attribute__((noipa)) int realigned(int n, int a, int b, int c, int d, int e, int f, int g) {
        _Alignas(64) char aligned[64];
        char *sized = alloca(n);
        use(aligned, sized);
        return sized[0] + aligned[1] + g;
    }
    int main(int count, char **words) { return realigned(count * 16, 1, 2, 3, 4, 5, 6, 7); }
";

fn compile(source: &str, flags: &[&str]) -> tempfile::TempPath {
    compile_with("gcc", source, flags)
}

pub(crate) fn compile_with(compiler: &str, source: &str, flags: &[&str]) -> tempfile::TempPath {
    let mut file = tempfile::Builder::new().suffix(".c").tempfile().unwrap();
    std::io::Write::write_all(&mut file, source.as_bytes()).unwrap();
    let program = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let status = std::process::Command::new(compiler)
        .args(flags)
        .arg("-o")
        .arg(&program)
        .arg(file.path())
        .status();
    assert!(status.unwrap().success());
    program
}

pub(crate) fn open(path: &Path) -> Object {
    Object::new(
        ObjectId(1),
        FileKey::default(),
        path.into(),
        Ok(File::open(path).unwrap()),
    )
}

#[derive(Clone, Copy, Debug)]
struct Registers {
    rip: u64,
    rsp: u64,
    rbp: u64,
}

/// Made-up memory: every word differs from every other.
fn memory(addr: u64) -> u64 {
    addr.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5555
}

/// The caller's registers, or why there are none.
#[derive(Debug, PartialEq, Eq)]
enum Caller {
    At { cfa: u64, ra: u64, rbp: u64 },
    Signal,
    End,
    Nothing,
    Unsupported,
}

/// Applies a row as the probe does.
fn apply(row: Option<u64>, regs: Registers) -> Caller {
    let Some(row) = row else {
        return Caller::Nothing;
    };
    let words = u64::from(row_cfa_words(row));
    let plt = |bound| regs.rsp + 8 + if regs.rip & 15 >= bound { 8 } else { 0 };
    let cfa = match row_kind(row) {
        ROW_NONE => return Caller::Nothing,
        ROW_RSP => regs.rsp + 8 * words,
        ROW_RBP => regs.rbp + 8 * words,
        ROW_CFA_AT_RBP => memory(regs.rbp - 8 * words),
        ROW_PLT_11 => plt(11),
        ROW_PLT_10 => plt(10),
        ROW_SIGNAL => return Caller::Signal,
        ROW_END => return Caller::End,
        ROW_UNSUPPORTED => return Caller::Unsupported,
        kind => panic!("unknown kind {kind}"),
    };
    let rbp = match row_rbp_words(row) {
        _ if row_kind(row) == ROW_CFA_AT_RBP => memory(regs.rbp),
        0 => regs.rbp,
        words => memory(cfa.wrapping_add_signed(8 * i64::from(words))),
    };
    Caller::At {
        cfa,
        ra: memory(cfa.wrapping_sub(8)),
        rbp,
    }
}

struct Oracle {
    base: u64,
    eh_frame: (Vec<u8>, u64),
    hdr: (Vec<u8>, u64),
}

impl Oracle {
    fn open(path: &Path, base: u64) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let file = object::read::elf::ElfFile64::<object::LittleEndian>::parse(&bytes[..]).unwrap();
        let section = |name| {
            let section = file.section_by_name(name).unwrap();
            (section.data().unwrap().to_vec(), section.address())
        };
        Self {
            base,
            eh_frame: section(".eh_frame"),
            hdr: section(".eh_frame_hdr"),
        }
    }

    fn caller(&self, rel: u32, regs: Registers) -> Caller {
        let bases = BaseAddresses::default()
            .set_eh_frame(self.eh_frame.1)
            .set_eh_frame_hdr(self.hdr.1);
        let eh_frame = EhFrame::new(&self.eh_frame.0, LittleEndian);
        let hdr = EhFrameHdr::new(&self.hdr.0, LittleEndian)
            .parse(&bases, 8)
            .unwrap();
        let address = self.base + u64::from(rel);
        let table = hdr.table().unwrap();
        let function = table.fde_for_address(&eh_frame, &bases, address, EhFrame::cie_from_offset);
        let Ok(function) = function else {
            return Caller::Nothing;
        };
        if function.is_signal_trampoline() {
            return Caller::Signal;
        }
        let mut context = UnwindContext::new();
        let row = function
            .unwind_info_for_address(&eh_frame, &bases, &mut context, address)
            .unwrap();
        if row.register(X86_64::RA) == Some(RegisterRule::Undefined) {
            return Caller::End;
        }
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                match register_value(*register, regs) {
                    Some(value) => value.wrapping_add_signed(*offset),
                    None => return Caller::Unsupported,
                }
            }
            CfaRule::Expression(expression) => {
                match evaluate(expression.get(&eh_frame).unwrap(), regs) {
                    Some(value) => value,
                    None => return Caller::Unsupported,
                }
            }
        };
        let read = |register, default| match row.register(register) {
            None | Some(RegisterRule::SameValue | RegisterRule::Undefined) => Some(default),
            Some(RegisterRule::Offset(offset)) => Some(memory(cfa.wrapping_add_signed(offset))),
            Some(RegisterRule::Expression(expression)) => {
                evaluate(expression.get(&eh_frame).unwrap(), regs).map(memory)
            }
            _ => None,
        };
        match (read(X86_64::RA, 0), read(X86_64::RBP, regs.rbp)) {
            (Some(ra), Some(rbp)) => Caller::At { cfa, ra, rbp },
            _ => Caller::Unsupported,
        }
    }
}

fn register_value(register: Register, regs: Registers) -> Option<u64> {
    match register {
        X86_64::RSP => Some(regs.rsp),
        X86_64::RBP => Some(regs.rbp),
        X86_64::RA => Some(regs.rip),
        _ => None,
    }
}

fn evaluate(expression: gimli::Expression<Reader<'_>>, regs: Registers) -> Option<u64> {
    let encoding = gimli::Encoding {
        address_size: 8,
        format: gimli::Format::Dwarf32,
        version: 5,
    };
    let mut evaluation = expression.evaluation(encoding);
    let mut result = evaluation.evaluate().unwrap();
    loop {
        result = match result {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresRegister { register, .. } => {
                let value = register_value(register, regs)?;
                evaluation
                    .resume_with_register(Value::Generic(value))
                    .unwrap()
            }
            EvaluationResult::RequiresMemory { address, .. } => evaluation
                .resume_with_memory(Value::Generic(memory(address)))
                .unwrap(),
            other => panic!("{other:?}"),
        };
    }
    match evaluation.result()[..] {
        [
            gimli::Piece {
                location: Location::Address { address },
                ..
            },
        ] => Some(address),
        ref other => panic!("{other:?}"),
    }
}

/// Compares the rows of an object with gimli at random places. Gives the share of places that only gimli follows.
fn compare(path: &Path, cases: u32) -> f64 {
    let object = open(path);
    let (image, elf) = object.contents().unwrap();
    // The call frame information alone, without what is found for code that has none.
    let mut builder = RowsBuilder::default();
    add_rows(image, elf, &mut builder);
    let rows = builder.finish();
    let pages = crate::unwind::pages::build(&rows, elf.code_end());
    let oracle = Oracle::open(path, elf.base);
    let code: Vec<_> = elf.code().copied().collect();
    let unsupported = std::cell::Cell::new(0u32);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(cases));
    let place = (
        any::<prop::sample::Index>(),
        any::<u64>(),
        any::<u32>(),
        any::<u32>(),
    );
    runner
        .run(&place, |(segment, at, sp, bp)| {
            let segment = code[segment.index(code.len())];
            let rel = (segment.rel + at % segment.file_size) as u32;
            let regs = Registers {
                rip: 0x5555_0000_0000 + u64::from(rel),
                rsp: 0x7ffc_0000_0000 + 8 * u64::from(sp),
                rbp: 0x7ffd_0000_0000 + 8 * u64::from(bp),
            };
            let ours = apply(crate::unwind::pages::lookup(&rows, &pages, rel), regs);
            if ours == Caller::Unsupported {
                unsupported.set(unsupported.get() + 1);
            } else {
                prop_assert_eq!(
                    ours,
                    oracle.caller(rel, regs),
                    "{} at {:#x}",
                    path.display(),
                    rel
                );
            }
            Ok(())
        })
        .unwrap();
    f64::from(unsupported.get()) / f64::from(cases)
}

#[test]
fn rows_say_what_gimli_says() {
    for (path, bound) in objects() {
        let share = compare(path, 3000);
        assert!(share < bound, "{}: {share} unsupported", path.display());
    }
}

#[test]
fn a_realigned_stack_is_followed() {
    let program = compile(REALIGNED, &["-O2"]);
    compare(&program, 1000);
    let built = ObjectRows::build(&open(&program)).unwrap();
    assert!(
        built
            .rows
            .iter()
            .any(|&row| row_kind(row) == ROW_CFA_AT_RBP)
    );
}

#[test]
fn real_objects_have_every_kind_of_row_and_no_damage() {
    let mut seen = [0u32; 16];
    for (path, _) in objects() {
        let built = ObjectRows::build(&open(path)).unwrap();
        for &row in &built.rows {
            seen[usize::from(row_kind(row))] += 1;
        }
        assert_eq!(
            (built.cfi.damaged, built.cfi.cut),
            (0, false),
            "{}",
            path.display()
        );
    }
    for kind in [
        ROW_NONE,
        ROW_RSP,
        ROW_RBP,
        ROW_PLT_11,
        ROW_SIGNAL,
        ROW_END,
        ROW_UNSUPPORTED,
    ] {
        assert!(seen[usize::from(kind)] > 0, "kind {kind}: {seen:?}");
    }
}

/// Without section headers the information is found as the program's own unwinder finds it.
#[test]
fn stripped_section_headers_change_nothing() {
    let bytes = std::fs::read("/lib/x86_64-linux-gnu/libc.so.6").unwrap();
    let mut stripped = bytes.clone();
    stripped[0x28..0x30].fill(0); // e_shoff
    stripped[0x3c..0x40].fill(0); // e_shnum, e_shstrndx
    let rows = |bytes: &[u8]| {
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0).unwrap();
        let object = Object::new(ObjectId(1), FileKey::default(), "libc".into(), Ok(file));
        let (image, elf) = object.contents().unwrap();
        let mut builder = RowsBuilder::default();
        let stats = add_rows(image, elf, &mut builder);
        (builder.finish(), stats)
    };
    assert_eq!(rows(&bytes), rows(&stripped));
}

/// `.debug_frame` alone, as assembly without `.eh_frame` and some languages have it.
#[test]
fn debug_frame_serves_where_there_is_no_eh_frame() {
    let without = [
        "-O2",
        "-fno-asynchronous-unwind-tables",
        "-fno-unwind-tables",
        "-g",
        "-nostdlib",
        "-static",
    ];
    let source = REALIGNED
        .replace("int main", "int _start")
        .replace("<alloca.h>", "<stddef.h>");
    let source = source.replace("alloca(n)", "__builtin_alloca(n)");
    let with = ["-O2", "-g", "-nostdlib", "-static"];
    let [debug_frame, eh_frame] = [&without[..], &with[..]].map(|flags| {
        let program = compile(&source, flags);
        let object = open(&program);
        let (image, elf) = object.contents().unwrap();
        let mut builder = RowsBuilder::default();
        assert!(add_rows(image, elf, &mut builder).functions >= 3);
        // The code lies elsewhere when there is a section more before it.
        let first = elf.code().next().unwrap().rel as u32;
        let rows = builder.finish();
        rows.into_iter()
            .map(|row| row - (u64::from(first) << 32))
            .collect::<Vec<_>>()
    });
    assert_eq!(debug_frame, eh_frame);
}
