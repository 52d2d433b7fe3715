//! The instruction of a function that a probe is cheapest on.
//!
//! A probe costs one trap when the kernel emulates the instruction under it, and a second exception when it
//! has to be stepped out of line: 0.6 against 10 us where this was measured. Which instructions are emulated is
//! written in `arch/x86/kernel/uprobes.c`: `push_setup_xol_ops` (one-byte `push`, with no prefix but `41`) and
//! `branch_setup_xol_ops` (`call`, `jmp`, `jcc` with a relative target, one-byte `nop`, with any prefix but `66`).
//! Longer `nop`s are emulated from Linux 6.18 only and so are not used.
//!
//! The first such instruction may stand a little behind the function's first byte. It is taken when every
//! call passes it exactly once and it still sees what the first byte would have seen: it is reached in a straight
//! line, no branch of the function leads back to it or in front of it, the arguments are still in registers,
//! if not always in [those they came in](ProbePoint::arguments), and, when the return is probed too, the stack
//! pointer, under which the kernel finds the return address, is as it was.

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Register,
};
use memtrace_common::kind;

use super::registers::{RegisterSet, writes};

/// Instructions that may stand before the point.
const MAX_SKIPPED: usize = 32;
/// Where a function gets its first three arguments (System V ABI, x86-64 supplement, 3.2.3).
const ARGUMENTS: [Register; 3] = [Register::RDI, Register::RSI, Register::RDX];

/// What a probe on an instruction costs the traced process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// One trap: the kernel emulates the instruction.
    Emulated,
    /// Two exceptions: the kernel steps over the instruction out of line.
    SingleStep,
}

/// Where to put a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbePoint {
    /// Offset of the instruction in the file.
    pub file_off: u64,
    /// What a hit costs.
    pub cost: Cost,
    /// Bytes between the function's first byte and the point.
    pub skipped_bytes: u32,
    /// The registers that hold the function's first three arguments at the point, by their numbers in the
    /// instruction encoding; of arguments that the kind does not have, those they would come in.
    pub arguments: [u8; 3],
}

impl ProbePoint {
    /// Whether every argument is in the register it came in.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        self.arguments == ARGUMENTS.map(number)
    }
}

/// The best point in the function whose first byte lies at `file_off`, for a probe of `kind`
/// (`memtrace_common::kind`); none when the kernel would refuse any point that sees what the probe needs.
///
/// `code` is the whole function, from its first byte.
#[must_use]
pub fn choose(code: &[u8], file_off: u64, kind: u32) -> Option<ProbePoint> {
    let line = straight_line(code, kind);
    let end = line.last().map_or(0, |place| place.instruction.next_ip());
    let limit = first_branch_target(code, end).unwrap_or(end);
    let mut fallback = None;
    for place in line.iter().take_while(|place| place.skipped() < limit) {
        let bytes = code.get(usize::try_from(place.skipped()).ok()?..)?;
        if !is_probeable(&place.instruction, bytes) {
            continue;
        }
        let cost = if is_emulated(&place.instruction, bytes) {
            Cost::Emulated
        } else {
            Cost::SingleStep
        };
        let point = ProbePoint {
            file_off: file_off.checked_add(place.skipped())?,
            cost,
            skipped_bytes: u32::try_from(place.skipped()).ok()?,
            arguments: place.arguments,
        };
        if cost == Cost::Emulated {
            return Some(point);
        }
        fallback = fallback.or(Some(point));
    }
    fallback
}

/// An instruction that sees what the probe needs.
struct Place {
    /// Its address counts from the function's first byte.
    instruction: Instruction,
    arguments: [u8; 3],
}

impl Place {
    fn skipped(&self) -> u64 {
        self.instruction.ip()
    }
}

/// The instructions from the first byte on, up to the first that leaves the straight line (included) or behind
/// which the probe no longer sees what it needs.
fn straight_line(code: &[u8], kind: u32) -> Vec<Place> {
    let mut facts = InstructionInfoFactory::new();
    let mut homes = ARGUMENTS.map(RegisterSet::of);
    let mut line = Vec::new();
    for instruction in &mut Decoder::new(64, code, DecoderOptions::NONE) {
        let Some(arguments) = locate(homes, kind) else {
            break;
        };
        if instruction.is_invalid() || line.len() > MAX_SKIPPED {
            break;
        }
        line.push(Place {
            instruction,
            arguments,
        });
        let facts = facts.info(&instruction);
        let moves_stack = facts
            .used_registers()
            .iter()
            .any(|used| writes(used.access()) && used.register().full_register() == Register::RSP);
        if instruction.flow_control() != FlowControl::Next
            || (moves_stack && kind::takes_return(kind))
        {
            break;
        }
        homes = homes.map(|home| home.after(&instruction, facts));
    }
    line
}

/// The register of each argument, preferably the one it came in; none when one that a probe of `kind` reads is lost.
fn locate(homes: [RegisterSet; 3], kind: u32) -> Option<[u8; 3]> {
    let mut places = ARGUMENTS.map(number);
    for (index, home) in homes.into_iter().enumerate().take(argument_count(kind)) {
        if !home.contains(ARGUMENTS[index]) {
            places[index] = home.first()?;
        }
    }
    Some(places)
}

/// How many arguments a probe of `kind` reads.
fn argument_count(kind: u32) -> usize {
    match kind {
        kind::MALLOC | kind::PVALLOC | kind::FREE | kind::FREE_OUTER | kind::FREE_THROUGH => 1,
        kind::CALLOC | kind::REALLOC | kind::MEMALIGN => 2,
        kind::REALLOCARRAY | kind::POSIX_MEMALIGN => 3,
        _ => 0,
    }
}

fn number(register: Register) -> u8 {
    register.number() as u8
}

/// The lowest place in front of `end`, but behind the first byte, that a branch of the function leads to.
///
/// A branch to the first byte itself is a new call in all but name. The sweep is linear: data between the
/// instructions makes it at worst more careful, or blind for a few bytes behind it.
fn first_branch_target(code: &[u8], end: u64) -> Option<u64> {
    Decoder::new(64, code, DecoderOptions::NONE)
        .iter()
        .filter(|instruction| {
            matches!(
                instruction.flow_control(),
                FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
            )
        })
        .map(|instruction| instruction.near_branch_target())
        .filter(|target| (1..end).contains(target))
        .min()
}

/// Whether the kernel lets a probe be put on it (`uprobe_init_insn` in `arch/x86/kernel/uprobes.c`: no segment
/// override but `fs`/`gs`, no `lock`, nothing privileged, no VEX encodings, no breakpoints).
fn is_probeable(instruction: &Instruction, bytes: &[u8]) -> bool {
    let refused =
        legacy_prefixes(bytes).any(|prefix| matches!(prefix, 0x26 | 0x2e | 0x36 | 0x3e | 0xf0));
    let is_legacy = instruction.encoding() == iced_x86::EncodingKind::Legacy;
    let is_trap = matches!(
        instruction.flow_control(),
        FlowControl::Interrupt | FlowControl::Exception
    );
    is_legacy && !refused && !is_trap && !instruction.is_privileged() && !instruction.is_invalid()
}

/// Whether the kernel emulates it, given that a probe may be put on it.
fn is_emulated(instruction: &Instruction, bytes: &[u8]) -> bool {
    let is_push = matches!(bytes, [0x50..=0x57, ..] | [0x41, 0x50..=0x57, ..]);
    let is_nop = matches!(
        instruction.code(),
        Code::Nopw | Code::Nopd | Code::Nopq | Code::Pause
    );
    let is_relative = instruction.is_jmp_short_or_near()
        || instruction.is_jcc_short_or_near()
        || instruction.is_call_near();
    let narrowed = legacy_prefixes(bytes).any(|prefix| prefix == 0x66);
    is_push || is_nop || (is_relative && !narrowed)
}

/// The prefixes that stand before the opcode, REX left out.
fn legacy_prefixes(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().copied().take_while(|byte| {
        matches!(
            byte,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3
        )
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IN_PLACE: [u8; 3] = [7, 6, 2];

    /// Checks the point of `code`: bytes skipped, cost and where the arguments are.
    #[track_caller]
    fn assert_point(kind: u32, code: &[u8], skipped: u64, cost: Cost, arguments: [u8; 3]) {
        let expected = ProbePoint {
            file_off: 0x1000 + skipped,
            cost,
            skipped_bytes: skipped as u32,
            arguments,
        };
        assert_eq!(choose(code, 0x1000, kind), Some(expected), "{code:02x?}");
    }

    #[test]
    fn what_the_kernel_emulates_is_taken_where_it_stands() {
        for code in [
            &[0x55, 0xc3][..],                  // push rbp
            &[0x41, 0x54, 0xc3],                // push r12
            &[0x90, 0xc3],                      // nop
            &[0xf3, 0x90, 0xc3],                // pause
            &[0x66, 0x90, 0xc3],                // xchg ax, ax
            &[0xeb, 0x10],                      // jmp short
            &[0xe9, 0x10, 0, 0, 0],             // jmp near
            &[0xf2, 0xe9, 0x10, 0, 0, 0],       // bnd jmp
            &[0x74, 0x10, 0xc3],                // je short
            &[0x0f, 0x84, 0x10, 0, 0, 0, 0xc3], // je near
            &[0xe8, 0x10, 0, 0, 0, 0xc3],       // call
        ] {
            assert_point(kind::MALLOC, code, 0, Cost::Emulated, IN_PLACE);
        }
    }

    #[test]
    fn what_it_steps_over_is_skipped_for_something_better() {
        for (code, skipped) in [
            (&[0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0xc3][..], 4), // endbr64; push rbp
            (&[0x48, 0x85, 0xff, 0x74, 0x05, 0xc3], 3),     // test rdi, rdi; je
            (&[0x0f, 0x1f, 0x40, 0, 0x53, 0xc3], 4),        // nop [rax]; push rbx
            (&[0xff, 0xf5, 0x55, 0xc3], 0),                 // push rbp, the long way
            (&[0x48, 0x55, 0xc3], 0),                       // rex.w push rbp
            (&[0xe3, 0x05, 0x55, 0xc3], 0),                 // jrcxz ends the straight line
            (&[0xff, 0xe0, 0x55], 0),                       // jmp rax
            (&[0xc3, 0x55], 0),                             // ret
        ] {
            let cost = if skipped == 0 {
                Cost::SingleStep
            } else {
                Cost::Emulated
            };
            assert_point(kind::MALLOC, code, skipped, cost, IN_PLACE);
        }
    }

    #[test]
    fn the_return_address_must_stay_under_the_stack_pointer() {
        let code = [0x48, 0x83, 0xec, 0x08, 0x74, 0x01, 0xc3, 0xc3]; // sub rsp, 8; je
        assert_point(kind::MALLOC, &code, 0, Cost::SingleStep, IN_PLACE);
        assert_point(kind::FREE, &code, 4, Cost::Emulated, IN_PLACE);
    }

    #[test]
    fn arguments_are_followed() {
        // mov rsi, rdi; mov rdi, fs:[rax]; je
        let moved = [
            0x48, 0x89, 0xfe, 0x64, 0x48, 0x8b, 0x38, 0x74, 0x01, 0xc3, 0xc3,
        ];
        assert_point(kind::MALLOC, &moved, 7, Cost::Emulated, [6, 6, 2]);
        // The second argument is lost then.
        assert_point(kind::CALLOC, &moved, 0, Cost::SingleStep, IN_PLACE);
        // mov r8, rdi; xor edi, edi; push rbp
        let to_r8 = [0x49, 0x89, 0xf8, 0x31, 0xff, 0x55, 0xc3];
        assert_point(kind::REALLOCARRAY, &to_r8, 5, Cost::Emulated, [8, 6, 2]);
        // xor edi, edi; push rbp
        let lost = [0x31, 0xff, 0x55, 0xc3];
        assert_point(kind::FREE, &lost, 0, Cost::SingleStep, IN_PLACE);
        assert_point(kind::MAPS_CHANGED, &lost, 2, Cost::Emulated, IN_PLACE);
    }

    #[test]
    fn a_loop_back_makes_the_point_unusable() {
        // test rdi, rdi; je +1; ret; jmp to the je
        let to_point = [0x48, 0x85, 0xff, 0x74, 0x01, 0xc3, 0xeb, 0xfb];
        assert_point(kind::FREE, &to_point, 0, Cost::SingleStep, IN_PLACE);
        // ... to the first byte: another call in all but name.
        let to_start = [0x48, 0x85, 0xff, 0x74, 0x01, 0xc3, 0xeb, 0xf8];
        assert_point(kind::FREE, &to_start, 3, Cost::Emulated, IN_PLACE);
    }

    #[test]
    fn what_the_kernel_refuses_is_never_chosen() {
        for code in [
            &[0xf0, 0xff, 0x07, 0xc3][..],   // lock inc
            &[0x2e, 0x90, 0xc3],             // cs nop
            &[0xc5, 0xf9, 0xef, 0xc0, 0xc3], // vpxor
        ] {
            let skipped = code.len() as u64 - 1;
            assert_point(kind::MALLOC, code, skipped, Cost::SingleStep, IN_PLACE);
        }
        assert_eq!(choose(&[0xcc, 0x55], 0, kind::MALLOC), None); // int3
        assert_eq!(choose(&[0xf4, 0xcc], 0, kind::MALLOC), None); // hlt
        assert_eq!(choose(&[], 0, kind::MALLOC), None);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_point_inside_or_none(
            code in prop::collection::vec(any::<u8>(), 0..64),
            file_off in any::<u64>(),
            kind in 0_u32..16,
        ) {
            if let Some(point) = choose(&code, file_off, kind) {
                prop_assert!((point.skipped_bytes as usize) < code.len());
                prop_assert_eq!(point.file_off, file_off + u64::from(point.skipped_bytes));
                prop_assert!(point.arguments.iter().all(|register| *register < 16));
            }
        }
    }
}
