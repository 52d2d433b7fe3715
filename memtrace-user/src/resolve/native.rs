//! Names of native code: blazesym on kept descriptors.
//!
//! An object's symbols may lie in several files: its debug file and itself. They are asked one after the other, the
//! best first, and an address goes on to the next only while it has no name. So a debug file that is damaged, or knows
//! only a part, takes nothing away from what the others know.
//!
//! The symbolizer keeps what it has parsed. When the files it has opened exceed a limit, it is dropped with all it
//! holds and made anew: names already found live in the resolver's cache, not here.

use std::{
    collections::HashMap,
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use blazesym::{
    ErrorKind,
    symbolize::{
        CodeInfo, Input, Reason as NoSym, Sym, Symbolized, Symbolizer,
        source::{Elf, Source},
    },
};

use super::{
    Function, FunctionKind,
    debug_file::{self, SymbolFacts, fd_path},
    reason::Reason,
};
use crate::{
    ids::{Bytes, ObjectId},
    target::object::Object,
};

/// Functions at an address, innermost first: the inlined ones, then the one that has the code.
pub(super) type Functions = Result<Arc<[Function]>, Reason>;

/// Objects whose symbol files are kept open; each takes up to four descriptors.
const MAX_OPEN_OBJECTS: usize = 128;

/// Symbols of objects.
#[derive(Debug)]
pub(super) struct Symbols {
    symbolizer: Symbolizer,
    ladders: HashMap<ObjectId, Result<Ladder, Reason>>,
    opened: Bytes,
    limit: Bytes,
    restarts: u64,
}

/// The files that may name an object's addresses, best first.
#[derive(Clone, Debug)]
struct Ladder {
    rungs: Arc<[Rung]>,
    size: Bytes,
}

/// A file, and whether its DWARF is asked or only its symbol table.
#[derive(Debug)]
struct Rung {
    file: SymbolFile,
    /// Bytes the file had when it was opened.
    size: Bytes,
    dwarf: bool,
}

/// An open file that has symbols.
#[derive(Clone, Debug)]
enum SymbolFile {
    /// The object's own.
    Own(Arc<Object>),
    /// Its debug file.
    Separate(Arc<File>),
}

impl Symbols {
    /// `limit`: bytes of symbol files that are held open at once.
    pub(super) fn new(limit: Bytes) -> Self {
        Self {
            symbolizer: new_symbolizer(),
            ladders: HashMap::new(),
            opened: Bytes(0),
            limit,
            restarts: 0,
        }
    }

    /// Times the symbolizer was dropped because it had reached its limit.
    pub(super) fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Names addresses of one object: virtual addresses as its own symbols have them, each once.
    pub(super) fn name(&mut self, object: &Arc<Object>, addrs: &[u64]) -> Vec<Functions> {
        let ladder = match self.ladder(object) {
            Ok(ladder) => ladder,
            Err(reason) => return vec![Err(reason); addrs.len()],
        };
        let mut names: Vec<Functions> = vec![Err(Reason::Stripped); addrs.len()];
        for rung in ladder.rungs.iter() {
            let open: Vec<usize> = (0..addrs.len())
                .filter(|&index| names[index].is_err())
                .collect();
            if open.is_empty() {
                break;
            }
            let asked: Vec<u64> = open.iter().map(|&index| addrs[index]).collect();
            let mut answers = self.ask(rung, &asked);
            if rung.dwarf {
                self.complete_names(rung, &asked, &mut answers);
            }
            for (&index, answer) in open.iter().zip(answers) {
                names[index] = better(&names[index], answer);
            }
        }
        names
    }

    /// Debug information that has only lines calls a function `push`; the symbol table of the same file still has
    /// `alloc::vec::Vec<T>::push`.
    fn complete_names(&mut self, rung: &Rung, addrs: &[u64], answers: &mut [Functions]) {
        let is_short = |answer: &Functions| {
            let outer = answer.as_ref().ok().and_then(|functions| functions.last());
            outer.is_some_and(|outer| !before_arguments(&outer.name).contains("::"))
        };
        let short: Vec<usize> = (0..addrs.len())
            .filter(|&index| is_short(&answers[index]))
            .collect();
        let asked: Vec<u64> = short.iter().map(|&index| addrs[index]).collect();
        for (&index, symbol) in short.iter().zip(self.ask(&rung.symbols_only(), &asked)) {
            let symbol = symbol.ok().and_then(|symbol| symbol.last().cloned());
            if let (Ok(functions), Some(symbol)) = (&mut answers[index], symbol)
                && symbol.name.contains("::")
                && let Some(outer) = Arc::make_mut(functions).last_mut()
            {
                outer.name = symbol.name;
            }
        }
    }

    fn ladder(&mut self, object: &Arc<Object>) -> Result<Ladder, Reason> {
        if let Some(ladder) = self.ladders.get(&object.id) {
            return ladder.clone();
        }
        let ladder = Ladder::of(object);
        let size = ladder.as_ref().map_or(Bytes(0), |ladder| ladder.size);
        let full = self.opened.0 + size.0 > self.limit.0 || self.ladders.len() >= MAX_OPEN_OBJECTS;
        if full && !self.ladders.is_empty() {
            self.restart();
        }
        self.opened += size;
        self.ladders.insert(object.id, ladder.clone());
        ladder
    }

    fn restart(&mut self) {
        self.symbolizer = new_symbolizer();
        self.ladders.clear();
        self.opened = Bytes(0);
        self.restarts += 1;
    }

    fn ask(&mut self, rung: &Rung, addrs: &[u64]) -> Vec<Functions> {
        let Some(file) = rung.file.file() else {
            return vec![Err(Reason::Damaged); addrs.len()];
        };
        // The symbolizer maps files; a page that is no longer there would end memtrace with SIGBUS.
        if rung.file.size() < rung.size {
            return vec![Err(Reason::Damaged); addrs.len()];
        }
        let mut elf = Elf::new(fd_path(file));
        elf.debug_syms = rung.dwarf;
        let source = Source::Elf(elf);
        // Debug information is other people's input; a bug that it triggers in its parser costs these names and no
        // more.
        let answer = catch_unwind(AssertUnwindSafe(|| {
            let symbols = self
                .symbolizer
                .symbolize(&source, Input::VirtOffset(addrs))?;
            Ok(symbols.into_iter().map(functions).collect())
        }));
        match answer {
            Ok(Ok(names)) => names,
            Ok(Err(error)) => vec![Err(reason_of(&error)); addrs.len()],
            Err(_panic) => {
                self.symbolizer = new_symbolizer();
                vec![Err(Reason::Damaged); addrs.len()]
            }
        }
    }
}

impl Rung {
    fn symbols_only(&self) -> Self {
        Self {
            file: self.file.clone(),
            size: self.size,
            dwarf: false,
        }
    }
}

impl SymbolFile {
    fn file(&self) -> Option<&File> {
        match self {
            Self::Own(object) => object.file(),
            Self::Separate(file) => Some(file),
        }
    }

    fn size(&self) -> Bytes {
        let metadata = self.file().and_then(|file| file.metadata().ok());
        Bytes(metadata.map_or(0, |metadata| metadata.len()))
    }
}

impl Ladder {
    fn of(object: &Arc<Object>) -> Result<Self, Reason> {
        object
            .elf
            .as_ref()
            .map_err(|reason| Reason::Unusable(reason.clone()))?;
        let file = object.file().ok_or(Reason::Damaged)?;
        let facts = SymbolFacts::read(file)?;
        let mut files = Vec::new();
        if let Some(debug_file) = debug_file::find(file, &object.path, &facts) {
            files.push((SymbolFile::Separate(debug_file), true));
        }
        files.push((SymbolFile::Own(Arc::clone(object)), facts.has_dwarf));
        let size = files.iter().map(|(file, _)| file.size()).sum();
        let rungs = files.into_iter().flat_map(|(file, has_dwarf)| {
            let size = file.size();
            let rung = |dwarf| Rung {
                file: file.clone(),
                size,
                dwarf,
            };
            let dwarf = has_dwarf.then(|| rung(true));
            dwarf.into_iter().chain([rung(false)]).collect::<Vec<_>>()
        });
        Ok(Self {
            rungs: rungs.collect(),
            size,
        })
    }
}

fn new_symbolizer() -> Symbolizer {
    Symbolizer::builder()
        .enable_code_info(true)
        .enable_inlined_fns(true)
        .enable_demangling(true)
        .build()
}

/// Of two answers the one that says more: a name, or the reason that is not just "no symbols".
fn better(former: &Functions, latter: Functions) -> Functions {
    match (former, &latter) {
        (_, Ok(_)) | (Err(Reason::Stripped), _) => latter,
        _ => former.clone(),
    }
}

/// A function's name up to its template arguments or arguments.
fn before_arguments(name: &str) -> &str {
    name.split(['<', '(']).next().unwrap_or(name)
}

fn reason_of(error: &blazesym::Error) -> Reason {
    match error.kind() {
        ErrorKind::InvalidData | ErrorKind::InvalidDwarf | ErrorKind::UnexpectedEof => {
            Reason::Damaged
        }
        kind => Reason::Unreadable(kind.to_string().into()),
    }
}

fn functions(symbolized: Symbolized<'_>) -> Functions {
    match symbolized {
        Symbolized::Sym(sym) if sym.name.is_empty() => Err(Reason::NoSymbol),
        Symbolized::Sym(sym) => Ok(chain(&sym)),
        Symbolized::Unknown(NoSym::MissingSyms) => Err(Reason::Stripped),
        Symbolized::Unknown(NoSym::IgnoredError) => Err(Reason::Damaged),
        Symbolized::Unknown(_) => Err(Reason::NoSymbol),
    }
}

/// blazesym lists inlined functions in the order of their calls; a stack runs the other way.
fn chain(sym: &Sym<'_>) -> Arc<[Function]> {
    let inlined = sym
        .inlined
        .iter()
        .rev()
        .map(|inlined| function(&inlined.name, inlined.code_info.as_ref(), true));
    let outer = function(&sym.name, sym.code_info.as_deref(), false);
    inlined.chain([outer]).collect()
}

fn function(name: &str, place: Option<&CodeInfo<'_>>, inlined: bool) -> Function {
    Function {
        kind: FunctionKind::Native,
        name: name.into(),
        file: place.map(|place| path_text(&place.to_path())),
        // DWARF's line 0 means "no line".
        line: place.and_then(|place| place.line).filter(|&line| line > 0),
        inlined,
    }
}

fn path_text(path: &Path) -> Box<str> {
    path.to_string_lossy().into()
}
