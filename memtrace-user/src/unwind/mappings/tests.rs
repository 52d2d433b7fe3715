use std::{collections::BTreeMap, ffi::CStr, fs::File, path::PathBuf};

use memtrace_common::unwind::FileKey;
use proptest::prelude::*;

use super::*;
use crate::{
    ids::ObjectId,
    target::{
        elf::PAGE_SIZE,
        maps::{self, Access},
        store::MAX_OBJECTS,
    },
};

fn own_list() -> (MappingList, ObjectStore) {
    let pid = Pid(std::process::id());
    let mut store = ObjectStore::new(MAX_OBJECTS);
    let mut tables = Tables::new(vec![0; 1 << 20], vec![0; 1 << 18]);
    let list = list(pid, &maps::read(pid).unwrap(), &mut store, &mut tables);
    (list, store)
}

/// Load address of every object, by the dynamic linker.
fn load_addresses() -> BTreeMap<u64, PathBuf> {
    unsafe extern "C" fn collect(
        info: *mut libc::dl_phdr_info,
        _: usize,
        out: *mut libc::c_void,
    ) -> i32 {
        // SAFETY: the dynamic linker hands valid objects to its callback; `out` is the map below.
        let (info, out) = unsafe { (&*info, &mut *out.cast::<BTreeMap<u64, PathBuf>>()) };
        // SAFETY: `dlpi_name` is a C string.
        let name = unsafe { CStr::from_ptr(info.dlpi_name) };
        out.insert(info.dlpi_addr, name.to_string_lossy().as_ref().into());
        0
    }
    let mut out = BTreeMap::new();
    // SAFETY: the callback matches the type of the pointer it is given.
    unsafe { libc::dl_iterate_phdr(Some(collect), (&raw mut out).cast()) };
    out
}

/// All objects of this process are position-independent and begin at address 0, so the bias is the load address.
/// The test program itself is linked by lld, whose code shares a page of the file with read-only data.
#[test]
fn the_bias_is_the_dynamic_linkers_load_address() {
    let (list, store) = own_list();
    let loads = load_addresses();
    assert!(loads.len() >= 4, "{loads:?}");
    for entry in list.entries.iter().filter(|entry| entry.object != 0) {
        let object = store.get(ObjectId(entry.object)).unwrap();
        assert!(
            loads.contains_key(&entry.bias),
            "{} at {:#x}",
            object.path.display(),
            entry.bias
        );
        assert!(entry.page_count > 0, "{}", object.path.display());
    }
    let own = std::env::current_exe().unwrap();
    assert!(list.entries.iter().any(|entry| {
        store
            .get(ObjectId(entry.object))
            .is_some_and(|object| object.path == own)
    }));
}

#[test]
fn an_address_has_the_rel_of_its_symbol() {
    let (list, store) = own_list();
    for name in [c"malloc", c"qsort", c"printf"] {
        // SAFETY: the name is a C string; the answer is only looked at.
        let addr = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) } as u64;
        let entry = list
            .entries
            .iter()
            .find(|entry| (entry.start..entry.end).contains(&addr))
            .unwrap();
        let object = store.get(ObjectId(entry.object)).unwrap();
        let (image, elf) = object.contents().unwrap();
        let rel = (addr - entry.bias) as u32;
        assert!(
            elf.functions(image)
                .iter()
                .any(|function| function.rel == rel),
            "{name:?}"
        );
    }
}

#[test]
fn memory_with_generated_code_has_no_object_but_a_reason() {
    let protection = nix::sys::mman::ProtFlags::PROT_READ | nix::sys::mman::ProtFlags::PROT_EXEC;
    let flags = nix::sys::mman::MapFlags::MAP_PRIVATE;
    let length = std::num::NonZeroUsize::new(PAGE_SIZE as usize).unwrap();
    // SAFETY: a new mapping that nobody else knows.
    let page = unsafe { nix::sys::mman::mmap_anonymous(None, length, protection, flags).unwrap() };
    let (list, _) = own_list();
    let addr = page.as_ptr() as u64;
    let entry = list
        .entries
        .iter()
        .find(|entry| (entry.start..entry.end).contains(&addr))
        .unwrap();
    assert_eq!(
        (entry.object, entry.page_count, entry.reason),
        (0, 0, CUT_NO_MAPPING.into())
    );
    // SAFETY: the mapping made above, which holds nothing.
    unsafe { nix::sys::mman::munmap(page, PAGE_SIZE as usize).unwrap() };
}

fn memory(start: u64, end: u64) -> Mapping {
    Mapping {
        start,
        end,
        access: Access {
            read: true,
            execute: true,
            ..Access::default()
        },
        offset: 0,
        key: FileKey::default(),
        path: PathBuf::new(),
    }
}

fn of_file(start: u64, end: u64) -> wire::Mapping {
    wire::Mapping {
        start,
        end,
        object: 1,
        bias: start,
        ..wire::Mapping::default()
    }
}

proptest! {
    #[test]
    fn joining_changes_no_answer(pieces in prop::collection::vec((0u64..3, 1u64..4), 0..50)) {
        let mut at = 0;
        let entries: Vec<_> = pieces.iter().map(|&(hole, size)| {
            let start = at + hole;
            at = start + size;
            without_object(&memory(start, at))
        }).collect();
        let joined = join(entries.iter().copied());
        prop_assert!(joined.windows(2).all(|pair| pair[0].end < pair[1].start), "neighbours are joined");
        for addr in 0..at + 2 {
            let covers = |entry: &&wire::Mapping| (entry.start..entry.end).contains(&addr);
            prop_assert_eq!(entries.iter().any(|entry| covers(&entry)), joined.iter().any(|entry| covers(&entry)));
        }
    }

    #[test]
    fn the_list_is_bounded_and_counts(files in 0usize..5000, holes in 0usize..3000) {
        let mut entries: Vec<_> = (0..files as u64).map(|number| of_file(number * 10, number * 10 + 5)).collect();
        entries.extend((0..holes as u64).map(|number| without_object(&memory(number * 10 + 100_000, number * 10 + 100_005))));
        let list = bound(entries);
        prop_assert!(list.entries.len() <= MAX_MAPPINGS);
        prop_assert_eq!(list.entries.len() + list.left_out, files + holes);
        let kept_files = list.entries.iter().filter(|entry| entry.object != 0).count();
        prop_assert_eq!(kept_files, files.min(MAX_MAPPINGS));
    }
}

/// A file whose code segment shares its first page with data, twice as far away in memory.
#[test]
fn a_page_that_data_and_code_share_belongs_to_code() {
    let own = std::env::current_exe().unwrap();
    let object = Object::new(
        ObjectId(1),
        FileKey::default(),
        own.clone(),
        Ok(File::open(own).unwrap()),
    );
    let (_, elf) = object.contents().unwrap();
    let text = *elf.code().next().unwrap();
    assert_ne!(
        text.file_off % PAGE_SIZE,
        0,
        "this test needs a program linked by lld"
    );
    let page = text.file_off / PAGE_SIZE * PAGE_SIZE;
    let mapping = Mapping {
        offset: page,
        ..memory(0x5555_0000_0000, 0x5555_0000_0000 + PAGE_SIZE)
    };
    let rel_of_text = 0x5555_0000_0000 + text.file_off % PAGE_SIZE - bias(&mapping, elf).unwrap();
    assert_eq!(rel_of_text, text.rel);
}
