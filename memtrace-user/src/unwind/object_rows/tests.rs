//! Damage of every kind: nothing panics, nothing grows without bound, and what comes out keeps its form.

use std::{fs::File, os::unix::fs::FileExt, sync::LazyLock};

use memtrace_common::{
    limits::ROW_SEARCH_STEPS,
    unwind::{FileKey, row_rel},
};
use object::{Object as _, ObjectSection as _};
use proptest::prelude::*;

use super::*;
use crate::ids::ObjectId;

/// A small program: it is built thousands of times.
static VICTIM: LazyLock<Vec<u8>> = LazyLock::new(|| std::fs::read("/bin/true").unwrap());

/// Where damage does most: headers, section table, unwind information, symbols.
static WEAK_SPOTS: LazyLock<Vec<std::ops::Range<usize>>> = LazyLock::new(|| {
    let file = object::read::elf::ElfFile64::<object::LittleEndian>::parse(&VICTIM[..]).unwrap();
    let names = [
        ".eh_frame",
        ".eh_frame_hdr",
        ".dynsym",
        ".shstrtab",
        ".note.gnu.build-id",
        ".text",
    ];
    let sections = names
        .iter()
        .filter_map(|name| file.section_by_name(name)?.file_range());
    let sections = sections.map(|(start, size)| start as usize..(start + size) as usize);
    [0..64, 64..1024, VICTIM.len() - 2048..VICTIM.len()]
        .into_iter()
        .chain(sections)
        .collect()
});

fn open(bytes: &[u8]) -> Object {
    let file: File = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    Object::new(ObjectId(1), FileKey::default(), "victim".into(), Ok(file))
}

/// What holds for every object, however damaged.
fn assert_well_formed(built: &ObjectRows) {
    assert!(
        built
            .rows
            .windows(2)
            .all(|pair| row_rel(pair[0]) < row_rel(pair[1]))
    );
    for &entry in &built.pages {
        let (lo, hi) = (entry as u32 as usize, (entry >> 32) as usize);
        assert!(lo <= hi && hi <= built.rows.len() && hi - lo < 1 << ROW_SEARCH_STEPS);
    }
}

#[derive(Debug, Clone)]
enum Damage {
    /// A byte of a weak spot gets another value.
    Byte(prop::sample::Index, prop::sample::Index, u8),
    /// Eight bytes of a weak spot become a number that overflows something.
    Number(prop::sample::Index, prop::sample::Index, u64),
    /// The file ends early.
    Truncated(prop::sample::Index),
}

fn any_damage() -> impl Strategy<Value = Damage> {
    let numbers = prop::sample::select(vec![
        0,
        1,
        7,
        u64::MAX,
        u64::MAX - 7,
        1 << 31,
        1 << 32,
        1 << 63,
        u64::MAX / 56,
    ]);
    prop_oneof![
        8 => (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>())
            .prop_map(|(spot, at, byte)| Damage::Byte(spot, at, byte)),
        3 => (any::<prop::sample::Index>(), any::<prop::sample::Index>(), numbers)
            .prop_map(|(spot, at, number)| Damage::Number(spot, at, number)),
        1 => any::<prop::sample::Index>().prop_map(Damage::Truncated),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    let place = |spot: &prop::sample::Index, at: &prop::sample::Index| {
        let spot = spot.get(&WEAK_SPOTS);
        spot.start + at.index(spot.len())
    };
    match damage {
        Damage::Byte(spot, at, byte) => {
            if let Some(place) = bytes.get_mut(place(spot, at)) {
                *place = *byte;
            }
        }
        Damage::Number(spot, at, number) => {
            let place = place(spot, at);
            if let Some(place) = bytes.get_mut(place..place + 8) {
                place.copy_from_slice(&number.to_le_bytes());
            }
        }
        Damage::Truncated(at) => {
            let len = at.index(bytes.len() + 1);
            bytes.truncate(len);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn no_damage_panics(damages in prop::collection::vec(any_damage(), 1..20)) {
        let mut bytes = VICTIM.clone();
        damages.iter().for_each(|damage| apply(&mut bytes, damage));
        if let Ok(built) = ObjectRows::build(&open(&bytes)) {
            assert_well_formed(&built);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        let bytes = [&VICTIM[..64], &bytes].concat();
        if let Ok(built) = ObjectRows::build(&open(&bytes)) {
            assert_well_formed(&built);
        }
    }
}
