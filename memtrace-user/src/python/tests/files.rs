//! Files that are damaged, or look like what they are not.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::processes::object_of;
use crate::python::{Refusal, image};

/// Words of `_Py_DebugOffsets` by their positions, as 3.13.0 fills it.
const OFFSETS: [(usize, u64); 16] = [
    (40, 632),
    (64, 7264),
    (72, 7344),
    (168, 8),
    (176, 16),
    (184, 72),
    (192, 152),
    (232, 8),
    (248, 56),
    (264, 70),
    (280, 112),
    (288, 120),
    (296, 128),
    (304, 136),
    (312, 68),
    (344, 200),
];
/// `unicode_object.asciiobject_size`
const ASCII_SIZE: (usize, u64) = (560, 40);
const VERSION_3_13: u64 = 0x030d_00f0;

/// A file with the names of a CPython and the record that 3.13 and newer begin with.
fn with_record(
    folder: &Path,
    version: u64,
    free_threaded: u64,
    offsets: &[(usize, u64)],
) -> PathBuf {
    let mut words = vec![0; 111];
    words[0] = u64::from_le_bytes(*b"xdebugpy");
    (words[1], words[2]) = (version, free_threaded);
    for (position, offset) in offsets {
        words[position / 8] = *offset;
    }
    let words: Vec<String> = words.iter().map(|word| format!("{word:#x}ul")).collect();
    let text = format!(
        "__attribute__((section(\".PyRuntime\"))) unsigned long _PyRuntime[] = {{{}}};
        long PyCode_Type[99] = {{1}};
        int _PyEval_EvalFrameDefault(int a) {{ return a * 3; }}
        int main(void) {{ return 0; }}",
        words.join(",")
    );
    compiled(folder, &text, &["-O1"])
}

fn written(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("file");
    fs::write(&path, bytes).unwrap();
    path
}

fn compiled(folder: &Path, text: &str, flags: &[&str]) -> PathBuf {
    let (source, path) = (folder.join("made.c"), folder.join("made"));
    fs::write(&source, text).unwrap();
    let status = Command::new("gcc")
        .args(flags)
        .arg("-o")
        .args([&path, &source])
        .status();
    assert!(status.unwrap().success());
    path
}

#[test]
fn published_offsets_are_taken_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let find = |version, free_threaded, offsets: &[(usize, u64)]| {
        let file = with_record(folder.path(), version, free_threaded, offsets);
        image::find(&object_of(&file)).unwrap()
    };
    let mut offsets = OFFSETS.to_vec();
    offsets.push(ASCII_SIZE);
    let image = find(VERSION_3_13, 0, &offsets).unwrap();
    assert_eq!(image.version.to_string(), "3.13.0");
    let record = image.layout.record().unwrap();
    assert_eq!((record.state_frame, record.state_thread_id), (72, 152));
    assert_eq!(
        (record.code, record.previous, record.instr, record.boundary),
        (0, 8, 56, 70)
    );
    assert_eq!((record.record_size, record.bytecode), (72, 200));
    let code = image.layout.code;
    assert_eq!((code.filename, code.name, code.first_line), (112, 120, 68));
    assert_eq!((code.ascii_text, code.wide_text), (40, 56));

    let refusal = find(VERSION_3_13, 1, &offsets).unwrap_err();
    let words = "CPython 3.13.0, free-threaded: Python frames need a build with the GIL";
    assert_eq!(refusal.to_string(), words);
    for (position, _) in OFFSETS {
        let mut damaged = offsets.clone();
        damaged.push((position, 1 << 40));
        let refusal = find(VERSION_3_13, 0, &damaged).unwrap_err();
        assert!(
            matches!(refusal, Refusal::Offsets { .. }),
            "{position}: {refusal}"
        );
    }
    // Frames larger than what the walk reads.
    offsets.push((264, 4000));
    let refusal = find(VERSION_3_13, 0, &offsets).unwrap_err();
    assert!(matches!(refusal, Refusal::Offsets { .. }), "{refusal}");
}

/// A version that is not known yet has the newest record that is.
#[test]
fn what_is_newer_is_tried_as_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let moved = |(position, offset): (usize, u64)| {
        let position = match position {
            ..=72 => position,
            192 => 240,
            168..=184 => position + 24,
            232..=264 => position + 88,
            280..=344 => position + 104,
            _ => 736,
        };
        (position, offset)
    };
    let offsets: Vec<_> = OFFSETS.into_iter().chain([ASCII_SIZE]).map(moved).collect();
    let file = with_record(folder.path(), 0x0310_00a1, 0, &offsets);
    let newer = image::find(&object_of(&file)).unwrap().unwrap();
    assert_eq!(newer.version.to_string(), "3.16.0");
    let file = with_record(
        folder.path(),
        VERSION_3_13,
        0,
        &[&OFFSETS[..], &[ASCII_SIZE]].concat(),
    );
    assert_eq!(
        newer.layout,
        image::find(&object_of(&file)).unwrap().unwrap().layout
    );
}

#[test]
fn damage_is_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let made = with_record(folder.path(), VERSION_3_13, 0, &OFFSETS);
    for file in [made, "/usr/bin/python3".into()] {
        let good = fs::read(&file).unwrap();
        let mut harmed = 0;
        for step in 0..100 {
            let mut bytes = good.clone();
            // The head has the tables of segments; the tables of symbols and sections are further on.
            for number in 0..20 {
                let place = (step * 7919 + number * 104_729) % (16 << 10).min(good.len());
                bytes[place] ^= (step + number) as u8 | 1;
            }
            let found = image::find(&object_of(&written(folder.path(), &bytes)));
            harmed += usize::from(!matches!(found, Some(Ok(_))));
        }
        assert!(harmed > 0, "{}", file.display());
        for size in [0, 16, 64, 4096, good.len() / 3, good.len() - 1] {
            let _any = image::find(&object_of(&written(folder.path(), &good[..size])));
        }
    }
}

#[test]
fn a_section_or_a_name_alone_is_no_interpreter() {
    let folder = tempfile::tempdir().unwrap();
    let section = r#"__attribute__((section(".PyRuntime"))) char data[900] = "xdebugpy"; int main(void) { return data[0]; }"#;
    let program = compiled(folder.path(), section, &["-O1"]);
    let refusal = image::find(&object_of(&program)).unwrap().unwrap_err();
    // The cookie's version is 0.0.
    assert!(
        matches!(refusal, Refusal::TooOld(_) | Refusal::UnknownVersion),
        "{refusal}"
    );
    let names = "long _PyRuntime[99], PyCode_Type[99]; int main(void) { return _PyRuntime[1] + PyCode_Type[1]; }";
    let program = compiled(folder.path(), names, &["-O1"]);
    assert!(image::find(&object_of(&program)).is_none());
    let both = "long _PyRuntime[99], PyCode_Type[99]; void _PyEval_EvalFrameDefault(void) {} int main(void) { return 0; }";
    let program = compiled(folder.path(), both, &["-O1"]);
    let refusal = image::find(&object_of(&program)).unwrap().unwrap_err();
    assert_eq!(refusal, Refusal::UnknownVersion);
    let stripped = r#"__attribute__((section(".PyRuntime"))) long data[99] = {1}; int main(void) { return data[0]; }"#;
    let program = compiled(folder.path(), stripped, &["-O1", "-s"]);
    assert_eq!(
        image::find(&object_of(&program)).unwrap().unwrap_err(),
        Refusal::UnknownVersion
    );
}

#[test]
fn pypy_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let library = compiled(
        folder.path(),
        "int pypy_main_startup(void) { return 1; }",
        &["-shared", "-fPIC"],
    );
    let refusal = image::find(&object_of(&library)).unwrap().unwrap_err();
    assert_eq!(refusal.to_string(), "PyPy: Python frames need CPython");
}
