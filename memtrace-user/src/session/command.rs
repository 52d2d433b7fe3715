//! A program that memtrace starts itself: held before its first instruction until the probes are attached.
//!
//! The child is forked before memtrace has threads, waits on a pipe, and becomes the program when the session says go. It
//! is not stopped, signalled or traced with ptrace.

use std::{
    env,
    ffi::{CString, OsString},
    io::{self, Read as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{FromRawFd as _, IntoRawFd as _},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::unistd::{ForkResult, fork, pipe2};

use crate::ids::Pid;

/// Exit status of a child whose program could not be started, as shells use it.
const NOT_STARTED: i32 = 127;

/// A program that is held, or runs, or has ended.
#[derive(Debug)]
pub(super) struct Command {
    /// Its process.
    pub(super) pid: Pid,
    /// The file it will run.
    pub(super) program: PathBuf,
    go: Option<io::PipeWriter>,
    status: Option<ExitStatus>,
    /// CPU time it has used, once it has ended.
    pub(super) cpu: Duration,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExitStatus {
    /// It exited with this status.
    Exited(i32),
    /// This signal ended it.
    Signalled(i32),
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exited with status {status}"),
            Self::Signalled(signal) => write!(f, "was ended by signal {signal}"),
        }
    }
}

impl Command {
    /// Forks the child that will become `arguments[0]`. Must be called before the process has a second thread.
    ///
    /// # Errors
    /// When there is no such program, or the system cannot make a process.
    pub(super) fn hold(arguments: &[OsString]) -> io::Result<Self> {
        let name = arguments.first().ok_or(io::ErrorKind::InvalidInput)?;
        let program = find_program(name.as_ref())?;
        let c_arguments: Vec<CString> = arguments
            .iter()
            .map(|argument| CString::new(argument.as_bytes()))
            .collect::<Result<_, _>>()?;
        let pointers: Vec<*const libc::c_char> = c_arguments
            .iter()
            .map(|argument| argument.as_ptr())
            .chain([std::ptr::null()])
            .collect();
        let c_program = CString::new(program.as_os_str().as_bytes())?;
        let (read, write) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        // SAFETY: the caller guarantees that there is one thread, so no lock can be held by another.
        match unsafe { fork() }? {
            ForkResult::Child => {
                drop(write);
                // SAFETY: the descriptor was just made and is owned here alone.
                let mut go = unsafe { io::PipeReader::from_raw_fd(read.into_raw_fd()) };
                wait_and_become(&mut go, &c_program, &pointers)
            }
            ForkResult::Parent { child } => Ok(Self {
                pid: Pid(child.as_raw() as u32),
                program,
                // SAFETY: as above.
                go: Some(unsafe { io::PipeWriter::from_raw_fd(write.into_raw_fd()) }),
                status: None,
                cpu: Duration::ZERO,
            }),
        }
    }

    /// Lets the child become its program.
    pub(super) fn release(&mut self) {
        if let Some(mut go) = self.go.take() {
            // A child that has been killed meanwhile is seen by its exit.
            let _ = go.write_all(b"g");
        }
    }

    /// How the program ended; `None` while it runs. Does not wait.
    pub(super) fn poll(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            let mut status = 0;
            let mut usage = MaybeUninit::<libc::rusage>::zeroed();
            // SAFETY: both places are written by the call, and the process is a child of this one that is not waited for
            // elsewhere.
            let waited = unsafe {
                libc::wait4(
                    self.pid.0 as i32,
                    &raw mut status,
                    libc::WNOHANG,
                    usage.as_mut_ptr(),
                )
            };
            if waited > 0 {
                // SAFETY: zeroes are a valid value, and the call has written it.
                let usage = unsafe { usage.assume_init() };
                self.cpu = duration(usage.ru_utime) + duration(usage.ru_stime);
                self.status = ExitStatus::of(status);
            }
        }
        self.status
    }
}

impl ExitStatus {
    /// What `wait4` reports.
    fn of(status: i32) -> Option<Self> {
        if libc::WIFEXITED(status) {
            Some(Self::Exited(libc::WEXITSTATUS(status)))
        } else if libc::WIFSIGNALED(status) {
            Some(Self::Signalled(libc::WTERMSIG(status)))
        } else {
            None
        }
    }
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
}

/// The child's side: waits for the go and becomes the program. A pipe that ends without a go means that memtrace has
/// ended; the program is then not started. Allocates nothing: the probes are in place already.
fn wait_and_become(
    go: &mut io::PipeReader,
    program: &CString,
    arguments: &[*const libc::c_char],
) -> ! {
    let mut byte = [0];
    if matches!(go.read(&mut byte), Ok(1)) {
        // SAFETY: sets a disposition. Rust ignores this signal in memtrace, and what is ignored stays so across `execv`.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        // SAFETY: both are strings that end in a zero, the list ends in a null pointer, and `hold` keeps what they point
        // to. Returns only when it fails.
        unsafe { libc::execv(program.as_ptr(), arguments.as_ptr()) };
    }
    // SAFETY: ends the child without running what the parent has registered for its own end.
    unsafe { libc::_exit(NOT_STARTED) }
}

/// Where a program lies: as given when it has a slash, otherwise the first match in `PATH`.
pub(super) fn find_program(name: &Path) -> io::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let is_program = |path: &Path| {
        path.metadata()
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if name.as_os_str().as_bytes().contains(&b'/') {
        let meta = name.metadata()?;
        let runs = meta.is_file() && is_program(name);
        return if runs {
            Ok(name.to_owned())
        } else {
            Err(io::ErrorKind::PermissionDenied.into())
        };
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|candidate| is_program(candidate))
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        assert!(find_program(Path::new("sh")).is_ok_and(|path| path.ends_with("sh")));
        assert_eq!(
            find_program(Path::new("/bin/sh")).ok(),
            Some(PathBuf::from("/bin/sh"))
        );
        let kind = |name: &str| find_program(Path::new(name)).map_err(|error| error.kind());
        assert_eq!(kind("no-such-program-here"), Err(io::ErrorKind::NotFound));
        assert_eq!(kind("/etc/passwd"), Err(io::ErrorKind::PermissionDenied));
    }
}
