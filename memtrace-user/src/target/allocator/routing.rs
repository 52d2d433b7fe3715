//! Whether a function hands its work to another allocator function, found by walking its machine code.
//!
//! libstdc++'s `operator new` calls `malloc`, mimalloc's `cfree` jumps to `mi_free`, jemalloc's `operator new` does
//! its work itself. Probing both ends of a hand-over would count one free twice; probing none would lose it. So the
//! question is put to the code, never to a file name.
//!
//! The walk follows every direct branch from the entry, and direct calls one level deep. A path is settled as
//! soon as it calls or jumps to an allocator function (in this object, or through a PLT stub or GOT slot whose
//! relocation names one). A path that returns without having called anything or written memory outside its own
//! frame did nothing (`free(NULL)`), nor did an allocating one that returns null; one that never returns (`throw`)
//! does not count; any other path that returns did the work [itself](Routing::Partly). The walk is bounded: what it
//! has not seen counts as work.

use std::collections::{HashMap, HashSet};

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register};
use memtrace_common::kind;

use super::{
    code::Code,
    registers::{RegisterSet, writes},
};

/// Instructions that one question may cost, called functions included.
const MAX_INSTRUCTIONS: usize = 1500;
/// Hops through stubs (`call` → PLT → `jmp`) that are followed to see what a call reaches.
const MAX_HOPS: usize = 4;
/// Direct calls that are entered, one inside the other.
const MAX_DEPTH: usize = 1;

/// What a function does for those who call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    /// Returns a block, by one of the allocating kinds of `memtrace_common::kind`.
    Allocates(u32),
    /// Takes a block back, in its first argument.
    Frees,
    /// Never returns.
    NeverReturns,
}

impl Service {
    /// What a function of `kind` does; none when that is nothing of interest here.
    pub(super) fn of_kind(kind: u32) -> Option<Self> {
        match kind {
            kind::FREE => Some(Self::Frees),
            _ if kind::takes_return(kind) => Some(Self::Allocates(kind)),
            _ => None,
        }
    }

    /// Whether null, returned, means that nothing was done: not of `posix_memalign`, where it is success, nor of
    /// `realloc`, which may have freed.
    fn fails_with_null(self) -> bool {
        matches!(self, Self::Allocates(kind) if kind != kind::POSIX_MEMALIGN && kind != kind::REALLOC)
    }

    /// Whether both allocate, or both free.
    fn is_like(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

/// How a function relates to the others of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Routing {
    /// No path reaches another allocator function.
    Never,
    /// Some paths do, some do the work themselves (or may).
    Partly,
    /// Every path that does anything does.
    Always {
        /// Whether the other function gets the first argument as it came.
        argument_kept: bool,
        /// Whether the other function takes its place, with the same caller: it is jumped to, not called.
        by_jump: bool,
    },
}

/// What is known of the services that code may reach.
#[derive(Debug, Default)]
pub(super) struct Services {
    /// By the `rel` of the function.
    pub(super) functions: HashMap<u64, Service>,
    /// By the `rel` of the word that holds the function's address.
    pub(super) slots: HashMap<u64, Service>,
}

/// Answers [`Router::routing`] for the functions of one object.
#[derive(Debug)]
pub(super) struct Router<'a> {
    code: &'a Code<'a>,
    services: &'a Services,
}

/// Where a call or jump goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Callee {
    Service(Service),
    Code(u64),
    Unknown,
}

/// One path, at one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Path {
    at: u64,
    /// Registers that hold the function's first argument.
    argument: RegisterSet,
    /// Whether it has called unknown code or written memory outside its frame.
    worked: bool,
    /// Whether the result, as it stands, is null.
    returns_null: bool,
}

/// What the paths of one function came to.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    reached: bool,
    argument_kept: bool,
    by_jump: bool,
    own_work: bool,
    returned_idle: bool,
}

impl<'a> Router<'a> {
    pub(super) fn new(code: &'a Code<'a>, services: &'a Services) -> Self {
        Self { code, services }
    }

    /// How the function of `size` bytes at `rel` (0: unknown size) comes to `wanted`.
    pub(super) fn routing(&self, rel: u64, size: u64, wanted: Service) -> Routing {
        let mut budget = MAX_INSTRUCTIONS;
        let outcome = self.walk(rel, size, wanted, MAX_DEPTH, &mut budget);
        match outcome {
            Outcome { reached: false, .. } => Routing::Never,
            Outcome { own_work: true, .. } => Routing::Partly,
            Outcome {
                argument_kept,
                by_jump,
                ..
            } => Routing::Always {
                argument_kept,
                by_jump,
            },
        }
    }

    /// The first instruction at or behind `rel` that does anything.
    fn first_instruction(&self, rel: u64) -> Option<Instruction> {
        let mut instruction = self.code.instruction(rel)?;
        for _ in 0..MAX_HOPS {
            if !matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Endbr64) {
                return Some(instruction);
            }
            instruction = self.code.instruction(instruction.next_ip())?;
        }
        None
    }

    fn walk(
        &self,
        entry: u64,
        size: u64,
        wanted: Service,
        depth: usize,
        budget: &mut usize,
    ) -> Outcome {
        let mut walk = Walk {
            router: self,
            entry,
            end: (size > 0).then(|| entry.saturating_add(size)),
            wanted,
            depth,
            todo: vec![Path {
                at: entry,
                argument: RegisterSet::of(Register::RDI),
                worked: false,
                returns_null: false,
            }],
            seen: HashSet::new(),
            outcome: Outcome {
                reached: false,
                argument_kept: true,
                by_jump: true,
                own_work: false,
                returned_idle: false,
            },
            facts: InstructionInfoFactory::new(),
        };
        while let Some(path) = walk.todo.pop() {
            if walk.seen.insert(path) {
                walk.follow(path, budget);
            }
        }
        walk.outcome
    }

    /// What the code at `rel` is when it is called: a service, a stub that leads to one, or other code.
    fn resolve(&self, rel: u64) -> Callee {
        let mut rel = rel;
        for _ in 0..MAX_HOPS {
            if let Some(service) = self.services.functions.get(&rel) {
                return Callee::Service(*service);
            }
            let Some(first) = self.first_instruction(rel) else {
                return Callee::Unknown;
            };
            match first.flow_control() {
                FlowControl::UnconditionalBranch => rel = first.near_branch_target(),
                FlowControl::IndirectBranch => return self.slot(&first),
                _ => return Callee::Code(rel),
            }
        }
        Callee::Unknown
    }

    /// What an indirect call or jump reaches, when it goes through a word that the dynamic linker fills in.
    fn slot(&self, instruction: &Instruction) -> Callee {
        if !instruction.is_ip_rel_memory_operand() {
            return Callee::Unknown;
        }
        let word = instruction.ip_rel_memory_address();
        let service = self.services.slots.get(&word);
        service.map_or(Callee::Unknown, |service| Callee::Service(*service))
    }
}

/// One walk over one function.
struct Walk<'a> {
    router: &'a Router<'a>,
    entry: u64,
    /// The first byte behind the function, where that is known.
    end: Option<u64>,
    wanted: Service,
    depth: usize,
    todo: Vec<Path>,
    seen: HashSet<Path>,
    outcome: Outcome,
    facts: InstructionInfoFactory,
}

impl Walk<'_> {
    /// Follows `path` in a straight line until it ends or branches.
    fn follow(&mut self, mut path: Path, budget: &mut usize) {
        let began_inside = self.contains(path.at);
        while let Some(instruction) = self.router.code.instruction(path.at) {
            if *budget == 0 {
                self.outcome.own_work = true;
                return;
            }
            *budget -= 1;
            // Code falls off the end of a function only behind a call that never returns.
            if began_inside && !self.contains(path.at) {
                return;
            }
            if !self.step(&instruction, &mut path, budget) {
                return;
            }
            path.at = instruction.next_ip();
        }
    }

    /// Whether `rel` is known to lie in the function.
    fn contains(&self, rel: u64) -> bool {
        self.end.is_some_and(|end| (self.entry..end).contains(&rel))
    }

    /// Takes one instruction; false when the path ends here.
    fn step(&mut self, instruction: &Instruction, path: &mut Path, budget: &mut usize) -> bool {
        match instruction.flow_control() {
            FlowControl::Next => {
                self.note_effects(instruction, path);
                true
            }
            FlowControl::ConditionalBranch => {
                self.jump(Callee::Code(instruction.near_branch_target()), *path);
                true
            }
            FlowControl::UnconditionalBranch => {
                self.jump(Callee::Code(instruction.near_branch_target()), *path);
                false
            }
            FlowControl::IndirectBranch => {
                self.jump(self.router.slot(instruction), *path);
                false
            }
            FlowControl::Return => {
                self.finish(path);
                false
            }
            FlowControl::Call if instruction.op0_kind() == OpKind::NearBranch64 => {
                self.call(Callee::Code(instruction.near_branch_target()), path, budget)
            }
            FlowControl::IndirectCall => self.call(self.router.slot(instruction), path, budget),
            // A system call, or something stranger.
            FlowControl::Call | FlowControl::XbeginXabortXend => {
                path.worked = true;
                true
            }
            FlowControl::Interrupt | FlowControl::Exception => false,
        }
    }

    /// Goes on elsewhere, or settles the path when `target` is a service.
    fn jump(&mut self, target: Callee, path: Path) {
        let target = match target {
            Callee::Code(at) if at == self.entry || self.contains(at) => target,
            Callee::Code(at) => self.router.resolve(at),
            other => other,
        };
        match target {
            Callee::Service(service) if service.is_like(self.wanted) => {
                self.settle(path.argument, true)
            }
            Callee::Service(Service::NeverReturns) => {}
            Callee::Code(at) => self.todo.push(Path { at, ..path }),
            Callee::Service(_) | Callee::Unknown => self.outcome.own_work = true,
        }
    }

    /// Takes a call; false when the path is settled by it or ends in it.
    fn call(&mut self, callee: Callee, path: &mut Path, budget: &mut usize) -> bool {
        let callee = match callee {
            Callee::Code(at) if at != self.entry => self.router.resolve(at),
            other => other,
        };
        match callee {
            Callee::Service(service) if service.is_like(self.wanted) => {
                self.settle(path.argument, false);
                return false;
            }
            Callee::Service(Service::NeverReturns) => return false,
            Callee::Code(at) if self.depth > 0 && at != self.entry => {
                let inner = self.router.walk(at, 0, self.wanted, self.depth - 1, budget);
                if inner.reached && !inner.own_work && !inner.returned_idle {
                    let argument = if inner.argument_kept {
                        path.argument
                    } else {
                        RegisterSet::EMPTY
                    };
                    self.settle(argument, false);
                    return false;
                }
                self.outcome.reached |= inner.reached;
                self.outcome.own_work |= inner.reached;
            }
            // To free on the way is work, even if null is returned then.
            Callee::Service(_) => self.outcome.own_work = true,
            Callee::Code(_) | Callee::Unknown => {}
        }
        path.worked = true;
        path.returns_null = false;
        path.argument = path.argument.after_call();
        true
    }

    /// The path has handed its work over, with `argument` telling where the first argument still is.
    fn settle(&mut self, argument: RegisterSet, by_jump: bool) {
        self.outcome.reached = true;
        self.outcome.argument_kept &= argument.contains(Register::RDI);
        self.outcome.by_jump &= by_jump;
    }

    /// The path returns without having handed anything over.
    fn finish(&mut self, path: &Path) {
        let failed = path.returns_null && self.wanted.fails_with_null();
        let idle = failed || !path.worked;
        self.outcome.own_work |= !idle;
        self.outcome.returned_idle |= idle;
    }

    /// Keeps track of where the first argument lies, of the result, and of writes to memory.
    fn note_effects(&mut self, instruction: &Instruction, path: &mut Path) {
        let facts = self.facts.info(instruction);
        path.argument = path.argument.after(instruction, facts);
        let result = RegisterSet::of(Register::RAX).after(instruction, facts);
        if sets_null(instruction) {
            path.returns_null = true;
        } else if !result.contains(Register::RAX) {
            path.returns_null = false;
        }
        path.worked |= facts
            .used_memory()
            .iter()
            .any(|used| writes(used.access()) && used.base() != Register::RSP);
    }
}

/// Whether it sets the result register to zero.
fn sets_null(instruction: &Instruction) -> bool {
    // Writing the low half clears the other; smaller parts leave the rest as it was.
    let to_result = instruction.op0_kind() == OpKind::Register
        && matches!(instruction.op0_register(), Register::EAX | Register::RAX);
    match instruction.mnemonic() {
        Mnemonic::Xor => to_result && instruction.op1_register() == instruction.op0_register(),
        Mnemonic::Mov => {
            to_result
                && instruction.op1_kind() != OpKind::Register
                && is_immediate_zero(instruction)
        }
        _ => false,
    }
}

fn is_immediate_zero(instruction: &Instruction) -> bool {
    instruction
        .try_immediate(1)
        .is_ok_and(|immediate| immediate == 0)
}
