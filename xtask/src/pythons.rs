//! Pythons that this Debian release does not have: a chroot of the unstable suite, made once, below the target folder.
//!
//! Each is entered by a script in `target/pythons`, in a mount namespace of its own that shows the folders which tests
//! exchange files in. The scripts need root.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{apt, shell};

/// The versions that no stable release has yet.
const PACKAGES: [&str; 2] = ["python3.14", "python3.15"];

/// The scripts that run the Pythons, as tests take them: a list like `PATH`. Says so, and gives none, when the chroot cannot
/// be made: without a mirror there is nothing to make it from.
pub(crate) fn further() -> String {
    let root = shell::target_dir().join("sid");
    let made = make(&root).and_then(|()| scripts(&root));
    match made {
        Ok(scripts) => scripts.join(":"),
        Err(error) => {
            shell::say(&format!(
                "NOT TESTED: {} (no chroot of Debian unstable: {error:#})",
                PACKAGES.join(", ")
            ));
            String::new()
        }
    }
}

fn make(root: &Path) -> Result<()> {
    let done = root.join(".complete");
    if done.exists() {
        return Ok(());
    }
    apt::install(&["debootstrap"])?;
    let mirror = apt::mirror()?;
    shell::say(&format!(
        "making a chroot of Debian unstable with {} in {}",
        PACKAGES.join(" and "),
        root.display()
    ));
    shell::retry(|| {
        // What a failed attempt has left makes the next one fail.
        shell::run(
            shell::as_root("rm")
                .args(["-rf", "--one-file-system"])
                .arg(root),
        )?;
        let mut debootstrap = shell::as_root("debootstrap");
        debootstrap
            .args(["--variant=minbase", "--merged-usr"])
            .arg(format!("--include={}", PACKAGES.join(",")))
            .arg("sid")
            .arg(root)
            .arg(&mirror)
            .stdout(std::process::Stdio::null());
        shell::run(&mut debootstrap)
    })?;
    shell::run(shell::as_root("touch").arg(&done))
}

fn scripts(root: &Path) -> Result<Vec<String>> {
    let folder = shell::target_dir().join("pythons");
    fs::create_dir_all(&folder)?;
    let root = root.canonicalize()?;
    let workspace = shell::root().canonicalize()?;
    PACKAGES
        .iter()
        .map(|python| {
            let script = folder.join(python);
            fs::write(&script, text(&root, &workspace, python))
                .and_then(|()| fs::set_permissions(&script, fs::Permissions::from_mode(0o755)))
                .with_context(|| format!("failed to write `{}`", script.display()))?;
            absolute(&script)
        })
        .collect()
}

fn absolute(path: &Path) -> Result<String> {
    let path: PathBuf = path.canonicalize()?;
    path.into_os_string()
        .into_string()
        .map_err(|path| anyhow::anyhow!("`{}` is no text", path.display()))
}

/// The process keeps its id: every step becomes the next one.
fn text(root: &Path, workspace: &Path, python: &str) -> String {
    let (root, workspace) = (root.display(), workspace.display());
    format!(
        "#!/bin/sh\n\
         # Runs {python} of Debian unstable. Its own mount namespace ends with it.\n\
         exec unshare --mount --propagation private sh -ec '\n\
         mkdir -p \"{root}{workspace}\"\n\
         mount --bind \"{workspace}\" \"{root}{workspace}\"\n\
         mount --bind /tmp \"{root}/tmp\"\n\
         mount --bind /proc \"{root}/proc\"\n\
         mount --bind /dev \"{root}/dev\"\n\
         exec chroot \"{root}\" /usr/bin/{python} \"$@\"' sh \"$@\"\n"
    )
}
