//! What is known of the frame at one instruction, and what the instruction does to it.

use iced_x86::{Code, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use crate::unwind::rows::Rule;

/// Where rsp and rbp are, measured downwards from the CFA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// CFA - rsp.
    depth: Option<i64>,
    /// What rbp holds.
    rbp: Rbp,
    /// CFA - address of the word where the caller's rbp was saved.
    saved: Option<i64>,
    /// rbp was set to 0 without having been saved: the function never returns to a caller, and says so in the way the
    /// ABI has for the outermost frame (x86-64 psABI 3.4.1).
    outermost: bool,
}

/// What rbp holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rbp {
    /// What it held at entry.
    Callers,
    /// An address in the frame: CFA - rbp.
    Frame(i64),
    /// Something else.
    Other,
}

impl Frame {
    /// The frame at the first instruction of a function: a call has pushed the return address, nothing else.
    pub(super) const ENTRY: Self = Self {
        depth: Some(8),
        rbp: Rbp::Callers,
        saved: None,
        outermost: false,
    };

    /// Whether a return, or a jump to another function, is right here.
    pub(super) fn is_left(&self) -> bool {
        self.depth == Some(8) && self.rbp == Rbp::Callers
    }

    /// Whether a return is impossible here: the frame is known, and it still stands.
    pub(super) fn is_standing(&self) -> bool {
        self.depth.is_some_and(|depth| depth != 8) && !self.outermost
    }

    /// How to find the caller's frame.
    pub(super) fn rule(&self) -> Rule {
        if self.outermost {
            return Rule::END;
        }
        let rbp_off = match (self.saved, self.rbp) {
            (Some(saved), _) => -saved,
            (None, Rbp::Callers) => 0,
            _ => return Rule::NONE,
        };
        match (self.depth, self.rbp) {
            // `push %rbp; mov %rsp, %rbp`: rbp stays what it is while rsp moves, which needs fewer rows.
            (_, Rbp::Frame(distance)) if self.depth.is_none() || distance == 16 => {
                Rule::from_rbp(distance, rbp_off)
            }
            (Some(depth), _) if depth >= 8 => Rule::from_rsp(depth, rbp_off),
            _ => Rule::NONE,
        }
    }

    /// What both know.
    pub(super) fn meet(self, other: Self) -> Self {
        let both = |a: Option<i64>, b: Option<i64>| a.filter(|_| a == b);
        Self {
            depth: both(self.depth, other.depth),
            rbp: if self.rbp == other.rbp {
                self.rbp
            } else {
                Rbp::Other
            },
            saved: both(self.saved, other.saved),
            outermost: self.outermost && other.outermost,
        }
    }

    /// The frame behind `instruction`.
    pub(super) fn after(
        mut self,
        instruction: &Instruction,
        info: &mut InstructionInfoFactory,
    ) -> Self {
        match instruction.mnemonic() {
            Mnemonic::Push | Mnemonic::Pushfq => self.push(instruction),
            Mnemonic::Pop | Mnemonic::Popfq => self.pop(instruction),
            // Whoever is called gives rsp and rbp back as they were.
            Mnemonic::Call | Mnemonic::Syscall => {}
            Mnemonic::Leave => self.leave(),
            Mnemonic::Add | Mnemonic::Sub if is_rsp_and_immediate(instruction) => {
                let by = instruction.immediate(1) as i64;
                self.move_rsp(if instruction.mnemonic() == Mnemonic::Sub {
                    by
                } else {
                    by.wrapping_neg()
                });
            }
            Mnemonic::Mov if self.mov(instruction) => {}
            Mnemonic::Lea if self.lea(instruction) => {}
            Mnemonic::Xor if is_rbp_zeroed(instruction) => {
                self.outermost |= self.rbp == Rbp::Callers && self.saved.is_none();
                self.rbp = Rbp::Other;
            }
            _ => self.forget_what_is_written(instruction, info),
        }
        self
    }

    fn push(&mut self, instruction: &Instruction) {
        if instruction.stack_pointer_increment() != -8 {
            self.set_depth(None);
            return;
        }
        self.move_rsp(8);
        if instruction.op0_kind() == OpKind::Register && instruction.op0_register() == Register::RBP
        {
            self.save_rbp_at(self.depth);
        }
    }

    fn pop(&mut self, instruction: &Instruction) {
        if instruction.stack_pointer_increment() != 8 {
            self.set_depth(None);
            return;
        }
        if instruction.op0_kind() == OpKind::Register {
            match instruction.op0_register() {
                Register::RBP => self.load_rbp_from(self.depth),
                Register::RSP => {
                    self.set_depth(None);
                    return;
                }
                _ => {}
            }
        }
        self.move_rsp(-8);
    }

    fn leave(&mut self) {
        let Rbp::Frame(distance) = self.rbp else {
            self.rbp = Rbp::Other;
            self.set_depth(None);
            return;
        };
        self.load_rbp_from(Some(distance));
        self.set_depth(Some(distance - 8));
    }

    /// `mov` between rsp, rbp and the words where rbp may be saved. Whether it was one of these.
    fn mov(&mut self, instruction: &Instruction) -> bool {
        let (to, from) = (instruction.op0_kind(), instruction.op1_kind());
        match (to, from) {
            (OpKind::Register, OpKind::Register) => {
                match (instruction.op0_register(), instruction.op1_register()) {
                    (Register::RBP, Register::RSP) => {
                        self.rbp = self.depth.map_or(Rbp::Other, Rbp::Frame)
                    }
                    (Register::RSP, Register::RBP) => self.set_depth(self.rbp_distance()),
                    _ => return false,
                }
            }
            (OpKind::Memory, OpKind::Register) => {
                let Some(place) = self.place(instruction) else {
                    return false;
                };
                if instruction.op1_register() == Register::RBP {
                    self.save_rbp_at(Some(place));
                } else if self.saved == Some(place) {
                    self.saved = None;
                }
            }
            (OpKind::Register, OpKind::Memory) if instruction.op0_register() == Register::RBP => {
                self.load_rbp_from(self.place(instruction));
            }
            _ => return false,
        }
        true
    }

    /// `lea` that moves rsp or rbp. Whether it was one.
    fn lea(&mut self, instruction: &Instruction) -> bool {
        match instruction.op0_register() {
            Register::RSP => self.set_depth(self.place(instruction)),
            Register::RBP => self.rbp = self.place(instruction).map_or(Rbp::Other, Rbp::Frame),
            _ => return false,
        }
        true
    }

    /// CFA - address of a memory operand `[rsp + n]` or `[rbp + n]`.
    fn place(&self, instruction: &Instruction) -> Option<i64> {
        if instruction.memory_index() != Register::None
            || instruction.segment_prefix() != Register::None
        {
            return None;
        }
        let base = match instruction.memory_base() {
            Register::RSP => self.depth,
            Register::RBP => self.rbp_distance(),
            _ => None,
        }?;
        base.checked_sub(instruction.memory_displacement64() as i64)
    }

    fn rbp_distance(&self) -> Option<i64> {
        match self.rbp {
            Rbp::Frame(distance) => Some(distance),
            _ => None,
        }
    }

    fn save_rbp_at(&mut self, place: Option<i64>) {
        match self.rbp {
            Rbp::Callers => self.saved = place,
            _ if self.saved == place => self.saved = None,
            _ => {}
        }
    }

    fn load_rbp_from(&mut self, place: Option<i64>) {
        let is_callers = place.is_some() && place == self.saved;
        self.rbp = if is_callers { Rbp::Callers } else { Rbp::Other };
    }

    fn move_rsp(&mut self, down: i64) {
        self.set_depth(self.depth.and_then(|depth| depth.checked_add(down)));
    }

    /// Moves rsp. What lies below it is lost.
    fn set_depth(&mut self, depth: Option<i64>) {
        self.depth = depth;
        if let (Some(depth), Some(saved)) = (depth, self.saved)
            && saved > depth
        {
            self.saved = None;
        }
    }

    fn forget_what_is_written(
        &mut self,
        instruction: &Instruction,
        info: &mut InstructionInfoFactory,
    ) {
        // Asking for what an instruction writes is dear, and few name rsp or rbp.
        if !names_rsp_or_rbp(instruction) {
            return;
        }
        for used in info.info(instruction).used_registers() {
            let is_written = matches!(
                used.access(),
                OpAccess::Write
                    | OpAccess::CondWrite
                    | OpAccess::ReadWrite
                    | OpAccess::ReadCondWrite
            );
            match used.register().full_register() {
                Register::RSP if is_written => self.set_depth(None),
                Register::RBP if is_written => self.rbp = Rbp::Other,
                _ => {}
            }
        }
    }
}

/// Whether rsp or rbp is an operand, or changed without being one.
fn names_rsp_or_rbp(instruction: &Instruction) -> bool {
    instruction.is_stack_instruction()
        || instruction.mnemonic() == Mnemonic::Enter
        || (0..instruction.op_count()).any(|index| {
            instruction.op_kind(index) == OpKind::Register
                && matches!(
                    instruction.op_register(index).full_register(),
                    Register::RSP | Register::RBP
                )
        })
}

fn is_rsp_and_immediate(instruction: &Instruction) -> bool {
    matches!(
        instruction.code(),
        Code::Add_rm64_imm8 | Code::Add_rm64_imm32 | Code::Sub_rm64_imm8 | Code::Sub_rm64_imm32
    ) && instruction.op0_register() == Register::RSP
}

fn is_rbp_zeroed(instruction: &Instruction) -> bool {
    let (to, from) = (instruction.op0_register(), instruction.op1_register());
    to == from && to.full_register() == Register::RBP && to.size() >= 4
}
