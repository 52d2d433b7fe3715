//! What memtrace says to its guard: one packet for each thing said, between two processes of one binary.

use std::{
    io::{IoSlice, IoSliceMut},
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{ControlMessage, MsgFlags, sendmsg},
};

use super::sys;

/// Places in one packet; a file with more takes several.
pub(super) const MAX_POINTS_AT_ONCE: usize = 256;

/// First byte of a packet.
const WATCH: u8 = b'w';
const END: u8 = b'e';

/// Something to say.
#[derive(Debug)]
pub(super) enum Message<'a> {
    /// These offsets of this file are about to be probed.
    Watch {
        file: BorrowedFd<'a>,
        points: &'a [u64],
    },
    /// All probes are gone, and so is the guard's task.
    End,
}

/// Something heard.
#[derive(Debug)]
pub(super) enum Heard {
    /// See [`Message::Watch`].
    Watch(Watched),
    /// See [`Message::End`].
    End,
    /// Nothing of use: no descriptor came with it.
    Nothing,
    /// Nobody will say anything any more.
    Closed,
}

/// A file and the offsets in it that may be probed.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) file: OwnedFd,
    pub(super) points: Vec<u64>,
}

impl Message<'_> {
    /// Says it. Fails with `EAGAIN` when the other side has not listened for the socket's patience.
    pub(super) fn send(&self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        let flags = MsgFlags::MSG_NOSIGNAL;
        let send = |bytes: &[u8], with: &[ControlMessage<'_>]| {
            sendmsg::<()>(
                socket.as_raw_fd(),
                &[IoSlice::new(bytes)],
                with,
                flags,
                None,
            )
            .map(drop)
        };
        match self {
            Self::Watch { file, points } => {
                let mut bytes = vec![WATCH];
                bytes.extend(points.iter().flat_map(|point| point.to_ne_bytes()));
                send(&bytes, &[ControlMessage::ScmRights(&[file.as_raw_fd()])])
            }
            Self::End => send(&[END], &[]),
        }
    }
}

impl Heard {
    /// Takes the next packet without waiting; `EAGAIN` when there is none.
    pub(super) fn receive(socket: BorrowedFd<'_>) -> Result<Self, Errno> {
        let mut bytes = [0; 1 + 8 * MAX_POINTS_AT_ONCE];
        let (length, file) = sys::receive(socket, &mut IoSliceMut::new(&mut bytes))?;
        let heard = bytes.get(..length).and_then(<[u8]>::split_first);
        Ok(match (heard, file) {
            (None, _) => Self::Closed,
            (Some((&END, _)), _) => Self::End,
            (Some((_, offsets)), Some(file)) => {
                let (words, _) = offsets.as_chunks();
                let points = words.iter().copied().map(u64::from_ne_bytes).collect();
                Self::Watch(Watched { file, points })
            }
            _ => Self::Nothing,
        })
    }
}
