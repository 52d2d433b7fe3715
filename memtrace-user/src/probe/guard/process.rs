//! The guard's own side: cut off from everything, it listens to memtrace until one of the two ends.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
        signal::{SigSet, SigmaskHow, sigprocmask},
    },
    unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, setsid},
};

use super::{
    heal,
    message::{Heard, Watched},
    sys,
};

/// Its name, which `pkill memtrace` does not match.
const NAME: &std::ffi::CStr = c"mt-guard";

/// Listens, and heals when memtrace has ended without a word. `memtrace` is its pidfd.
pub(super) fn run(socket: &OwnedFd, memtrace: &OwnedFd, descriptors: u64) {
    if isolate(socket, memtrace, descriptors).is_err() {
        return;
    }
    let mut watched = Vec::new();
    if matches!(listen(socket, memtrace, &mut watched), Ok(End::Killed)) {
        heal::heal(&watched);
    }
}

/// How memtrace has ended.
enum End {
    /// It said so: no probe is left.
    Orderly,
    /// It is gone.
    Killed,
}

/// Nothing that is sent to memtrace, its terminal or its group reaches the guard, and nobody waits for a pipe that the
/// guard has inherited.
fn isolate(socket: &OwnedFd, memtrace: &OwnedFd, descriptors: u64) -> io::Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    setsid()?;
    // SAFETY: the guard uses these two alone. The others belong to values of memtrace that this process never touches:
    // it ends without dropping them.
    unsafe { sys::close_all_but([socket.as_raw_fd(), memtrace.as_raw_fd()]) }?;
    if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        dup2_stderr(&null)?;
        // It may have become one of the three itself.
        if null.as_raw_fd() <= 2 {
            std::mem::forget(null);
        }
    }
    chdir("/")?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(
        Resource::RLIMIT_NOFILE,
        descriptors.min(hard).max(soft),
        hard,
    )?;
    prctl::set_name(NAME)?;
    // Only for `ps` and `pkill -f`.
    let _ = rename_arguments();
    Ok(())
}

/// Overwrites the arguments, which are memtrace's.
fn rename_arguments() -> io::Result<()> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // Behind the name in parentheses stands field 3; the arguments' first and last address are 48 and 49.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let mut addresses = fields.split_ascii_whitespace().skip(45);
    let mut address = || -> Option<u64> { addresses.next()?.parse().ok() };
    let (Some(start), Some(end)) = (address(), address()) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let mut text = vec![0; end.saturating_sub(start) as usize];
    let shown = text.len().saturating_sub(1).min(NAME.count_bytes());
    text[..shown].copy_from_slice(&NAME.to_bytes()[..shown]);
    let memory = OpenOptions::new().write(true).open("/proc/self/mem")?;
    File::write_all_at(&memory, &text, start)
}

/// Gathers what memtrace says until it ends.
fn listen(socket: &OwnedFd, memtrace: &OwnedFd, watched: &mut Vec<Watched>) -> Result<End, Errno> {
    let mut is_open = true;
    loop {
        let mut ends = vec![PollFd::new(memtrace.as_fd(), PollFlags::POLLIN)];
        // A socket that is closed would wake without end.
        if is_open {
            ends.push(PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut ends, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno),
        }
        // Asked before the socket is emptied: what memtrace has said is in the queue when it is gone.
        let is_gone = ends[0].any().unwrap_or(true);
        while is_open {
            match Heard::receive(socket.as_fd()) {
                Ok(Heard::Watch(file)) => watched.push(file),
                Ok(Heard::Nothing) | Err(Errno::EINTR) => {}
                Ok(Heard::End) => return Ok(End::Orderly),
                Err(Errno::EAGAIN) => break,
                Ok(Heard::Closed) | Err(_) => is_open = false,
            }
        }
        if is_gone {
            return Ok(End::Killed);
        }
    }
}
