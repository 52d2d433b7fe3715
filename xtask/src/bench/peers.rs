//! The peer that no stable distribution has in a current version: memleak of libbpf-tools, from Debian sid.
//!
//! It wants sid's libc, so its libraries and loader are unpacked beside it and it is run by that loader; nothing of
//! the system is changed.

use std::{fs, path::PathBuf};

use anyhow::Result;

use crate::{apt::Apt, shell};

/// The program and what its loader needs.
const PACKAGES: [&str; 5] = ["libbpf-tools", "libc6", "libelf1t64", "libzstd1", "zlib1g"];

/// The folder that memleak stands in, unpacked when it is not there yet.
pub(crate) fn memleak() -> Result<PathBuf> {
    let target = shell::target_dir();
    let folder = target.join("peers");
    if folder.exists() {
        return Ok(folder);
    }
    shell::say("unpacking memleak from Debian sid, with the libraries it needs");
    let fresh = target.join(format!("peers.{}", std::process::id()));
    let apt = Apt::fetch(&fresh.join("apt"), &["sid"])?;
    for package in PACKAGES {
        apt.unpack(package, "usr/*", &fresh)?;
    }
    fs::remove_dir_all(fresh.join("apt"))?;
    fs::rename(&fresh, &folder)?;
    Ok(folder)
}
