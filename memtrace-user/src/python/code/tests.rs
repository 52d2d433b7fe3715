//! Code objects that nobody has made. The real ones: `tests/python`.

use std::cell::Cell;

use proptest::prelude::*;

use super::*;
use crate::python::name::CodeName as _;

const TYPE_ADDR: u64 = 0x5555_0000_1000;
const CODE: u64 = 0x10_0000;
const FILE: u64 = 0x20_0000;
const NAME: u64 = 0x30_0000;
const TABLE: u64 = 0x80_0000;

/// 3.12's.
const LAYOUT: CodeLayout = CodeLayout {
    code_type: TYPE_ADDR,
    filename: 112,
    name: 120,
    qualname: Some(128),
    first_line: 68,
    line_table: 136,
    lines: LineFormat::Locations,
    ascii_text: 40,
    wide_text: 56,
};

/// Few objects in a memory that is otherwise empty, and how it was read.
#[derive(Clone, Debug, Default)]
struct Objects {
    objects: Vec<(u64, Vec<u8>)>,
    reads: Cell<usize>,
}

impl Memory for Objects {
    fn read_into(&self, addr: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.reads.set(self.reads.get() + 1);
        // Mappings are whole pages: behind an object there are zeros.
        let page_end = |at: u64, object: &[u8]| (at + object.len() as u64).next_multiple_of(4096);
        let (at, object) = self
            .objects
            .iter()
            .find(|(at, object)| (*at..page_end(*at, object)).contains(&addr))
            .ok_or(io::ErrorKind::InvalidInput)?;
        if addr + bytes.len() as u64 > page_end(*at, object) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in bytes.iter_mut().zip((addr - at) as usize..) {
            *to = object.get(from).copied().unwrap_or(0);
        }
        Ok(())
    }
}

fn put(bytes: &mut [u8], at: usize, word: u64) {
    bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
}

/// A code object.
fn code() -> Vec<u8> {
    let mut bytes = vec![0; 192];
    put(&mut bytes, 0, 1);
    put(&mut bytes, TYPE, TYPE_ADDR);
    put(&mut bytes, 68, 40);
    put(&mut bytes, 112, FILE);
    put(&mut bytes, 128, NAME);
    put(&mut bytes, 136, TABLE);
    bytes
}

/// An ASCII `str`.
fn ascii(text: &str) -> Vec<u8> {
    let mut bytes = vec![0; 40];
    put(&mut bytes, 16, text.len() as u64);
    bytes[32] = 1 << 2 | 1 << 5 | 1 << 6;
    bytes.extend(text.bytes());
    bytes
}

/// A `bytes`.
fn table(table: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 32];
    put(&mut bytes, 16, table.len() as u64);
    bytes.extend(table);
    bytes
}

/// Begins at line 40; two units at 41, one without a line.
fn objects() -> Objects {
    let objects = vec![
        (CODE, code()),
        (FILE, ascii("/srv/app.py")),
        (NAME, ascii("Shop.sell.<locals>.<lambda>")),
        (TABLE, table(&[0xd9, 0, 0, 0xf8])),
    ];
    Objects {
        objects,
        ..Objects::default()
    }
}

fn read(objects: &Objects) -> Result<CodeObject, CodeError> {
    CodeObject::read(objects, CODE, &LAYOUT)
}

#[test]
fn five_reads_tell_all() {
    let objects = objects();
    let code = read(&objects).unwrap();
    assert_eq!(objects.reads.get(), 5);
    assert_eq!(&*code.file, "/srv/app.py");
    assert_eq!(&*code.name, "Shop.sell.<locals>.<lambda>");
    assert_eq!(
        [0, 1, 2, 3].map(|instr| code.line(instr)),
        [Some(41), Some(41), None, None]
    );
}

#[test]
fn without_a_line_a_frame_has_its_functions() {
    let code = read(&objects()).unwrap();
    assert_eq!(code.frame_line(1), Some(41));
    for instr in [2, 3, INSTR_BEFORE_FIRST, INSTR_UNKNOWN] {
        assert_eq!(code.frame_line(instr), Some(40));
    }
}

#[test]
fn the_interpreters_own_code_is_known_by_its_one_name() {
    let is_shim = |file: u64, line: u64| {
        let mut objects = objects();
        let code = &mut objects.objects[0].1;
        put(code, LAYOUT.filename as usize, file);
        put(code, LAYOUT.first_line as usize, line);
        read(&objects).unwrap().is_shim()
    };
    assert!(is_shim(NAME, 0));
    // Modules may begin at line 0, and a file may be called like a function.
    assert!(!is_shim(FILE, 0));
    assert!(!is_shim(NAME, 1));
}

#[test]
fn what_is_long_is_cut() {
    let mut objects = objects();
    objects.objects[1].1 = ascii(&"f".repeat(MAX_FILE_CHARS + 1));
    objects.objects[2].1 = ascii(&"n".repeat(1 << 20));
    objects.objects[3].1 = table(&vec![0x80; MAX_LINE_TABLE + 1]);
    let code = read(&objects).unwrap();
    assert_eq!(&*code.file, "f".repeat(MAX_FILE_CHARS) + "…");
    assert_eq!(&*code.name, "n".repeat(MAX_NAME_CHARS) + "…");
    assert_eq!((code.line(0), code.frame_line(0)), (None, Some(40)));
    assert_eq!(code.no_lines(), Some(NoLines::TooLarge));
    objects.objects[3].1 = table(&vec![0x80; MAX_LINE_TABLE]);
    let code = read(&objects).unwrap();
    assert_eq!(code.line(MAX_LINE_TABLE as u32 - 1), Some(40));
    assert_eq!(code.no_lines(), None);
}

#[test]
fn no_code_object_is_no_code_object() {
    let with = |at, word| {
        let mut objects = objects();
        put(&mut objects.objects[0].1, at, word);
        read(&objects).unwrap_err()
    };
    assert!(matches!(with(TYPE, TYPE_ADDR | 1), CodeError::NotCode));
    // Two forms of a freed block: the last of its list, and one with another behind it.
    assert!(matches!(with(0, 0), CodeError::Freed));
    assert!(matches!(with(0, 0x7f12_3456_7890), CodeError::Freed));
    assert!(matches!(with(112, 0x999_0000), CodeError::Text(_)));
    assert!(matches!(
        with(128, TABLE),
        CodeError::Text(TextError::NotText)
    ));
    assert!(matches!(with(136, 0x999_0000), CodeError::Unreadable(_)));
    let far = CodeLayout {
        name: 0,
        qualname: None,
        filename: u32::MAX,
        ..LAYOUT
    };
    let far = CodeObject::read(&objects(), CODE, &far);
    assert!(matches!(far, Err(CodeError::Layout(_))));
}

#[test]
fn immortal_and_flagged_objects_live() {
    let mut objects = objects();
    for count in [1, 999_999_999, u64::from(u32::MAX), 0x0004_0000_c000_0000] {
        put(&mut objects.objects[0].1, 0, count);
        assert!(read(&objects).is_ok(), "{count:#x}");
    }
}

/// A code object whose memory another one gets before the `second` read.
struct Replaced {
    before: Objects,
    after: Objects,
    second: usize,
    reads: Cell<usize>,
}

impl Memory for Replaced {
    fn read_into(&self, addr: u64, bytes: &mut [u8]) -> io::Result<()> {
        let read = self.reads.replace(self.reads.get() + 1);
        let now = if read < self.second {
            &self.before
        } else {
            &self.after
        };
        now.read_into(addr, bytes)
    }
}

#[test]
fn two_objects_are_never_mixed() {
    let (before, mut after) = (objects(), objects());
    let other_name = NAME + 0x1000;
    after.objects[2] = (other_name, ascii("another"));
    put(&mut after.objects[0].1, 128, other_name);
    for second in 0..=5 {
        let memory = Replaced {
            before: before.clone(),
            after: after.clone(),
            second,
            reads: Cell::default(),
        };
        let name = CodeObject::read(&memory, CODE, &LAYOUT).map(|code| code.name.into_string());
        match second {
            0 => assert_eq!(name.unwrap(), "another"),
            5 => assert_eq!(name.unwrap(), "Shop.sell.<locals>.<lambda>"),
            _ => assert!(
                matches!(name, Err(CodeError::Changed)),
                "{second}: {name:?}"
            ),
        }
    }
}

/// A memory in which every address has some of a few words, others at every read if it is restless, and which now and then
/// cannot be read.
#[derive(Debug)]
struct Garbage {
    words: Vec<u64>,
    restless: bool,
    faults: Vec<bool>,
    reads: Cell<usize>,
    bytes: Cell<usize>,
}

impl Memory for Garbage {
    fn read_into(&self, addr: u64, bytes: &mut [u8]) -> io::Result<()> {
        let read = self.reads.replace(self.reads.get() + 1);
        self.bytes.set(self.bytes.get() + bytes.len());
        if self.faults.get(read).is_some_and(|fault| *fault) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let from = addr as usize % self.words.len() + if self.restless { read } else { 0 };
        for (chunk, word) in bytes
            .chunks_mut(8)
            .zip(self.words.iter().cycle().skip(from))
        {
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

fn a_word() -> impl Strategy<Value = u64> {
    const EDGES: [u64; 9] = [0, 1, 2, 40, 4096, 1 << 20, u64::MAX, u64::MAX - 7, 1 << 63];
    let states = (0..256_u64).prop_map(|state| state | 1 << 32);
    prop_oneof![
        4 => Just(TYPE_ADDR),
        4 => prop::sample::select(&EDGES[..]),
        2 => states,
        1 => any::<u64>(),
    ]
}

prop_compose! {
    fn garbage()(
        words in prop::collection::vec(a_word(), 1..24),
        restless: bool,
        faults in prop::collection::vec(prop::bool::weighted(0.1), 0..12),
    ) -> Garbage {
        Garbage { words, restless, faults, reads: Cell::default(), bytes: Cell::default() }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn any_memory_is_read_within_bounds(
        memory in garbage(),
        addr: u64,
        old in any::<bool>(),
        instr: u32,
    ) {
        let layout = if old {
            CodeLayout { qualname: None, ascii_text: 48, wide_text: 72, lines: LineFormat::Lnotab, ..LAYOUT }
        } else {
            LAYOUT
        };
        if let Ok(code) = CodeObject::read(&memory, addr, &layout) {
            prop_assert!(code.file.chars().count() <= MAX_FILE_CHARS + 1);
            prop_assert!(code.name.chars().count() <= MAX_NAME_CHARS + 1);
            let _ = (code.line(instr), code.frame_line(instr));
        }
        prop_assert!(memory.reads.get() <= 10, "{} reads", memory.reads.get());
        prop_assert!(memory.bytes.get() <= MAX_LINE_TABLE + 64 * 1024, "{} bytes", memory.bytes.get());
    }
}

#[test]
fn most_garbage_is_not_refused_at_the_head() {
    // The property above is worth something only if the reader gets past the type.
    use proptest::{strategy::ValueTree as _, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let outcomes = (0..4096).map(|addr| {
        let memory = garbage().new_tree(&mut runner).unwrap().current();
        CodeObject::read(&memory, addr, &LAYOUT)
    });
    let past =
        outcomes.filter(|outcome| !matches!(outcome, Err(CodeError::NotCode | CodeError::Freed)));
    let past = past.count();
    assert!(past > 400, "{past} of 4096");
}
