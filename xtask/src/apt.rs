//! Debian packages: a private apt state for suites the system does not follow, and installing from its own.
//!
//! The mirror is the one apt is already configured with, so the repository names no host.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// Signs all suites of Debian's archive.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A private apt state: sources, lists and cache below one directory.
#[derive(Debug)]
pub(crate) struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// Makes the state below `dir` for `suites` and fetches their lists.
    pub(crate) fn fetch(dir: &Path, suites: &[&str]) -> Result<Self> {
        let apt = Self {
            dir: dir.to_path_buf(),
        };
        let mirror = Mirror::configured()?;
        fs::create_dir_all(dir.join("lists/partial"))?;
        fs::create_dir_all(dir.join("cache/archives/partial"))?;
        let sources: String = suites
            .iter()
            .map(|suite| mirror.source(suite) + "\n")
            .collect();
        fs::write(dir.join("sources.list"), sources)?;
        fs::write(apt.config(), apt.settings())?;
        shell::retry(|| shell::run(apt.command("apt-get").args(["-qq", "update"])))?;
        Ok(apt)
    }

    /// Names of the packages on offer that match an extended regular expression.
    pub(crate) fn names(&self, pattern: &str) -> Result<Vec<String>> {
        let mut search = self.command("apt-cache");
        let found = shell::capture(search.args(["search", "--names-only", pattern]))?;
        let names = found
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        Ok(names.map(str::to_owned).collect())
    }

    /// Versions of a package on offer, newest first.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<String>> {
        let listed = shell::capture(self.command("apt-cache").args(["madison", package]))?;
        let versions = listed.lines().filter_map(|line| line.split('|').nth(1));
        Ok(versions.map(|version| version.trim().to_owned()).collect())
    }

    /// Downloads `package` (or `package=version`) and unpacks its files below `path` into `into`.
    pub(crate) fn unpack(&self, package: &str, path: &str, into: &Path) -> Result<()> {
        let debs = self.dir.join("debs");
        if debs.exists() {
            fs::remove_dir_all(&debs)?;
        }
        fs::create_dir_all(&debs)?;
        fs::create_dir_all(into)?;
        shell::retry(|| {
            let mut download = self.command("apt-get");
            shell::run(
                download
                    .args(["-qq", "download", package])
                    .current_dir(&debs),
            )
        })?;
        let mut files = fs::read_dir(&debs)?;
        let deb = files
            .next()
            .with_context(|| format!("apt downloaded no file for `{package}`"))??;
        extract(&deb.path(), path, into)
            .with_context(|| format!("failed to unpack `{package}`"))?;
        fs::remove_dir_all(&debs)?;
        Ok(())
    }

    fn config(&self) -> PathBuf {
        self.dir.join("apt.conf")
    }

    /// Read after the system's own settings, from which proxies and the like are kept.
    fn settings(&self) -> String {
        let dir = self.dir.display();
        format!(
            "Dir::Etc::sourcelist \"{dir}/sources.list\";\n\
             Dir::Etc::sourceparts \"-\";\n\
             Dir::State::lists \"{dir}/lists\";\n\
             Dir::Cache \"{dir}/cache\";\n\
             Acquire::Languages \"none\";\n\
             APT::Sandbox::User \"root\";\n\
             #clear APT::Update::Post-Invoke;\n\
             #clear APT::Update::Post-Invoke-Success;\n"
        )
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.config());
        command
    }
}

/// Extracts the files of a package that lie below `path`.
fn extract(deb: &Path, path: &str, into: &Path) -> Result<()> {
    let mut archive = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start `dpkg-deb`")?;
    let stream = archive.stdout.take().context("`dpkg-deb` has no output")?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--no-same-owner", "--wildcards", "--directory"]);
    tar.arg(into).arg(format!("./{path}")).stdin(stream);
    let extracted = shell::run(&mut tar);
    archive.wait()?;
    extracted
}

/// Base address of the Debian archive that apt is configured with.
pub(crate) fn mirror() -> Result<String> {
    Ok(Mirror::configured()?.main)
}

/// Base addresses of the Debian archive that apt is configured with.
#[derive(Debug, PartialEq, Eq)]
struct Mirror {
    main: String,
    security: String,
}

impl Mirror {
    /// Asks apt, which needs no lists for it, unlike `apt-get indextargets`.
    fn configured() -> Result<Self> {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let codename = release
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        if !release.lines().any(|line| line == "ID=debian") {
            bail!("this is not Debian: its mirror is not Debian's");
        }
        let uris = shell::capture(Command::new("apt-get").args(["update", "--print-uris"]))?;
        codename
            .and_then(|codename| Self::of_uris(&uris, codename))
            .context("apt is configured with no mirror of this Debian release")
    }

    /// Finds `BASE/dists/CODENAME/InRelease` and the same for its security suite.
    fn of_uris(uris: &str, codename: &str) -> Option<Self> {
        let base = |suite: &str| {
            let file = format!("/dists/{suite}/InRelease");
            let uri = uris.lines().filter_map(|line| line.split('\'').nth(1));
            uri.filter_map(|uri| uri.strip_suffix(&file))
                .next()
                .map(str::to_owned)
        };
        let main = base(codename)?;
        let security = base(&format!("{codename}-security"));
        let security = security.unwrap_or_else(|| format!("{main}-security"));
        Some(Self { main, security })
    }

    /// The line of `sources.list` for a suite.
    fn source(&self, suite: &str) -> String {
        let base = if suite.ends_with("-security") {
            &self.security
        } else {
            &self.main
        };
        format!("deb [signed-by={KEYRING}] {base} {suite} main")
    }
}

/// Installs what is missing of `packages` from the system's own sources.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    shell::say(&format!(
        "installing what the tests need: {}",
        missing.join(" ")
    ));
    let apt = |args: &[&str]| {
        let mut command = shell::as_root("env");
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]);
        shell::run(command.args(args).stdin(Stdio::null()))
    };
    shell::retry(|| apt(&["update"]))?;
    let mut args = vec![
        "install",
        "--yes",
        "--no-install-recommends",
        "-o",
        "Dpkg::Use-Pty=0",
    ];
    args.extend(&missing);
    shell::retry(|| apt(&args)).with_context(|| format!("install by hand: {}", missing.join(" ")))
}

/// Which of `packages` are not installed.
fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    // Fails when it does not know a package, which is no error here.
    let known = Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status} ${Package}\n"])
        .args(packages)
        .output()
        .context("failed to start `dpkg-query`: the tests are set up on Debian and its kin only")?;
    let known = String::from_utf8_lossy(&known.stdout);
    let installed: Vec<_> = known
        .lines()
        .filter_map(|line| line.strip_prefix("installed "))
        .collect();
    Ok(packages
        .iter()
        .copied()
        .filter(|package| !installed.contains(package))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const URIS: &str = "\
        'http://mirror.test/a/debian/dists/bookworm/InRelease' mirror.test_InRelease 0 \n\
        'http://mirror.test/a/debian/dists/bookworm-updates/InRelease' mirror.test_InRelease 0 \n\
        'http://mirror.test/s/dists/bookworm-security/InRelease' mirror.test_InRelease 0 \n";

    #[test]
    fn the_mirror_is_the_one_of_this_release() {
        let mirror = Mirror::of_uris(URIS, "bookworm").unwrap();
        assert_eq!(
            mirror.source("sid"),
            format!("deb [signed-by={KEYRING}] http://mirror.test/a/debian sid main")
        );
        assert_eq!(
            mirror.source("trixie-security"),
            format!("deb [signed-by={KEYRING}] http://mirror.test/s trixie-security main")
        );
        assert_eq!(Mirror::of_uris(URIS, "trixie"), None);
    }

    #[test]
    fn a_package_nobody_has_is_missing() {
        assert_eq!(
            missing(&["dpkg", "no-such-package-as-this"]).unwrap(),
            ["no-such-package-as-this"]
        );
    }
}
