use std::os::unix::ffi::OsStrExt;

use proptest::prelude::*;

use super::*;

/// Prints a mapping as `show_map_vma` does: the path starts at column 73 or one space behind the inode.
fn print(mapping: &Mapping) -> Vec<u8> {
    let access = mapping.access;
    let flag = |on: bool, letter: char| if on { letter } else { '-' };
    let head = format!(
        "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {} ",
        mapping.start,
        mapping.end,
        flag(access.read, 'r'),
        flag(access.write, 'w'),
        flag(access.execute, 'x'),
        if access.shared { 's' } else { 'p' },
        mapping.offset,
        mapping.key.dev >> 20,
        mapping.key.dev & 0xf_ffff,
        mapping.key.ino,
    );
    let mut line = head.into_bytes();
    if !mapping.path.as_os_str().is_empty() {
        line.resize(line.len().max(73), b' ');
        for &byte in mapping.path.as_os_str().as_bytes() {
            match byte {
                b'\n' => line.extend(b"\\012"),
                _ => line.push(byte),
            }
        }
    }
    line.push(b'\n');
    line
}

fn any_path() -> impl Strategy<Value = PathBuf> {
    prop_oneof![
        Just(PathBuf::new()),
        Just(PathBuf::from("[vdso]")),
        Just(PathBuf::from("[anon: a name with spaces]")),
        Just(PathBuf::from("/tmp/a b\nc (deleted)")),
        // Any byte but NUL; a backslash is left out because the kernel does not escape it.
        prop::collection::vec(
            (1u8..=255).prop_filter("backslash", |&byte| byte != b'\\'),
            0..300
        )
        .prop_map(|tail| {
            let mut path = b"/".to_vec();
            path.extend(tail);
            OsString::from_vec(path).into()
        }),
    ]
}

prop_compose! {
    fn any_mapping()(
        start in any::<u64>(),
        size in 1u64..1 << 40,
        bits in any::<[bool; 4]>(),
        offset in any::<u64>(),
        major in 0u64..1 << 12,
        minor in 0u64..1 << 20,
        ino in any::<u64>(),
        path in any_path(),
    ) -> Mapping {
        let start = start.min(u64::MAX - size);
        Mapping {
            start,
            end: start + size,
            access: Access { read: bits[0], write: bits[1], execute: bits[2], shared: bits[3] },
            offset,
            key: FileKey { dev: major << 20 | minor, ino },
            path,
        }
    }
}

proptest! {
    #[test]
    fn what_the_kernel_prints_is_read_back(mappings in prop::collection::vec(any_mapping(), 0..20)) {
        let text: Vec<u8> = mappings.iter().flat_map(print).collect();
        prop_assert_eq!(parse(&text), mappings);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn no_damaged_line_panics(mapping in any_mapping(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut line = print(&mapping);
        let at = at.index(line.len());
        line[at] = byte;
        let _ = parse(&line);
        line.truncate(at);
        let _ = parse(&line);
    }
}

#[test]
fn the_names_in_brackets_are_told_apart_from_files() {
    let text = b"7ffc0000-7ffc2000 r-xp 00000000 00:00 0                          [vdso]\n\
        7ffe0000-7ffe1000 --xp 00000000 00:00 0                          [uprobes]\n\
        55550000-55560000 rw-p 00000000 00:00 0                          [heap]\n\
        55560000-55570000 rwxp 00000000 00:00 0 \n\
        55570000-55580000 r-xp 00001000 fd:01 77                         /tmp/[vdso]\n";
    let backings: Vec<_> = parse(text).iter().map(Mapping::backing).collect();
    assert_eq!(
        backings,
        [
            Backing::Vdso,
            Backing::Uprobes,
            Backing::Memory,
            Backing::Memory,
            Backing::File
        ]
    );
}

#[test]
fn a_process_that_is_gone_is_told_apart() {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    assert!(matches!(read(Pid(child.id())), Err(MapsError::Gone { .. })));
    // A kernel thread: it is there, but has no memory.
    assert!(matches!(read(Pid(2)), Err(MapsError::Gone { .. })));
}

/// The dynamic linker's own view of what is loaded where.
fn loaded_segments() -> Vec<(PathBuf, std::ops::Range<u64>)> {
    unsafe extern "C" fn collect(
        info: *mut libc::dl_phdr_info,
        _: usize,
        out: *mut libc::c_void,
    ) -> i32 {
        // SAFETY: the dynamic linker hands valid objects to its callback; `out` is the vector below.
        let (info, out) = unsafe {
            (
                &*info,
                &mut *out.cast::<Vec<(PathBuf, std::ops::Range<u64>)>>(),
            )
        };
        // SAFETY: `dlpi_name` is a C string, `dlpi_phdr` an array of `dlpi_phnum` headers.
        let (name, headers) = unsafe {
            (
                std::ffi::CStr::from_ptr(info.dlpi_name),
                std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()),
            )
        };
        for header in headers {
            if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0 {
                let start = info.dlpi_addr + header.p_vaddr;
                let path = PathBuf::from(std::ffi::OsStr::from_bytes(name.to_bytes()));
                out.push((path, start..start + header.p_filesz));
            }
        }
        0
    }
    let mut out = Vec::new();
    // SAFETY: the callback matches the type of the pointer it is given.
    unsafe { libc::dl_iterate_phdr(Some(collect), (&raw mut out).cast()) };
    out
}

#[test]
fn own_mappings_agree_with_the_dynamic_linker() {
    let mappings = read(Pid(std::process::id())).unwrap();
    let segments = loaded_segments();
    assert!(segments.len() >= 3, "executable, libc, ld.so at least");
    for (path, segment) in segments {
        let mapping = mappings
            .iter()
            .find(|mapping| mapping.start <= segment.start && segment.end <= mapping.end)
            .unwrap_or_else(|| panic!("{path:?} at {segment:x?} is in no mapping"));
        assert!(mapping.access.execute && mapping.access.read && !mapping.access.write);
        if path.is_absolute() {
            let meta = std::fs::metadata(&path).unwrap();
            assert_eq!(mapping.path, path.canonicalize().unwrap());
            assert_eq!(mapping.key.ino, std::os::unix::fs::MetadataExt::ino(&meta));
        }
    }
}
