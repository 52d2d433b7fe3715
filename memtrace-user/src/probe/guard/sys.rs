//! The guard's system calls that need unsafe code.

use std::{
    io::{self, IoSliceMut},
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
};

use nix::{
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
    unistd::{ForkResult, fork},
};

use crate::ids::Pid;

/// Forks a child that does nothing but `work`. Must be called before the process has a second thread.
pub(super) fn fork_into(work: impl FnOnce()) -> io::Result<Pid> {
    // SAFETY: the caller guarantees that there is one thread, so no lock can be held by another.
    match unsafe { fork() }? {
        ForkResult::Child => {
            // What the parent was about to do must not be done twice, not even after a panic.
            let done = catch_unwind(AssertUnwindSafe(work));
            // SAFETY: ends the child without running what the parent has registered for its own end.
            unsafe { libc::_exit(i32::from(done.is_err())) }
        }
        ForkResult::Parent { child } => Ok(Pid(child.as_raw().cast_unsigned())),
    }
}

/// A descriptor that can be read from when the process has ended and all it held is closed.
pub(super) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has returned a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Closes every descriptor from 0 on but `kept`.
///
/// # Safety
/// Nothing may use, or close, one of the others afterwards.
pub(super) unsafe fn close_all_but(mut kept: [RawFd; 2]) -> io::Result<()> {
    kept.sort_unstable();
    let [low, high] = kept.map(i64::from);
    for (first, last) in [
        (0, low - 1),
        (low + 1, high - 1),
        (high + 1, i64::from(u32::MAX)),
    ] {
        if first > last {
            continue;
        }
        // SAFETY: the call takes three integers; the caller guarantees the rest.
        if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Takes a packet, and the descriptor that has come with it, without waiting.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    bytes: &mut IoSliceMut<'_>,
) -> Result<(usize, Option<OwnedFd>), Errno> {
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let mut slices = [IoSliceMut::new(bytes)];
    let packet = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    // A descriptor that finds no room is dropped by the kernel, which the iterator reports as an error.
    let file = packet.cmsgs().into_iter().flatten().find_map(|control| {
        let ControlMessageOwned::ScmRights(files) = control else {
            return None;
        };
        // SAFETY: the kernel has just made this descriptor for this process, and there is room for one only.
        files.first().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) })
    });
    Ok((packet.bytes, file))
}
