//! Sets of general-purpose registers, followed through code: which registers hold a given value.

use iced_x86::{Instruction, InstructionInfo, Mnemonic, OpAccess, OpKind, Register};

/// General-purpose registers, a bit for each by its number in the instruction encoding (`rax` 0, `rdi` 7, `r15` 15).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct RegisterSet(u16);

impl RegisterSet {
    /// None.
    pub(super) const EMPTY: Self = Self(0);
    /// `rbx`, `rbp`, `r12`-`r15`: what a called function leaves as it is (System V ABI, x86-64 supplement, 3.2.1).
    const CALL_PRESERVED: Self = Self((1 << 3) | (1 << 5) | (0xf << 12));

    /// The register that `register` is (a part of); empty when it is no general-purpose register.
    pub(super) fn of(register: Register) -> Self {
        let full = register.full_register();
        if full.is_gpr64() {
            Self(1 << full.number())
        } else {
            Self::EMPTY
        }
    }

    pub(super) fn contains(self, register: Register) -> bool {
        self.0 & Self::of(register).0 != 0
    }

    /// The number of the lowest register.
    pub(super) fn first(self) -> Option<u8> {
        (self.0 != 0).then(|| self.0.trailing_zeros() as u8)
    }

    /// Where the value is after `instruction`, whose facts are `facts`: no longer in registers that it writes, also in
    /// one that it copies the value to.
    pub(super) fn after(self, instruction: &Instruction, facts: &InstructionInfo) -> Self {
        let copies = instruction.mnemonic() == Mnemonic::Mov
            && instruction.op0_kind() == OpKind::Register
            && instruction.op1_kind() == OpKind::Register
            && instruction.op0_register().is_gpr64()
            && instruction.op0_register() != Register::RSP
            && self.contains(instruction.op1_register());
        let written = facts
            .used_registers()
            .iter()
            .filter(|used| writes(used.access()))
            .fold(0, |set, used| set | Self::of(used.register()).0);
        let copy = if copies {
            Self::of(instruction.op0_register()).0
        } else {
            0
        };
        Self((self.0 & !written) | copy)
    }

    /// Where the value is after a call.
    pub(super) fn after_call(self) -> Self {
        Self(self.0 & Self::CALL_PRESERVED.0)
    }
}

/// Whether an access may change what it touches.
pub(super) fn writes(access: OpAccess) -> bool {
    !matches!(
        access,
        OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
    )
}
