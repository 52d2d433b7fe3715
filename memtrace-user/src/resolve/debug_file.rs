//! Finds the separate file that holds an object's debug information.
//!
//! Two ways, as gdb documents them ("Separate Debug Files"): by build id, under `/usr/lib/debug/.build-id`; and by the
//! name in the section `.gnu_debuglink`, beside the file, in its `.debug` folder and under `/usr/lib/debug`. A file
//! counts only when it proves to belong to the object: by the same build id, or by the checksum in the link.
//! Everything is opened once, and the descriptor that was checked is the one that is used.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use object::{
    Object as _, ObjectSection as _,
    read::{ReadCache, ReadRef},
};

use super::reason::Reason;

/// Where distributions install debug files.
const DEBUG_DIRS: [&str; 1] = ["/usr/lib/debug"];

/// The largest file that is read whole to check its sum. Reading is a gigabyte a second; nothing known is larger.
const MAX_LINKED: u64 = 8 << 30;

/// What an object says of its own symbols.
#[derive(Debug, Default)]
pub(super) struct SymbolFacts {
    /// It has DWARF itself.
    pub(super) has_dwarf: bool,
    /// Name and CRC-32 of the file that has.
    link: Option<(PathBuf, u32)>,
    build_id: Option<Vec<u8>>,
}

impl SymbolFacts {
    /// Reads an object's section headers through a descriptor.
    pub(super) fn read(file: &File) -> Result<Self, Reason> {
        // A descriptor of its own: reading moves the file's position.
        let file = File::open(fd_path(file)).map_err(|error| Reason::from(&error))?;
        Self::parse(&ReadCache::new(file)).map_err(|_damaged| Reason::Damaged)
    }

    fn parse<'data>(data: impl ReadRef<'data>) -> object::Result<Self> {
        let elf = object::File::parse(data)?;
        let has_dwarf = elf
            .section_by_name(".debug_info")
            .is_some_and(|section| section.size() > 0);
        // A link that cannot be read is no link.
        let link = elf.gnu_debuglink().ok().flatten();
        Ok(Self {
            has_dwarf,
            link: link
                .map(|(name, crc)| (PathBuf::from(String::from_utf8_lossy(name).as_ref()), crc)),
            build_id: elf.build_id()?.map(<[u8]>::to_vec),
        })
    }
}

/// The path by which an open file can be opened again, whatever became of its name.
pub(super) fn fd_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The debug file of an object that lies, or lay, at `path`.
pub(super) fn find(file: &File, path: &Path, facts: &SymbolFacts) -> Option<Arc<File>> {
    by_build_id(facts)
        .or_else(|| by_link(file, path, facts))
        .map(Arc::new)
}

fn by_build_id(facts: &SymbolFacts) -> Option<File> {
    let build_id = facts
        .build_id
        .as_deref()
        .filter(|build_id| build_id.len() > 1)?;
    let hex: String = build_id.iter().map(|byte| format!("{byte:02x}")).collect();
    let (folder, name) = hex.split_at(2);
    DEBUG_DIRS.iter().find_map(|dir| {
        let file = File::open(format!("{dir}/.build-id/{folder}/{name}.debug")).ok()?;
        let found = SymbolFacts::read(&file).ok()?;
        (found.build_id.as_deref() == Some(build_id)).then_some(file)
    })
}

fn by_link(file: &File, path: &Path, facts: &SymbolFacts) -> Option<File> {
    let (name, crc) = facts.link.as_ref()?;
    // The name alone: a link never leads elsewhere.
    let name = Path::new(name.file_name()?);
    let real = std::fs::read_link(fd_path(file)).ok();
    [real.as_deref(), Some(path)]
        .into_iter()
        .flatten()
        .filter_map(Path::parent)
        .filter(|folder| folder.is_absolute())
        .flat_map(|folder| link_candidates(folder, name))
        .find_map(|candidate| {
            let file = File::open(candidate).ok()?;
            (checksum(&file).ok()? == *crc).then_some(file)
        })
}

fn link_candidates(folder: &Path, name: &Path) -> Vec<PathBuf> {
    let mut candidates = vec![folder.join(name), folder.join(".debug").join(name)];
    let relative = folder.strip_prefix("/").unwrap_or(folder);
    candidates.extend(
        DEBUG_DIRS
            .iter()
            .map(|dir| Path::new(dir).join(relative).join(name)),
    );
    candidates
}

/// CRC-32 of a whole file.
fn checksum(file: &File) -> io::Result<u32> {
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > MAX_LINKED {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    let mut file = file;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize()),
            count => hasher.update(&buffer[..count]),
        }
    }
}
