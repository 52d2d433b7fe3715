use std::{io::Write, os::fd::AsRawFd, process::Command};

use super::*;

fn own_pid() -> Pid {
    Pid(std::process::id())
}

fn own_mapping(wanted: impl Fn(&Mapping) -> bool) -> Mapping {
    maps::read(own_pid())
        .unwrap()
        .into_iter()
        .find(wanted)
        .expect("the mapping")
}

fn is_libc_text(mapping: &Mapping) -> bool {
    mapping.access.execute && mapping.path.ends_with("libc.so.6")
}

/// A mapped file of this process that has no name any more.
fn map_and_delete(contents: &[u8]) -> (memmap2::Mmap, Mapping) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(contents).unwrap();
    // SAFETY: nobody else has the file.
    let map = unsafe { memmap2::Mmap::map(file.as_file()).unwrap() };
    drop(file);
    let addr = map.as_ptr() as u64;
    (map, own_mapping(|mapping| mapping.start == addr))
}

#[test]
fn a_file_is_opened_once_and_has_one_number() {
    let mut store = ObjectStore::new(10);
    let libc = own_mapping(is_libc_text);
    let object = store.object_of(own_pid(), &libc).unwrap();
    assert_eq!(object.id, ObjectId(1));
    assert!(Arc::ptr_eq(
        &object,
        &store.object_of(own_pid(), &libc).unwrap()
    ));
    assert!(Arc::ptr_eq(&object, store.get(ObjectId(1)).unwrap()));
    assert!(store.get(ObjectId(0)).is_none() && store.get(ObjectId(2)).is_none());
}

#[test]
fn facts_of_libc_are_those_readelf_prints() {
    let mut store = ObjectStore::new(10);
    let object = store
        .object_of(own_pid(), &own_mapping(is_libc_text))
        .unwrap();
    let notes = Command::new("readelf")
        .arg("-n")
        .arg(&object.path)
        .output()
        .unwrap()
        .stdout;
    let build_id: String = object
        .build_id()
        .unwrap()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert!(String::from_utf8_lossy(&notes).contains(&format!("Build ID: {build_id}")));
    let headers = Command::new("readelf")
        .arg("-lW")
        .arg(&object.path)
        .output()
        .unwrap()
        .stdout;
    let (_, elf) = object.contents().unwrap();
    let text = elf.code().next().unwrap();
    let expected = format!(
        "LOAD           {0:#08x} {1:#018x} {1:#018x} {2:#08x}",
        text.file_off, text.rel, text.file_size
    );
    assert!(
        String::from_utf8_lossy(&headers).contains(&expected),
        "{expected}"
    );
}

#[test]
fn a_deleted_file_is_reached() {
    let (map, mapping) = map_and_delete(&std::fs::read("/bin/true").unwrap());
    assert!(
        mapping
            .path
            .as_os_str()
            .to_string_lossy()
            .ends_with(" (deleted)")
    );
    let mut store = ObjectStore::new(10);
    let object = store.object_of(own_pid(), &mapping).unwrap();
    assert!(object.elf.is_ok());
    let mut bytes = vec![0; map.len()];
    object.file().unwrap().read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes[..], &map[..]);
}

#[test]
fn what_is_no_elf_file_is_an_object_with_a_reason() {
    let mut store = ObjectStore::new(10);
    for (contents, reason) in [
        (&b"just some text, long enough to hold a header of an ELF file if it were one, which it is not"[..], Unusable::NotElf),
        (b"\x7fELF", Unusable::NotElf),
    ] {
        let (_map, mapping) = map_and_delete(contents);
        let object = store.object_of(own_pid(), &mapping).unwrap();
        assert_eq!(object.elf.as_ref().unwrap_err(), &reason);
        assert!(object.file().is_some(), "the inode must stay taken");
    }
}

#[test]
fn a_file_of_a_process_that_is_gone_is_tried_again() {
    let mut store = ObjectStore::new(10);
    let (_map, mapping) = map_and_delete(&std::fs::read("/bin/true").unwrap());
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let gone = store.object_of(Pid(child.id()), &mapping).unwrap();
    assert!(gone.is_unopened() && gone.file().is_none());
    let found = store.object_of(own_pid(), &mapping).unwrap();
    assert!(found.elf.is_ok());
    assert_ne!(
        gone.id, found.id,
        "frames that carry the old number must not change their meaning"
    );
    assert!(Arc::ptr_eq(store.get(gone.id).unwrap(), &gone));
}

#[test]
fn a_full_store_refuses_and_counts() {
    let mut store = ObjectStore::new(1);
    store
        .object_of(own_pid(), &own_mapping(is_libc_text))
        .unwrap();
    let (_map, mapping) = map_and_delete(b"x");
    assert!(store.object_of(own_pid(), &mapping).is_none());
    assert_eq!(store.refused(), 1);
}

#[test]
fn the_vdso_is_one_object_with_a_file() {
    let mut store = ObjectStore::new(10);
    let vdso = own_mapping(|mapping| mapping.backing() == Backing::Vdso);
    let object = store.object_of(own_pid(), &vdso).unwrap();
    let (image, elf) = object.contents().unwrap();
    assert!(elf.section(b".eh_frame").is_some() || elf.eh_frame_hdr.is_some());
    let mapped = image.file().metadata().unwrap().len();
    assert_eq!(mapped, vdso.end - vdso.start);
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = Pid(child.id());
    let other = wait_for(|| {
        maps::read(pid)
            .ok()?
            .into_iter()
            .find(|mapping| mapping.backing() == Backing::Vdso)
    });
    assert!(Arc::ptr_eq(&object, &store.object_of(pid, &other).unwrap()));
    child.kill().unwrap();
    child.wait().unwrap();
}

fn wait_for<T>(mut poll: impl FnMut() -> Option<T>) -> T {
    for _ in 0..1000 {
        if let Some(found) = poll() {
            return found;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("nothing came");
}

#[test]
fn a_file_by_name_is_compared_with_what_is_mapped() {
    let libc = own_mapping(is_libc_text);
    let file = File::open(&libc.path).unwrap();
    assert_eq!(key_as_mapped(&file).unwrap(), libc.key);
    // Where `map_files` has no entry the name is tried, and a wrong file is not taken for the mapped one.
    let moved = Mapping {
        start: 0x1000,
        end: 0x2000,
        ..libc.clone()
    };
    assert!(open_mapped(own_pid(), &moved).is_ok());
    let replaced = Mapping {
        key: FileKey {
            ino: libc.key.ino + 1,
            ..libc.key
        },
        ..moved
    };
    assert!(matches!(
        open_mapped(own_pid(), &replaced),
        Err(Unusable::Unopened(_))
    ));
}

#[test]
fn a_device_is_not_opened() {
    assert_eq!(
        open_regular(Path::new("/dev/null")).unwrap_err(),
        Unusable::NotRegular
    );
}

#[test]
fn the_descriptor_limit_is_raised() {
    let objects = raise_descriptor_limit().unwrap();
    let (soft, hard) = resource::getrlimit(resource::Resource::RLIMIT_NOFILE).unwrap();
    assert!(soft >= (objects as u64 + OTHER_DESCRIPTORS).min(hard));
    assert!(File::open("/dev/null").unwrap().as_raw_fd() > 0);
}
