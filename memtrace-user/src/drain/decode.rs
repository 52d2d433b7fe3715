//! Bytes of one ring record → the record, with every way to be wrong as a typed error.
//!
//! Decoding is total: any bytes give a record or a [`DecodeError`]. A kind or reason that this build does not
//! know is data and passes through; the reader of the record counts it.

use memtrace_common::{
    event::Event,
    limits::MAX_FRAMES,
    obituary::{LARGE, MAX_HEAD, ObituaryHeader, SMALL, Slots},
    stack::StackHeader,
};
use zerocopy::FromBytes as _;

/// Why the bytes of a record are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Records of the event ring have one size.
    #[error("an event record has {len} bytes instead of {}", size_of::<Event>())]
    EventLength {
        /// Bytes received.
        len: usize,
    },
    /// The header of a stack record is incomplete.
    #[error("a stack record has {len} bytes, less than its header of {}", size_of::<StackHeader>())]
    StackHeader {
        /// Bytes received.
        len: usize,
    },
    /// A stack record claims more frames than a probe can walk.
    #[error("a stack record claims {count} frames, more than {MAX_FRAMES}")]
    StackDepth {
        /// Frames claimed.
        count: usize,
    },
    /// The frame words of a stack record are more or fewer than its header says.
    #[error("a stack record of {count} frames carries {len} bytes of frames")]
    StackLength {
        /// Frames claimed.
        count: usize,
        /// Bytes behind the header.
        len: usize,
    },
    /// Frame words can be read in place only at a multiple of 8; the ring places every record so.
    #[error("a stack record does not lie at a multiple of 8")]
    Misaligned,
    /// Records of the obituary ring have two sizes.
    #[error("an obituary has {len} bytes instead of {} or {}", SMALL.record(), LARGE.record())]
    ObituaryLength {
        /// Bytes received.
        len: usize,
    },
    /// A part of an obituary is said to be larger than its slot.
    #[error("a part of an obituary claims {size} bytes, more than its slot has")]
    ObituaryPart {
        /// Bytes claimed.
        size: u32,
    },
}

/// A record of the stack ring, its frames still in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackRecord<'ring> {
    /// Id, reason and number of frames.
    pub header: StackHeader,
    /// `header.count` frame words, innermost first.
    pub frames: &'ring [u64],
}

/// A record of the obituary ring, its parts still in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObituaryRecord<'ring> {
    /// Of which code object, and where its parts were.
    pub header: ObituaryHeader,
    /// The beginning of the code object.
    pub head: &'ring [u8],
    /// The `str` with the file's name.
    pub file: &'ring [u8],
    /// The `str` with its name.
    pub name: &'ring [u8],
    /// The `bytes` with its lines.
    pub lines: &'ring [u8],
}

/// Decodes a record of the event ring: exactly 32 bytes, at any alignment.
///
/// # Errors
///
/// [`DecodeError::EventLength`] for any other length.
#[inline]
pub fn event(bytes: &[u8]) -> Result<Event, DecodeError> {
    Event::read_from_bytes(bytes).map_err(|_| DecodeError::EventLength { len: bytes.len() })
}

/// Decodes a record of the stack ring: a 24-byte header and `count` words of 8 bytes, 8-byte aligned
/// (`kernel/bpf/ringbuf.c` rounds every record up to 8 and begins it with a header of 8).
///
/// # Errors
///
/// Every [`DecodeError`] but [`DecodeError::EventLength`].
pub fn stack(bytes: &[u8]) -> Result<StackRecord<'_>, DecodeError> {
    let (header, words) = StackHeader::read_from_prefix(bytes)
        .map_err(|_| DecodeError::StackHeader { len: bytes.len() })?;
    let count = usize::from(header.count);
    if count > MAX_FRAMES {
        return Err(DecodeError::StackDepth { count });
    }
    if words.len() != count * size_of::<u64>() {
        let len = words.len();
        return Err(DecodeError::StackLength { count, len });
    }
    let frames = <[u64]>::ref_from_bytes(words).map_err(|_| DecodeError::Misaligned)?;
    Ok(StackRecord { header, frames })
}

/// Decodes a record of the obituary ring: a header and four slots, at any alignment.
///
/// # Errors
///
/// [`DecodeError::ObituaryLength`] and [`DecodeError::ObituaryPart`].
pub fn obituary(bytes: &[u8]) -> Result<ObituaryRecord<'_>, DecodeError> {
    let len = bytes.len();
    let wrong_length = DecodeError::ObituaryLength { len };
    let sizes = [SMALL, LARGE];
    let slots = sizes.into_iter().find(|slots| slots.record() == len);
    let Slots { file, name, lines } = slots.ok_or(wrong_length)?;
    let (header, mut rest) = ObituaryHeader::read_from_prefix(bytes).map_err(|_| wrong_length)?;
    let mut part = |slot: usize, size: u32| {
        let (here, behind) = rest.split_at_checked(slot).ok_or(wrong_length)?;
        rest = behind;
        here.get(..size as usize)
            .ok_or(DecodeError::ObituaryPart { size })
    };
    Ok(ObituaryRecord {
        header,
        head: part(MAX_HEAD, header.head_size)?,
        file: part(file, header.file_size)?,
        name: part(name, header.name_size)?,
        lines: part(lines, header.lines_size)?,
    })
}

#[cfg(test)]
mod tests {
    use memtrace_common::event;
    use proptest::prelude::*;
    use zerocopy::IntoBytes as _;

    use super::*;

    /// A stack record as the ring holds it: in words, so that it is aligned.
    fn stack_words(header: StackHeader, frames: &[u64]) -> Vec<u64> {
        let mut words = vec![0; size_of::<StackHeader>() / 8];
        words.as_mut_bytes().copy_from_slice(header.as_bytes());
        words.extend(frames);
        words
    }

    #[test]
    fn an_event_is_read_field_by_field() {
        let words: [u64; 4] = [
            (u64::from(event::ALLOC) << 56) | 100,
            (8 << 32) | 7,
            0x5000,
            0xabcd,
        ];
        let event = event(words.as_bytes()).unwrap();
        assert_eq!((event.kind(), event.size()), (event::ALLOC, 100));
        assert_eq!((event.tgid, event.tid), (7, 8));
        assert_eq!((event.addr, event.stack), (0x5000, 0xabcd));
    }

    #[test]
    fn an_unknown_kind_is_data() {
        let words: [u64; 4] = [0xff << 56, 0, 0, 0];
        assert_eq!(event(words.as_bytes()).map(|event| event.kind()), Ok(0xff));
    }

    #[test]
    fn a_stack_deeper_than_any_probe_walks_is_refused() {
        let count = u16::try_from(MAX_FRAMES + 1).unwrap();
        let header = StackHeader {
            count,
            ..StackHeader::default()
        };
        let words = stack_words(header, &[0; MAX_FRAMES + 1]);
        let count = usize::from(count);
        assert_eq!(
            stack(words.as_bytes()),
            Err(DecodeError::StackDepth { count })
        );
    }

    #[test]
    fn a_stack_off_its_alignment_is_refused() {
        let record = stack_words(
            StackHeader {
                count: 1,
                ..StackHeader::default()
            },
            &[1],
        );
        let mut buffer = vec![0_u64; record.len() + 1];
        buffer.as_mut_bytes()[4..36].copy_from_slice(record.as_bytes());
        assert_eq!(
            stack(&buffer.as_bytes()[4..36]),
            Err(DecodeError::Misaligned)
        );
    }

    proptest! {
        #[test]
        fn events_survive_the_wire(kind_and_size: u64, tgid: u32, tid: u32, addr: u64, stack: u64) {
            let sent = Event { kind_and_size, tgid, tid, addr, stack };
            prop_assert_eq!(event(sent.as_bytes()), Ok(sent));
        }

        #[test]
        fn stacks_survive_the_wire(
            id: u64,
            cut_addr: u64,
            cut: u8,
            tgid: u32,
            frames in prop::collection::vec(any::<u64>(), 0..=MAX_FRAMES),
        ) {
            let count = u16::try_from(frames.len()).unwrap();
            let header = StackHeader { id, cut_addr, count, cut, reserved: 0, tgid };
            let words = stack_words(header, &frames);
            let record = stack(words.as_bytes());
            prop_assert_eq!(record, Ok(StackRecord { header, frames: &frames }));
        }

        #[test]
        fn arbitrary_bytes_give_a_record_or_an_error(
            words in prop::collection::vec(any::<u64>(), 0..80),
            from in 0_usize..16,
            cut in 0_usize..16,
            count in prop::option::of(0_u16..90),
        ) {
            let mut words = words;
            let len = words.len() * 8;
            let bytes = words.as_mut_bytes();
            if let (Some(count), Some(field)) = (count, bytes.get_mut(from + 16..from + 18)) {
                field.copy_from_slice(&count.to_ne_bytes());
            }
            let bytes = &bytes[from.min(len)..len.saturating_sub(cut).max(from.min(len))];
            prop_assert_eq!(event(bytes).is_ok(), bytes.len() == 32);
            if let Ok(record) = stack(bytes) {
                prop_assert_eq!(bytes.len(), 24 + 8 * usize::from(record.header.count));
                prop_assert_eq!(record.frames.as_bytes(), &bytes[24..]);
            }
        }
    }
}
