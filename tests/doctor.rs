//! `memtrace doctor`: what this kernel and this user can do.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use anyhow::{Result, ensure};
use memtrace_tests::{memtrace, privilege};

#[test]
fn all_is_well_where_the_other_tests_pass() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    let done = Command::new(memtrace::binary()?).arg("doctor").output()?;
    let words = String::from_utf8(done.stdout)?;
    ensure!(done.status.code() == Some(0), "{}: {words}", done.status);
    for thing in [
        "BTF",
        "uprobes",
        "uprobe_multi",
        "uprobe sessions",
        "bpf_loop",
        "ring buffer",
        "lockdown",
        "locked memory",
    ] {
        ensure!(
            words
                .lines()
                .any(|line| line.starts_with("ok") && line.contains(thing)),
            "`{thing}`:\n{words}"
        );
    }
    Ok(())
}

#[test]
fn without_rights_every_line_that_fails_has_a_remedy() -> Result<()> {
    let Some(_turn) = privilege::turn()? else {
        return Ok(());
    };
    // The binary may lie where others cannot read.
    let folder = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir()?;
    let binary = folder.path().join("memtrace");
    fs::copy(memtrace::binary()?, &binary)?;
    let done = Command::new("setpriv")
        .args(privilege::NOBODY)
        .arg(&binary)
        .arg("doctor")
        .output()?;
    let words = String::from_utf8(done.stdout)?;
    ensure!(done.status.code() == Some(3), "{}: {words}", done.status);
    let lines: Vec<&str> = words.lines().collect();
    let missing: Vec<usize> = (0..lines.len())
        .filter(|index| lines[*index].starts_with("missing"))
        .collect();
    ensure!(!missing.is_empty(), "nothing is missing:\n{words}");
    for index in missing {
        ensure!(
            lines
                .get(index + 1)
                .is_some_and(|line| line.contains("try:")),
            "`{}` has no remedy",
            lines[index]
        );
    }
    Ok(())
}
