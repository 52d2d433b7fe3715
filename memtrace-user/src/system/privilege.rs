//! Who runs memtrace, and what the kernel lets them do.

use std::{fmt, io};

use super::System;

/// A capability that memtrace uses: its number is that of `linux/capability.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Read files and enter folders of other users.
    DacReadSearch = 2,
    /// Look into other processes.
    SysPtrace = 19,
    /// Nearly everything; includes [`Self::Perfmon`], [`Self::Bpf`] and [`Self::CheckpointRestore`].
    SysAdmin = 21,
    /// Trace.
    Perfmon = 38,
    /// Load programs.
    Bpf = 39,
    /// Open mapped files whatever became of their names.
    CheckpointRestore = 40,
}

impl Capability {
    /// Without these nothing can be traced.
    pub const NEEDED: [Self; 3] = [Self::Bpf, Self::Perfmon, Self::SysPtrace];
    /// Without these, some files of targets cannot be opened.
    pub const WANTED: [Self; 2] = [Self::CheckpointRestore, Self::DacReadSearch];

    fn is_part_of_admin(self) -> bool {
        matches!(self, Self::Perfmon | Self::Bpf | Self::CheckpointRestore)
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
            Self::CheckpointRestore => "CAP_CHECKPOINT_RESTORE",
        })
    }
}

/// Effective user and capabilities of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Privileges {
    /// Effective user id.
    pub uid: u32,
    effective: u64,
}

impl Privileges {
    /// Reads `/proc/self/status`.
    pub fn read(system: &System) -> io::Result<Self> {
        let status = system.text("/proc/self/status")?;
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
        };
        // `Uid:` real, effective, saved, file system.
        let uid = field("Uid:").and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok());
        let effective = field("CapEff:").and_then(|bits| u64::from_str_radix(bits, 16).ok());
        let (Some(uid), Some(effective)) = (uid, effective) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        Ok(Self { uid, effective })
    }

    /// Whether a capability is effective.
    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        let bit = |capability| self.effective & (1 << capability as u32) != 0;
        bit(capability) || (capability.is_part_of_admin() && bit(Capability::SysAdmin))
    }

    /// Those of `capabilities` that are not effective, as words; `None` when all are.
    #[must_use]
    pub fn missing(&self, capabilities: &[Capability]) -> Option<String> {
        let missing = capabilities
            .iter()
            .filter(|&&capability| !self.has(capability));
        let words: Vec<String> = missing.map(ToString::to_string).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(effective: u64) -> Privileges {
        Privileges { uid: 0, effective }
    }

    #[test]
    fn own_privileges_can_be_read() {
        let own = Privileges::read(&System::here()).unwrap();
        assert_eq!(own.uid, nix::unistd::geteuid().as_raw());
    }

    #[test]
    fn admin_includes_the_newer_capabilities_but_not_ptrace() {
        let admin = with(1 << 21);
        assert!(admin.has(Capability::Bpf) && admin.has(Capability::Perfmon));
        assert_eq!(
            admin.missing(&Capability::NEEDED).as_deref(),
            Some("CAP_SYS_PTRACE")
        );
        assert_eq!(with(u64::MAX).missing(&Capability::NEEDED), None);
        assert_eq!(
            with(0).missing(&Capability::NEEDED).as_deref(),
            Some("CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE")
        );
    }
}
