//! The machine code of one object, by address.
//!
//! Reads the file page by page as instructions are asked for, and keeps the pages while the object is searched.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use iced_x86::{Decoder, DecoderOptions, Instruction};

use crate::target::{
    elf::{Elf, Segment},
    image::Image,
};

/// Code is fetched by pages of this size.
const PAGE: u64 = 4096;
/// Length of the longest x86 instruction: as many bytes of the next page are fetched with each.
const MAX_INSTRUCTION: u64 = 15;
/// Pages that are kept at once; beyond that all are dropped.
const MAX_PAGES: usize = 1024;

/// Code of an object.
#[derive(Debug)]
pub(super) struct Code<'object> {
    image: &'object Image,
    elf: &'object Elf,
    pages: RefCell<HashMap<u64, Rc<[u8]>>>,
}

impl<'object> Code<'object> {
    pub(super) fn new(image: &'object Image, elf: &'object Elf) -> Self {
        Self {
            image,
            elf,
            pages: RefCell::default(),
        }
    }

    /// Offset in the file of the code byte at `rel`; none outside of code.
    pub(super) fn file_off(&self, rel: u64) -> Option<u64> {
        let segment = self.segment(rel)?;
        Some(segment.file_off + (rel - segment.rel))
    }

    /// Up to `max` bytes at `rel`; fewer where the segment ends, none outside of code.
    pub(super) fn bytes(&self, rel: u64, max: u64) -> Option<Vec<u8>> {
        let segment = self.segment(rel)?;
        let left = segment.rel + segment.file_size - rel;
        self.image.read(self.file_off(rel)?, max.min(left)).ok()
    }

    /// The instruction at `rel`; none outside of code and where the bytes are none.
    pub(super) fn instruction(&self, rel: u64) -> Option<Instruction> {
        let start = self.segment(rel)?.rel.max(rel - rel % PAGE);
        let page = self.page(start)?;
        let bytes = page.get((rel - start) as usize..)?;
        let instruction = Decoder::with_ip(64, bytes, rel, DecoderOptions::NONE).decode();
        (!instruction.is_invalid()).then_some(instruction)
    }

    /// The segment of code around `rel`.
    fn segment(&self, rel: u64) -> Option<&Segment> {
        self.elf
            .code()
            .find(|segment| (segment.rel..segment.rel + segment.file_size).contains(&rel))
    }

    /// The bytes from `start` to the end of its page and a little further.
    fn page(&self, start: u64) -> Option<Rc<[u8]>> {
        let mut pages = self.pages.borrow_mut();
        if let Some(page) = pages.get(&start) {
            return Some(Rc::clone(page));
        }
        if pages.len() == MAX_PAGES {
            pages.clear();
        }
        let page: Rc<[u8]> = self
            .bytes(start, PAGE - start % PAGE + MAX_INSTRUCTION)?
            .into();
        pages.insert(start, Rc::clone(&page));
        Some(page)
    }
}
