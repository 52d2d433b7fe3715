//! A child process that takes memtrace's breakpoints out of the targets when memtrace cannot.
//!
//! The kernel gives up removing a probe when a fatal signal is pending in the thread that asks for it: a memtrace that gets
//! SIGKILL while it attaches or detaches leaves breakpoints in the text of its targets, and each costs a trap at every hit.
//! So memtrace tells the guard each file and the places in it before it probes them first. When memtrace ends without
//! saying so, the guard registers a probe of its own at each place and lets it go (`heal.rs`).
//!
//! Owns the guard's process id and the socket to it. What is told lies in the socket's queue at once and outlives memtrace.
//! Without a guard everything works, but for the healing.

mod heal;
mod message;
mod process;
mod sys;

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    sync::{Mutex, PoisonError},
};

use nix::{
    errno::Errno,
    sys::{
        resource::{Resource, getrlimit},
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockType, recv, setsockopt, socketpair, sockopt,
        },
        stat::fstat,
        time::TimeVal,
        wait::{WaitPidFlag, waitpid},
    },
};

use self::message::{MAX_POINTS_AT_ONCE, Message};
use crate::ids::Pid;

/// Files that are guarded, each of which takes a descriptor of the guard.
const MAX_FILES: usize = 4096;
/// Places in all files together.
const MAX_POINTS: usize = 1 << 16;
/// Descriptors of the guard for everything else: the socket, the healing, and files with more places than one packet takes,
/// which come several times.
const OTHER_DESCRIPTORS: usize = 64 + MAX_POINTS / MAX_POINTS_AT_ONCE;
/// How long the guard may take to hear something, and to end when it is told to. It does nothing else; one that takes
/// longer is stopped.
const PATIENCE_S: i64 = 1;

/// The guard as memtrace holds it. Dropping it, after all links, ends the guard.
#[derive(Debug)]
pub struct Guard {
    pid: Pid,
    socket: OwnedFd,
    told: Mutex<Told>,
}

/// What the guard knows.
#[derive(Debug)]
struct Told {
    /// By device and inode, as `stat` names them.
    files: HashMap<(u64, u64), HashSet<u64>>,
    points: usize,
    max_files: usize,
    /// Attaches to files that were too many.
    left_out: usize,
    /// The guard has ended, or does not answer.
    lost: bool,
}

impl Guard {
    /// Forks the guard. Must be called before the process has a second thread.
    ///
    /// # Errors
    /// When the system cannot make a process.
    pub fn start() -> io::Result<Self> {
        let (own, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        let patience = TimeVal::new(PATIENCE_S, 0);
        setsockopt(&own, sockopt::SendTimeout, &patience)?;
        setsockopt(&own, sockopt::ReceiveTimeout, &patience)?;
        let (_, descriptors) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let max_files = MAX_FILES.min((descriptors as usize).saturating_sub(OTHER_DESCRIPTORS));
        let memtrace = sys::pidfd_open(std::process::id())?;
        let pid = sys::fork_into(move || {
            let descriptors = (max_files + OTHER_DESCRIPTORS) as u64;
            process::run(&theirs, &memtrace, descriptors);
        })?;
        Ok(Self {
            pid,
            socket: own,
            told: Mutex::new(Told {
                files: HashMap::new(),
                points: 0,
                max_files,
                left_out: 0,
                lost: false,
            }),
        })
    }

    /// Its process, which is no target.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Tells the guard that `points` of `file` are about to be probed, unless it knows.
    pub(super) fn watch(&self, file: BorrowedFd<'_>, points: impl IntoIterator<Item = u64>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(stat) = fstat(file) else { return };
        let new = told.take_new((stat.st_dev, stat.st_ino), points);
        for points in new.chunks(MAX_POINTS_AT_ONCE) {
            if told.lost {
                return;
            }
            let message = Message::Watch { file, points };
            if let Err(errno) = message.send(self.socket.as_fd()) {
                told.lose(&format!("does not listen ({errno})"));
            }
        }
    }

    /// Says once that the guard is gone, if it is.
    pub fn check(&self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if !told.lost && self.wait(WaitPidFlag::WNOHANG) {
            told.lose("has ended");
        }
    }

    /// Whether it has ended, which is known once.
    fn wait(&self, flags: WaitPidFlag) -> bool {
        let pid = nix::unistd::Pid::from_raw(self.pid.0.cast_signed());
        waitpid(pid, Some(flags)).is_ok_and(|status| status.pid().is_some())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let told = self.told.get_mut().unwrap_or_else(PoisonError::into_inner);
        if told.left_out > 0 {
            log::warn!("{} attaches were not guarded", told.left_out);
        }
        if told.lost || Message::End.send(self.socket.as_fd()).is_err() {
            return;
        }
        // It sends nothing: what comes is the end of its socket, or the end of the patience.
        let ended = recv(self.socket.as_raw_fd(), &mut [0], MsgFlags::empty());
        if ended == Ok(0) || ended == Err(Errno::ECONNRESET) {
            self.wait(WaitPidFlag::empty());
        }
    }
}

impl Told {
    /// Those of `points` that are not known, which are from now on. None when there is no room.
    fn take_new(&mut self, file: (u64, u64), points: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let known = self.files.get(&file);
        let new: Vec<u64> = points
            .into_iter()
            .filter(|point| known.is_none_or(|known| !known.contains(point)))
            .collect();
        if new.is_empty() || self.lost {
            return Vec::new();
        }
        let is_full = known.is_none() && self.files.len() >= self.max_files;
        if is_full || self.points + new.len() > MAX_POINTS {
            if self.left_out == 0 {
                log::warn!(
                    "the guard knows {} files with {} places, which is its limit: if memtrace is killed with SIGKILL, others may keep breakpoints",
                    self.files.len(),
                    self.points
                );
            }
            self.left_out += 1;
            return Vec::new();
        }
        self.points += new.len();
        self.files.entry(file).or_default().extend(&new);
        new
    }

    fn lose(&mut self, how: &str) {
        self.lost = true;
        log::warn!(
            "the guard process {how}: if memtrace is killed with SIGKILL now, targets may keep breakpoints"
        );
    }
}

#[cfg(test)]
mod tests;
