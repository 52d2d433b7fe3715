//! All objects of a run: opened once, numbered once, kept.
//!
//! Owns the numbering and the ways to a mapped file. A kept descriptor also keeps the file's inode from being
//! given to another file, so a [`FileKey`] means one file as long as the store lives.

use std::{
    collections::{HashMap, HashSet},
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use memtrace_common::unwind::FileKey;
use nix::sys::{memfd, resource};

use super::{
    maps::{self, Backing, Mapping},
    object::{Object, Unusable},
};
use crate::ids::{ObjectId, Pid};

/// Objects of a run. The probes' map of objects is as large; what comes later has no number.
pub const MAX_OBJECTS: usize = 8192;
/// Descriptors that everything but the store needs.
const OTHER_DESCRIPTORS: u64 = 1024;
/// Bytes of the largest vDSO that is believed; real ones have two pages.
const MAX_VDSO: u64 = 1 << 20;

/// Files by what the kernel calls them, and objects by what frames call them.
#[derive(Debug)]
pub struct ObjectStore {
    by_file: HashMap<(u64, u64), Arc<Object>>,
    vdso: Option<Arc<Object>>,
    /// Object `n` is at `n - 1`.
    all: Vec<Arc<Object>>,
    limit: usize,
    /// Files that got no object, as many as there may be objects.
    refused: HashSet<(u64, u64)>,
}

impl ObjectStore {
    /// An empty store for at most `limit` objects, each of which may hold a descriptor.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            by_file: HashMap::new(),
            vdso: None,
            all: Vec::new(),
            limit: limit.min(MAX_OBJECTS),
            refused: HashSet::new(),
        }
    }

    /// The object behind a mapping of a process: known, or opened now. None when there is no file behind it, and
    /// when the store is full, which is counted.
    pub fn object_of(&mut self, pid: Pid, mapping: &Mapping) -> Option<Arc<Object>> {
        match mapping.backing() {
            Backing::File => self.file_object(pid, mapping),
            // A 32-bit process, whose addresses are all below 4 GiB, is lent other code.
            Backing::Vdso if mapping.start > u64::from(u32::MAX) => self.vdso_object(pid, mapping),
            Backing::Vdso | Backing::Uprobes | Backing::Vsyscall | Backing::Memory => None,
        }
    }

    /// The object behind a path of memtrace's own mount namespace, opened now unless it is known. None when there is no such
    /// file, and when the store is full, which is counted.
    pub fn object_at(&mut self, path: &Path) -> Option<Arc<Object>> {
        let file = File::open(path).ok()?;
        let key = key_as_mapped(&file).ok()?;
        if let Some(known) = self
            .by_file
            .get(&(key.dev, key.ino))
            .filter(|known| !known.is_unopened())
        {
            return Some(known.clone());
        }
        let object = self.add(key, path.to_owned(), Ok(file))?;
        self.by_file.insert((key.dev, key.ino), object.clone());
        Some(object)
    }

    /// An object by its number.
    #[must_use]
    pub fn get(&self, id: ObjectId) -> Option<&Arc<Object>> {
        self.all.get((id.0 as usize).checked_sub(1)?)
    }

    /// All objects, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.all.iter()
    }

    /// Files that got no object because the store was full; not counted beyond [`MAX_OBJECTS`].
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.len() as u64
    }

    fn file_object(&mut self, pid: Pid, mapping: &Mapping) -> Option<Arc<Object>> {
        let key = (mapping.key.dev, mapping.key.ino);
        let known = self.by_file.get(&key).cloned();
        if let Some(object) = &known
            && !object.is_unopened()
        {
            return known;
        }
        let file = open_mapped(pid, mapping);
        if known.is_some() && file.is_err() {
            return known;
        }
        let object = self
            .add(mapping.key, mapping.path.clone(), file)
            .or(known)?;
        self.by_file.insert(key, object.clone());
        Some(object)
    }

    fn vdso_object(&mut self, pid: Pid, mapping: &Mapping) -> Option<Arc<Object>> {
        if self.vdso.is_none() {
            let file =
                copy_vdso(pid, mapping).map_err(|error| Unusable::Unopened(error.to_string()));
            // A process that ended meanwhile; the next one has the same code.
            let file = file.ok()?;
            self.vdso = self.add(FileKey::default(), mapping.path.clone(), Ok(file));
        }
        self.vdso.clone()
    }

    fn add(
        &mut self,
        key: FileKey,
        path: PathBuf,
        file: Result<File, Unusable>,
    ) -> Option<Arc<Object>> {
        if self.all.len() >= self.limit {
            if self.refused.len() < MAX_OBJECTS {
                self.refused.insert((key.dev, key.ino));
            }
            return None;
        }
        let id = ObjectId(self.all.len() as u32 + 1);
        let object = Arc::new(Object::new(id, key, path, file));
        if let Err(reason) = &object.elf {
            log::debug!("{} is of no use: {reason}", object.path.display());
        }
        self.all.push(object.clone());
        Some(object)
    }
}

/// Raises the soft limit on descriptors as far as the store may need and the hard limit allows. Gives the number of
/// objects that can then be kept.
///
/// Children inherit the limit: whoever starts a program for the user restores `RLIMIT_NOFILE` in the child.
pub fn raise_descriptor_limit() -> io::Result<usize> {
    let (soft, hard) = resource::getrlimit(resource::Resource::RLIMIT_NOFILE)?;
    let wanted = (MAX_OBJECTS as u64 + OTHER_DESCRIPTORS).min(hard).max(soft);
    if wanted > soft {
        resource::setrlimit(resource::Resource::RLIMIT_NOFILE, wanted, hard)?;
    }
    Ok(wanted
        .saturating_sub(OTHER_DESCRIPTORS)
        .min(MAX_OBJECTS as u64) as usize)
}

/// Opens the file behind a mapping.
///
/// The way through `map_files` leads to the very file, deleted or in another mount namespace, but needs
/// `CAP_CHECKPOINT_RESTORE` (or `CAP_SYS_ADMIN`). By name one may reach another file that took its place, so what is
/// opened by name is compared.
fn open_mapped(pid: Pid, mapping: &Mapping) -> Result<File, Unusable> {
    let range = format!(
        "/proc/{pid}/map_files/{:x}-{:x}",
        mapping.start, mapping.end
    );
    let reason = match open_regular(Path::new(&range)) {
        Err(Unusable::Unopened(reason)) => reason,
        opened => return opened,
    };
    let inside = mapping.path.strip_prefix("/").unwrap_or(&mapping.path);
    let names = [
        Path::new(&format!("/proc/{pid}/root")).join(inside),
        mapping.path.clone(),
    ];
    names
        .iter()
        .filter(|name| name.is_absolute())
        .filter_map(|name| open_regular(name).ok())
        .find(|file| key_as_mapped(file).is_ok_and(|key| key == mapping.key))
        .ok_or(Unusable::Unopened(reason))
}

/// Opens a regular file and nothing else: opening a device has effects, opening a pipe may wait.
fn open_regular(path: &Path) -> Result<File, Unusable> {
    let unopened = |error: io::Error| Unusable::Unopened(error.to_string());
    if !path.metadata().map_err(unopened)?.is_file() {
        return Err(Unusable::NotRegular);
    }
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(unopened)
}

/// What `/proc/PID/maps` calls a file. `stat` may say otherwise: btrfs and overlayfs give files devices of their own.
/// So one page is mapped and the same question asked in the same words.
fn key_as_mapped(file: &File) -> io::Result<FileKey> {
    // SAFETY: the page is never touched, so nothing that happens to the file can matter.
    let page = unsafe { memmap2::MmapOptions::new().len(1).map(file)? };
    let addr = page.as_ptr() as u64;
    let own = maps::read(Pid(std::process::id())).map_err(io::Error::other)?;
    own.iter()
        .find(|mapping| (mapping.start..mapping.end).contains(&addr))
        .map(|mapping| mapping.key)
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Copies the vDSO out of a process into a file of its own, so that it has a descriptor like every other object.
fn copy_vdso(pid: Pid, mapping: &Mapping) -> io::Result<File> {
    let size = mapping.end - mapping.start;
    if size > MAX_VDSO {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = vec![0; size as usize];
    File::open(format!("/proc/{pid}/mem"))?.read_exact_at(&mut bytes, mapping.start)?;
    let file = File::from(memfd::memfd_create(c"vdso", memfd::MFdFlags::MFD_CLOEXEC)?);
    file.write_all_at(&bytes, 0)?;
    Ok(file)
}

#[cfg(test)]
mod tests;
