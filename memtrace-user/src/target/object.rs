//! A mapped file, as frames, unwind rows and symbols refer to it.
//!
//! Owns the kept descriptor and the ELF facts. Objects are made by the [`store`](super::store) and never change.

use std::{fs::File, path::PathBuf};

use memtrace_common::unwind::FileKey;

use super::{elf::Elf, image::Image};
use crate::ids::ObjectId;

/// A mapped file.
#[derive(Debug)]
pub struct Object {
    /// What frame words call it; never reused within a run.
    pub id: ObjectId,
    /// What the kernel calls it; zeros for the vDSO.
    pub key: FileKey,
    /// Its path as the process's maps printed it; see [`Mapping::path`](super::maps::Mapping::path).
    pub path: PathBuf,
    /// The open file; none when it could not be opened. Kept even when the contents are of no use, so that the kernel
    /// does not give the inode, and with it the key, to another file.
    pub image: Option<Image>,
    /// What its headers say, or why it is of no use.
    pub elf: Result<Elf, Unusable>,
}

/// Why a mapped file gives neither rows nor symbols.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It could not be opened. It is tried again when another mapping of it is seen.
    #[error("cannot be opened: {0}")]
    Unopened(String),
    /// It is a device or the like; opening one has effects.
    #[error("not a regular file")]
    NotRegular,
    /// It is no ELF file: data, or code that a runtime has generated into a file.
    #[error("not an ELF file")]
    NotElf,
    /// It is an ELF file for another machine: 32-bit code.
    #[error("not for x86-64")]
    OtherMachine,
    /// Its headers contradict themselves or the file.
    #[error("damaged: {0}")]
    Damaged(&'static str),
}

impl Object {
    /// Reads the facts of an open file.
    #[must_use]
    pub fn new(id: ObjectId, key: FileKey, path: PathBuf, file: Result<File, Unusable>) -> Self {
        let image = file.and_then(|file| {
            Image::new(file).map_err(|error| Unusable::Unopened(error.to_string()))
        });
        let (image, elf) = match image {
            Ok(image) => {
                let elf = Elf::read(&image);
                (Some(image), elf)
            }
            Err(reason) => (None, Err(reason)),
        };
        Self {
            id,
            key,
            path,
            image,
            elf,
        }
    }

    /// The file and its facts, if it is of use.
    #[must_use]
    pub fn contents(&self) -> Option<(&Image, &Elf)> {
        Some((self.image.as_ref()?, self.elf.as_ref().ok()?))
    }

    /// The kept descriptor.
    #[must_use]
    pub fn file(&self) -> Option<&File> {
        self.image.as_ref().map(Image::file)
    }

    /// The linker's hash of its contents.
    #[must_use]
    pub fn build_id(&self) -> Option<&[u8]> {
        self.elf.as_ref().ok()?.build_id.as_deref()
    }

    /// Whether it may be of use if it is opened again.
    #[must_use]
    pub fn is_unopened(&self) -> bool {
        matches!(self.elf, Err(Unusable::Unopened(_)))
    }
}
