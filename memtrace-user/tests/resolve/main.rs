//! Names from real files. The truth is binutils': `addr2line`, `nm`, `objdump`.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod oracle;

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use memtrace::{
    ids::{Bytes, ObjectId},
    python::{
        book::{BookLimits, CodeBook},
        name::Gone,
    },
    resolve::{Frame, Names, Origin, Reason, ResolveOptions, Resolver},
    snapshot::{Bound, Stack},
    target::object::Object,
};
use memtrace_common::{
    stack::{FRAME_EXACT, FRAME_PYTHON, frame},
    unwind::FileKey,
};
use object::{Object as _, ObjectSymbol as _};

use oracle::{ID, Line, addr2line, compile, objcopy, object_of, return_addresses};

fn resolver() -> Resolver {
    Resolver::new(ResolveOptions::default())
}

/// Names the frames of one stack in one object.
fn names(resolver: &mut Resolver, object: &Arc<Object>, frames: &[u64]) -> Vec<Frame> {
    let objects = HashMap::from([(ID, Arc::clone(object))]);
    let stack = Stack {
        frames: frames.into(),
        ..Stack::default()
    };
    let names = resolver.resolve([&stack], &objects);
    named(&names, &stack, &objects)
}

/// The frames of a stack of a process without a language runtime.
fn named(names: &Names, stack: &Stack, objects: &HashMap<ObjectId, Arc<Object>>) -> Vec<Frame> {
    let origin = Origin {
        objects,
        codes: &CodeBook::new(BookLimits::default()),
        runtimes: &HashSet::new(),
    };
    let codes = Err(Gone::StackLate);
    names.frames(Bound { stack, codes }, &origin).collect()
}

/// Names return addresses, given as virtual addresses of the file.
fn lines(object: &Arc<Object>, returns: &[u64]) -> Vec<Vec<Line>> {
    let frames = names(&mut resolver(), object, &words(object, returns));
    frames.iter().map(Line::all_of).collect()
}

/// Frame words of virtual addresses of the file.
fn words(object: &Object, addrs: &[u64]) -> Vec<u64> {
    let base = object.elf.as_ref().unwrap().base;
    let word = |addr: &u64| frame(ID.0, u32::try_from(addr - base).unwrap());
    addrs.iter().map(word).collect()
}

fn reason(object: Object) -> Reason {
    let frames = names(&mut resolver(), &Arc::new(object), &[frame(ID.0, 0x1234)]);
    frames[0].functions.clone().unwrap_err()
}

#[test]
fn inlined_cpp_frames_equal_addr2line() {
    let folder = tempfile::tempdir().unwrap();
    for dwarf in ["-gdwarf-4", "-gdwarf-5"] {
        let program = oracle::compile_with(folder.path(), dwarf);
        let returns = return_addresses(&program);
        assert!(returns.len() > 20, "{} calls", returns.len());
        let lookups: Vec<u64> = returns.iter().map(|addr| addr - 1).collect();
        let mut truth = addr2line(&program, &lookups);
        let mut found = lines(&Arc::new(object_of(&program)), &returns);
        if dwarf == "-gdwarf-5" {
            // addr2line 2.40 names wrong files here (llvm-symbolizer does not); its lines are right.
            for line in truth.iter_mut().chain(&mut found).flatten() {
                line.place = line
                    .place
                    .as_ref()
                    .map(|place| place.rsplit_once(':').unwrap().1.to_owned());
            }
        }
        let mangled = oracle::forgive_names(&mut truth, &found);
        assert!(mangled.len() <= 2, "not demangled: {mangled:?}");
        let mut deepest = 0;
        for ((addr, truth), found) in returns.iter().zip(&truth).zip(&found) {
            // Start-up code has no debug information: addr2line prints `??`, we have the symbol.
            if truth.iter().all(|line| line.place.is_some()) {
                assert_eq!(truth, found, "{dwarf}: return address {addr:#x}");
                deepest = deepest.max(found.len());
            }
        }
        assert!(deepest >= 4, "deepest chain of inlined frames: {deepest}");
        assert!(format!("{found:?}").contains("deep::Keeper<"), "{found:?}");
    }
}

#[test]
fn every_function_of_this_test_and_of_libc_has_the_name_that_nm_has() {
    for path in [std::env::current_exe().unwrap(), libc_path()] {
        let object = Arc::new(object_of(&path));
        let truth = oracle::functions(&path, object.elf.as_ref().unwrap().build_id.as_deref());
        assert!(
            truth.len() > 1000,
            "{} functions in {}",
            truth.len(),
            path.display()
        );
        let addrs: Vec<u64> = truth.iter().map(|(addr, _)| *addr).collect();
        let words: Vec<u64> = words(&object, &addrs)
            .iter()
            .map(|word| word | FRAME_EXACT)
            .collect();
        let mut differ = Vec::new();
        for ((_, truth), frame) in truth.iter().zip(names(&mut resolver(), &object, &words)) {
            let functions = frame
                .functions
                .unwrap_or_else(|reason| panic!("{truth:?}: {reason}"));
            let name = &functions.last().unwrap().name;
            if !truth.iter().any(|truth| oracle::same_name(truth, name)) {
                differ.push((truth, name.clone()));
            }
        }
        // Debug information spells a few local names otherwise than the symbol table.
        assert!(
            differ.len() * 100 < truth.len(),
            "{}: {differ:#?}",
            path.display()
        );
    }
}

/// The C library this test runs with.
fn libc_path() -> PathBuf {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps
        .lines()
        .find(|line| line.contains("/libc.so.6"))
        .unwrap();
    PathBuf::from(line.split_whitespace().last().unwrap())
}

#[test]
fn names_survive_deletion_and_replacement() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile(folder.path());
    let returns = return_addresses(&program);
    let object = Arc::new(object_of(&program));
    let truth = lines(&object, &returns);
    assert!(
        truth
            .iter()
            .flatten()
            .any(|line| line.function.contains("Keeper"))
    );

    fs::remove_file(&program).unwrap();
    assert_eq!(lines(&object, &returns), truth);
    fs::write(&program, "something else").unwrap();
    assert_eq!(lines(&object, &returns), truth);
}

#[test]
fn a_file_that_shrinks_after_it_was_read_costs_names_only() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile(folder.path());
    let object = Arc::new(object_of(&program));
    let words = words(&object, &return_addresses(&program));
    let (first, rest) = words.split_first().unwrap();
    let mut resolver = resolver();
    assert!(
        names(&mut resolver, &object, &[*first])[0]
            .functions
            .is_ok()
    );
    File::options()
        .write(true)
        .open(&program)
        .unwrap()
        .set_len(100)
        .unwrap();
    for frame in names(&mut resolver, &object, rest) {
        assert_eq!(frame.functions, Err(Reason::Damaged));
    }
    assert!(
        names(&mut resolver, &object, &[*first])[0]
            .functions
            .is_ok(),
        "still in the cache"
    );
}

#[test]
fn a_debuglink_file_names_a_stripped_object() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile(folder.path());
    let returns = return_addresses(&program);
    let truth = lines(&Arc::new(object_of(&program)), &returns);
    let stripped = objcopy::strip_with_link(&program, &folder.path().join("program.debug"));
    assert_eq!(lines(&Arc::new(object_of(&stripped)), &returns), truth);

    // In the folder `.debug`, and through a descriptor of the deleted object.
    let hidden = folder.path().join(".debug");
    fs::create_dir(&hidden).unwrap();
    fs::rename(
        folder.path().join("program.debug"),
        hidden.join("program.debug"),
    )
    .unwrap();
    let object = Arc::new(object_of(&stripped));
    fs::remove_file(&stripped).unwrap();
    assert_eq!(lines(&object, &returns), truth);
}

#[test]
fn a_debug_file_that_is_not_the_objects_own_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile(folder.path());
    let returns = return_addresses(&program);
    let debug = folder.path().join("program.debug");
    let stripped = objcopy::strip_with_link(&program, &debug);
    let mut bytes = fs::read(&debug).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&debug, bytes).unwrap();

    let found = lines(&Arc::new(object_of(&stripped)), &returns);
    assert!(found.iter().flatten().all(|line| line.place.is_none()));
    let exported = found
        .iter()
        .flatten()
        .filter(|line| line.function == "exported");
    assert!(
        exported.count() > 0,
        "the dynamic symbols are still there: {found:?}"
    );
}

#[test]
fn damaged_debug_information_takes_nothing_away() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile(folder.path());
    let returns = return_addresses(&program);
    let debug = folder.path().join("program.debug");
    for seed in 0..40_u64 {
        let stripped = objcopy::strip_with_damaged_link(&program, &debug, seed);
        let found = lines(&Arc::new(object_of(&stripped)), &returns);
        let exported = found
            .iter()
            .flatten()
            .filter(|line| line.function == "exported");
        assert!(exported.count() > 0, "seed {seed}: {found:?}");
    }
}

#[test]
fn what_cannot_be_named_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let stripped = objcopy::strip_all(&compile(folder.path()));
    assert_eq!(reason(object_of(&stripped)), Reason::Stripped);

    let text = folder.path().join("text");
    fs::write(&text, "no ELF file at all").unwrap();
    assert_eq!(reason(object_of(&text)).to_string(), "not an ELF file");
    let gone = reason(object_of(Path::new("/no/such/file"))).to_string();
    assert!(gone.starts_with("cannot be opened: No such file"), "{gone}");

    // Shortened after its headers were read.
    let object = object_of(&stripped);
    File::options()
        .write(true)
        .open(&stripped)
        .unwrap()
        .set_len(64)
        .unwrap();
    assert_eq!(reason(object), Reason::Damaged);

    let object = Arc::new(object_of(&text));
    let frames = names(
        &mut resolver(),
        &object,
        &[frame(8, 0x10), FRAME_PYTHON | 5],
    );
    assert_eq!(frames[0].functions, Err(Reason::ObjectUnknown));
    assert_eq!(frames[1].functions, Err(Reason::Gone(Gone::StackLate)));
}

#[test]
fn the_vdso_is_named_from_a_memory_file() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.ends_with("[vdso]")).unwrap();
    let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
    let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
    let mut image = vec![0; usize::try_from(end - start).unwrap()];
    let mut memory = File::open("/proc/self/mem").unwrap();
    memory.seek(SeekFrom::Start(start)).unwrap();
    memory.read_exact(&mut image).unwrap();
    let descriptor =
        nix::sys::memfd::memfd_create(c"vdso", nix::sys::memfd::MFdFlags::empty()).unwrap();
    let mut file = File::from(descriptor);
    file.write_all(&image).unwrap();

    let elf = object::File::parse(&*image).unwrap();
    let gettime = elf
        .dynamic_symbols()
        .find(|symbol| symbol.name() == Ok("__vdso_clock_gettime"))
        .unwrap();
    let path = PathBuf::from("[vdso]");
    let object = Arc::new(Object::new(ID, FileKey::default(), path, Ok(file)));
    let inside = u32::try_from(gettime.address() + gettime.size() / 2).unwrap();
    let frames = names(&mut resolver(), &object, &[frame(ID.0, inside)]);
    let name = &frames[0].functions.as_ref().unwrap()[0].name;
    assert!(name.contains("clock_gettime"), "{name}");
}

#[test]
fn a_file_of_another_mount_namespace_is_named_after_its_process_died() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = compile(folder.path());
    let returns = return_addresses(&program);
    let truth = lines(&Arc::new(object_of(&program)), &returns);
    let script = format!(
        "mount -t tmpfs none /mnt && cp {} /mnt/inside && echo ready && exec sleep 100",
        program.display()
    );
    let mut child = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 5];
    child.stdout.take().unwrap().read_exact(&mut ready).unwrap();
    let mut object = object_of(Path::new(&format!("/proc/{}/root/mnt/inside", child.id())));
    object.path = PathBuf::from("/mnt/inside");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!Path::new("/mnt/inside").exists());
    assert_eq!(lines(&Arc::new(object), &returns), truth);
}

#[test]
fn a_second_question_is_answered_from_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile(folder.path());
    let object = Arc::new(object_of(&program));
    let words = words(&object, &return_addresses(&program));
    let mut resolver = resolver();
    let first = names(&mut resolver, &object, &words);
    let second = names(&mut resolver, &object, &words);
    assert_eq!(format!("{first:?}"), format!("{second:?}"));
    let counts = resolver.counts().names;
    assert_eq!(counts.hits, counts.misses);
    assert!(counts.hits > 0);
}

#[test]
fn a_symbolizer_at_its_limit_starts_anew_and_says_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let program = compile(folder.path());
    let returns = return_addresses(&program);
    let object = Arc::new(object_of(&program));
    let objects: HashMap<_, _> = (0..5)
        .map(|id| {
            (
                ObjectId(id),
                Arc::new(oracle::numbered(ObjectId(id), &program)),
            )
        })
        .collect();
    let stacks: Vec<Stack> = (0..5)
        .map(|id| Stack {
            frames: words(&object, &returns)
                .iter()
                .map(|word| word - frame(ID.0, 0) + frame(id, 0))
                .collect(),
            ..Stack::default()
        })
        .collect();
    let mut tight = Resolver::new(ResolveOptions {
        cache_bytes: Bytes(1 << 10),
        symbol_bytes: Bytes(1),
    });
    let names = tight.resolve(&stacks, &objects);
    let truth = lines(&object, &returns);
    for stack in &stacks {
        let found: Vec<_> = named(&names, stack, &objects)
            .iter()
            .map(Line::all_of)
            .collect();
        assert_eq!(found, truth);
    }
    assert_eq!(tight.counts().symbolizer_restarts, 4);
    assert!(tight.counts().names.dropped > 0);
}
