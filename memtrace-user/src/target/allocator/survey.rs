//! What the names in an object say about its allocator: the functions, and who wrote it.
//!
//! Looks at names only. Which of the functions count is decided by [`selection`](super::selection).

use std::collections::BTreeMap;

use super::{
    Flavour,
    names::{self, Function, Mark, Name, NameSpace},
    routing::{Service, Services},
};
use crate::target::symbols::{Slot, Symbol, Symbols};

/// Functions that are taken from one object; the largest allocator known (mimalloc) has 60.
const MAX_FUNCTIONS: usize = 256;

/// A function that might be probed.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// The most familiar of its names.
    pub(super) name: String,
    /// What that name says.
    pub(super) known: Function,
    /// Address of the first byte, relative to the load base.
    pub(super) rel: u64,
    /// Bytes of code; 0 when the symbol does not say.
    pub(super) size: u64,
}

/// The names of interest in one object.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// By ascending address, one for each.
    pub(super) candidates: Vec<Candidate>,
    left_out: usize,
    marks: Vec<Mark>,
    never_return: Vec<u64>,
    imports_allocator: bool,
    imports_dlsym: bool,
}

impl Survey {
    /// Goes through all symbols, and through its imports if there is any use.
    pub(super) fn of(symbols: &Symbols) -> Self {
        let mut survey = Self::default();
        let mut candidates = BTreeMap::new();
        for symbol in symbols.defined() {
            match names::lookup(symbol.name) {
                Some(Name::Function(known)) if is_candidate(&symbol, known) => {
                    consider(&mut candidates, &symbol, known);
                }
                Some(Name::NoReturn) if symbol.is_function => survey.never_return.push(symbol.rel),
                Some(Name::Mark(mark)) => survey.marks.push(mark),
                _ => {}
            }
        }
        survey.left_out = candidates.len().saturating_sub(MAX_FUNCTIONS);
        survey.candidates = candidates.into_values().take(MAX_FUNCTIONS).collect();
        if !survey.candidates.is_empty() {
            survey.note_imports(symbols);
        }
        survey
    }

    /// What was left out, in words for the user.
    pub(super) fn notes(&self) -> Vec<String> {
        match self.left_out {
            0 => Vec::new(),
            count => vec![format!(
                "{count} more allocator functions than the {MAX_FUNCTIONS} that are probed"
            )],
        }
    }

    /// Whose allocator it is. An object that calls another's `malloc` while it defines parts of the interface is
    /// built upon that one, whatever else it looks like. Of the rest each complete allocator has its telltale;
    /// without one, `dlsym` is how the next `malloc` would be found.
    pub(super) fn flavour(&self) -> Flavour {
        let marked = |mark| self.marks.contains(&mark);
        let defines_c = self
            .candidates
            .iter()
            .any(|candidate| matches!(candidate.known.space, NameSpace::C | NameSpace::Libc));
        match () {
            () if marked(Mark::Linker) => Flavour::Linker,
            () if defines_c && self.imports_allocator => Flavour::Interposer,
            () if marked(Mark::Jemalloc) => Flavour::Jemalloc,
            () if marked(Mark::Tcmalloc) => Flavour::Tcmalloc,
            () if marked(Mark::Mimalloc) => Flavour::Mimalloc,
            () if marked(Mark::PrefixedJemalloc) && !defines_c => Flavour::Jemalloc,
            () if marked(Mark::Glibc) => Flavour::Glibc,
            () if marked(Mark::Musl) => Flavour::Musl,
            () if defines_c && self.imports_dlsym => Flavour::Interposer,
            () => Flavour::Other,
        }
    }

    /// Everything that code of the object could hand its work to.
    pub(super) fn services(&self, symbols: &Symbols) -> Services {
        let mut services = Services::default();
        if self.candidates.is_empty() {
            return services;
        }
        for candidate in &self.candidates {
            let service = Service::of_kind(candidate.known.kind);
            services
                .functions
                .extend(service.map(|service| (candidate.rel, service)));
        }
        let never_return = self.never_return.iter();
        services
            .functions
            .extend(never_return.map(|rel| (*rel, Service::NeverReturns)));
        for (word, slot) in symbols.slots() {
            match slot {
                Slot::Symbol(name) => services
                    .slots
                    .extend(named(name).map(|service| (word, service))),
                Slot::Own(function) => {
                    let service = services.functions.get(&function).copied();
                    services
                        .slots
                        .extend(service.map(|service| (word, service)));
                }
            }
        }
        services
    }

    fn note_imports(&mut self, symbols: &Symbols) {
        for name in symbols.imports() {
            match name {
                b"dlsym" => self.imports_dlsym = true,
                b"malloc" | b"free" => self.imports_allocator = true,
                _ if name.starts_with(b"__libc_") => {
                    self.imports_allocator |=
                        matches!(names::lookup(name), Some(Name::Function(_)));
                }
                _ => {}
            }
        }
    }
}

/// The service of an imported function.
fn named(name: &[u8]) -> Option<Service> {
    match names::lookup(name)? {
        Name::Function(known) => Service::of_kind(known.kind),
        Name::NoReturn => Some(Service::NeverReturns),
        Name::Mark(_) => None,
    }
}

/// Whether the symbol is a function that may be probed under this name. A local function called `malloc` is
/// somebody's private helper, while nobody takes an allocator's prefix or a mangled operator by accident.
fn is_candidate(symbol: &Symbol<'_>, known: Function) -> bool {
    symbol.is_function && (symbol.is_linkable || known.space != NameSpace::C)
}

/// Enters a symbol under its address, unless a more familiar name is there.
fn consider(candidates: &mut BTreeMap<u64, Candidate>, symbol: &Symbol<'_>, known: Function) {
    let candidate = Candidate {
        name: String::from_utf8_lossy(symbol.name).into_owned(),
        known,
        rel: symbol.rel,
        size: symbol.size,
    };
    let best = candidates
        .entry(symbol.rel)
        .or_insert_with(|| candidate.clone());
    let throws = best.known.throws || known.throws;
    if rank(&candidate) < rank(best) {
        *best = candidate;
    }
    best.known.throws = throws;
}

/// The lower, the more familiar.
fn rank(candidate: &Candidate) -> (NameSpace, usize, &str) {
    (candidate.known.space, candidate.name.len(), &candidate.name)
}
