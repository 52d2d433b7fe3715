//! Kernels to boot: Debian's, found by listing, because the mirror keeps only the newest of each series.

use std::{
    cmp::Reverse,
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context as _, Result};

use crate::{apt::Apt, shell};

/// Suites that carry the series of [`super::DEFAULT`].
const SUITES: [&str; 4] = [
    "bullseye-security",
    "bookworm-security",
    "trixie-security",
    "sid",
];

/// Packages that hold a kernel with everything a VM needs built in. Up to 6.x the image is in `linux-image-*`; from 7.x
/// on it is in `linux-binary-*`, and `linux-image-*` is empty.
const PACKAGES: &str = "^linux-(image|binary)-[0-9].*-cloud-amd64$";

/// Which kernel is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The newest on offer.
    Newest,
    /// The newest whose version begins with these numbers.
    Series(Vec<u32>),
}

/// A kernel that lies ready.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// Its version, as in the package's name.
    pub(super) version: String,
    /// Its image.
    pub(super) vmlinuz: PathBuf,
}

/// Finds each kernel in the cache below `dir` or downloads it.
pub(super) fn prepare(wanted: &[Wanted], dir: &Path) -> Result<Vec<Result<Kernel>>> {
    let cached: Vec<_> = wanted.iter().map(|wanted| cached(wanted, dir)).collect();
    if cached.iter().all(Option::is_some) {
        return Ok(cached.into_iter().flatten().map(Ok).collect());
    }
    shell::say("looking for kernels on the mirror");
    let apt = Apt::fetch(&dir.join("apt"), &SUITES)?;
    let offered = apt.names(PACKAGES)?;
    let get = |(wanted, cached): (&Wanted, Option<Kernel>)| match cached {
        Some(kernel) => Ok(kernel),
        None => download(wanted, &offered, &apt, dir),
    };
    Ok(wanted.iter().zip(cached).map(get).collect())
}

/// A kernel that was downloaded for the same wish. It stays until the directory is removed.
fn cached(wanted: &Wanted, dir: &Path) -> Option<Kernel> {
    let dir = dir.join("kernels").join(wanted.to_string());
    let version = fs::read_to_string(dir.join("version")).ok()?;
    let vmlinuz = dir.join("vmlinuz");
    vmlinuz.is_file().then_some(Kernel { version, vmlinuz })
}

fn download(wanted: &Wanted, offered: &[String], apt: &Apt, dir: &Path) -> Result<Kernel> {
    let package =
        newest(wanted, offered).with_context(|| format!("the mirror has no kernel {wanted}"))?;
    shell::say(&format!("downloading {package}"));
    let scratch = dir.join("unpacked");
    let home = dir.join("kernels").join(wanted.to_string());
    fs::create_dir_all(&home)?;
    let path = if package.starts_with("linux-binary") {
        "usr/lib/modules/*/vmlinuz"
    } else {
        "boot/vmlinuz-*"
    };
    apt.unpack(package, path, &scratch)?;
    let image =
        find_image(&scratch)?.with_context(|| format!("`{package}` holds no kernel image"))?;
    let vmlinuz = home.join("vmlinuz");
    fs::rename(image, &vmlinuz)?;
    fs::remove_dir_all(&scratch)?;
    let version = version(package).to_owned();
    fs::write(home.join("version"), &version)?;
    Ok(Kernel { version, vmlinuz })
}

/// The newest package that fits; of two that hold the same version, the one that is not empty.
fn newest<'a>(wanted: &Wanted, offered: &'a [String]) -> Option<&'a str> {
    let fits = |package: &&String| match wanted {
        Wanted::Newest => true,
        Wanted::Series(series) => numbers(version(package)).starts_with(series),
    };
    let order = |package: &&String| {
        (
            numbers(version(package)),
            Reverse(package.starts_with("linux-image")),
        )
    };
    offered
        .iter()
        .filter(fits)
        .max_by_key(order)
        .map(String::as_str)
}

/// `6.1.0-56` of `linux-image-6.1.0-56-cloud-amd64`.
fn version(package: &str) -> &str {
    let version = package
        .trim_start_matches("linux-image-")
        .trim_start_matches("linux-binary-");
    version.trim_end_matches("-cloud-amd64")
}

/// The numbers of a version, which order it.
fn numbers(version: &str) -> Vec<u32> {
    let runs = version.split(|character: char| !character.is_ascii_digit());
    runs.filter_map(|run| run.parse().ok()).collect()
}

fn find_image(dir: &Path) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_file() && name.starts_with("vmlinuz") {
            return Ok(Some(path));
        }
        if path.is_dir()
            && let Some(found) = find_image(&path)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

impl FromStr for Wanted {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "newest" {
            return Ok(Self::Newest);
        }
        let numbers: Result<Vec<u32>, _> = text.split('.').map(str::parse).collect();
        Ok(Self::Series(numbers.context(
            "a kernel is `newest` or a version such as `6.1`",
        )?))
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Newest => write!(f, "newest"),
            Self::Series(numbers) => {
                let numbers: Vec<_> = numbers.iter().map(u32::to_string).collect();
                write!(f, "{}", numbers.join("."))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered() -> Vec<String> {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.94+deb13-cloud-amd64",
            "linux-binary-7.2.13+deb14-cloud-amd64",
            "linux-image-7.2.13+deb14-cloud-amd64",
        ];
        names.map(str::to_owned).to_vec()
    }

    fn choice(wanted: &str) -> Option<String> {
        let wanted: Wanted = wanted.parse().unwrap();
        newest(&wanted, &offered()).map(str::to_owned)
    }

    #[test]
    fn the_newest_of_a_series_is_chosen_by_number() {
        assert_eq!(
            choice("6.1").as_deref(),
            Some("linux-image-6.1.0-56-cloud-amd64")
        );
        assert_eq!(
            choice("6.12").as_deref(),
            Some("linux-image-6.12.117+deb12-cloud-amd64")
        );
        assert_eq!(choice("5.10"), None);
    }

    #[test]
    fn the_package_that_holds_the_image_is_chosen() {
        let holder = "linux-binary-7.2.13+deb14-cloud-amd64";
        assert_eq!(choice("7").as_deref(), Some(holder));
        assert_eq!(choice("newest").as_deref(), Some(holder));
    }

    #[test]
    fn a_wish_is_a_version_or_newest() {
        assert!("6.x".parse::<Wanted>().is_err());
        assert_eq!("6.12".parse::<Wanted>().unwrap().to_string(), "6.12");
    }
}
