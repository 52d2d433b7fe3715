//! Obituaries: what the probes have copied of a code object when it was freed, as memory from which it is read.

use std::{io, sync::Arc};

use memtrace_common::obituary::ObituaryHeader;

use super::{
    code::{CodeError, CodeLayout, CodeObject},
    memory::Memory,
};
use crate::ids::Pid;

/// The copy of a code object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obituary {
    /// Process that has freed it; a forked child may free what its parent has made.
    pub pid: Pid,
    /// Where it was.
    pub addr: u64,
    /// When it was freed: with process and address it says which end this is.
    pub stamp: u64,
    /// Pieces of memory.
    parts: [Part; 4],
    /// Held as long as it is kept; see [`Obituary::hold`].
    ticket: Option<Arc<()>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    addr: u64,
    bytes: Box<[u8]>,
}

impl Obituary {
    /// Keeps the parts of a record: the beginning of the code object, its file's name, its name, its lines.
    #[must_use]
    pub fn new(header: &ObituaryHeader, [head, file, name, lines]: [&[u8]; 4]) -> Self {
        let part = |addr, bytes: &[u8]| Part {
            addr,
            bytes: bytes.into(),
        };
        let mut head = part(header.addr, head);
        // While its destructor runs nobody refers to it any more. Here it is still whole, so it counts as living.
        if let Some(count) = head.bytes.first_chunk_mut() {
            *count = 1_u64.to_le_bytes();
        }
        Self {
            pid: Pid(header.tgid),
            addr: header.addr,
            stamp: header.stamp,
            parts: [
                head,
                part(header.file, file),
                part(header.name, name),
                part(header.lines, lines),
            ],
            ticket: None,
        }
    }

    /// Gives it a ticket, by whose references its holder counts what is still kept somewhere.
    pub(crate) fn hold(&mut self, ticket: Arc<()>) {
        self.ticket = Some(ticket);
    }

    /// The code object.
    ///
    /// # Errors
    /// When the copy is none of a code object with this layout.
    pub fn code(&self, layout: &CodeLayout) -> Result<CodeObject, CodeError> {
        CodeObject::read_copy(self, self.addr, layout)
    }
}

impl Memory for Obituary {
    fn read_into(&self, addr: u64, bytes: &mut [u8]) -> io::Result<()> {
        let found = self.parts.iter().find_map(|part| part.from(addr));
        let source = found.and_then(|found| found.get(..bytes.len()));
        bytes.copy_from_slice(source.ok_or(io::ErrorKind::InvalidInput)?);
        Ok(())
    }

    fn read_some(&self, addr: u64, least: usize, most: usize) -> io::Result<Vec<u8>> {
        let found = self.parts.iter().find_map(|part| part.from(addr));
        let found = found.filter(|found| found.len() >= least);
        let found = found.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(found[..found.len().min(most.max(least))].to_vec())
    }
}

impl Part {
    /// The bytes from `addr` on, if it lies here.
    fn from(&self, addr: u64) -> Option<&[u8]> {
        let at = usize::try_from(addr.checked_sub(self.addr)?).ok()?;
        self.bytes.get(at..).filter(|rest| !rest.is_empty())
    }
}
