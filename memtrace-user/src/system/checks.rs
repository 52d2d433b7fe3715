//! The checks of `memtrace doctor` that need no trial.

use super::{Capability, Check, Privileges, System};

/// The pid namespace the kernel begins with (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";
/// From here on BPF memory counts in the cgroup, not against RLIMIT_MEMLOCK.
const FIRST_WITHOUT_MEMLOCK: (u32, u32) = (5, 11);
/// The oldest kernel that is tried.
const OLDEST: (u32, u32) = (5, 10);
/// The oldest kernel that is promised.
const PROMISED: (u32, u32) = (6, 1);

/// Everything that files tell.
#[must_use]
pub fn checks(system: &System) -> Vec<Check> {
    let privileges = Privileges::read(system).ok();
    let has_perfmon = privileges.is_some_and(|privileges| privileges.has(Capability::Perfmon));
    vec![
        kernel(system),
        capabilities(privileges),
        mapped_files(privileges),
        btf(system),
        uprobes(system),
        perf_events(system, has_perfmon),
        unprivileged_bpf(system, privileges),
        lockdown(system),
        memlock(system),
        pid_namespace(system),
    ]
}

fn kernel(system: &System) -> Check {
    const NAME: &str = "kernel";
    match system.kernel_release() {
        Some((release, version)) if version >= PROMISED => Check::ok(NAME, release),
        Some((release, version)) if version >= OLDEST => Check::degraded(
            NAME,
            format!("{release}: older than 6.1, best effort"),
            "a kernel of 6.1 or newer is what memtrace is tested on",
        ),
        Some((release, _)) => Check::missing(
            NAME,
            format!("{release}: older than 5.10"),
            "use a newer kernel",
        ),
        None => Check::degraded(NAME, "release unknown", "mount /proc"),
    }
}

fn capabilities(privileges: Option<Privileges>) -> Check {
    const NAME: &str = "capabilities";
    let Some(privileges) = privileges else {
        return Check::missing(NAME, "/proc/self/status cannot be read", "mount /proc");
    };
    match privileges.missing(&Capability::NEEDED) {
        None => Check::ok(
            NAME,
            format!(
                "uid {} with CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE",
                privileges.uid
            ),
        ),
        Some(missing) => Check::missing(
            NAME,
            format!("uid {} without {missing}", privileges.uid),
            "sudo memtrace doctor",
        ),
    }
}

fn mapped_files(privileges: Option<Privileges>) -> Check {
    const NAME: &str = "mapped files";
    match privileges.and_then(|privileges| privileges.missing(&Capability::WANTED)) {
        None => Check::ok(NAME, "deleted and private files of targets can be opened"),
        Some(missing) => Check::degraded(
            NAME,
            format!(
                "no {missing}: some files of targets cannot be opened, their frames stay unnamed"
            ),
            "run as root, or add these capabilities",
        ),
    }
}

fn btf(system: &System) -> Check {
    const NAME: &str = "kernel types (BTF)";
    const PATH: &str = "/sys/kernel/btf/vmlinux";
    match std::fs::metadata(system.path(PATH)) {
        Ok(_) => Check::ok(NAME, PATH),
        Err(error) => Check::missing(
            NAME,
            format!("{PATH}: {}", error.kind()),
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        ),
    }
}

fn uprobes(system: &System) -> Check {
    const NAME: &str = "uprobes";
    if system.has("/sys/bus/event_source/devices/uprobe/type") {
        Check::ok(NAME, "supported")
    } else {
        Check::missing(
            NAME,
            "the kernel has none",
            "use a kernel built with CONFIG_UPROBE_EVENTS=y",
        )
    }
}

fn perf_events(system: &System, has_perfmon: bool) -> Check {
    const NAME: &str = "perf_event_paranoid";
    const PATH: &str = "/proc/sys/kernel/perf_event_paranoid";
    match system.text(PATH) {
        Ok(level) if has_perfmon => Check::ok(NAME, format!("{level}, which CAP_PERFMON passes")),
        Ok(level) => Check::missing(
            NAME,
            format!("{level} and no CAP_PERFMON"),
            "run as root; uprobes need CAP_PERFMON at every level",
        ),
        Err(_) => Check::missing(
            NAME,
            "the kernel has none",
            "use a kernel built with CONFIG_PERF_EVENTS=y",
        ),
    }
}

fn unprivileged_bpf(system: &System, privileges: Option<Privileges>) -> Check {
    const NAME: &str = "unprivileged_bpf";
    let has_bpf = privileges.is_some_and(|privileges| privileges.has(Capability::Bpf));
    match system.text("/proc/sys/kernel/unprivileged_bpf_disabled") {
        Ok(value) if has_bpf => {
            Check::ok(NAME, format!("disabled = {value}, which CAP_BPF passes"))
        }
        Ok(value) => Check::missing(
            NAME,
            format!("disabled = {value} and no CAP_BPF"),
            "run as root",
        ),
        Err(_) => Check::missing(
            NAME,
            "the kernel has none",
            "use a kernel built with CONFIG_BPF_SYSCALL=y",
        ),
    }
}

/// The file marks the mode in force: `none [integrity] confidentiality`.
fn lockdown(system: &System) -> Check {
    const NAME: &str = "lockdown";
    let Ok(modes) = system.text("/sys/kernel/security/lockdown") else {
        return Check::ok(NAME, "not in this kernel, or not mounted");
    };
    let mode = modes
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or("none", |(mode, _)| mode);
    match mode {
        "confidentiality" => Check::missing(
            NAME,
            "confidentiality: BPF may not read memory",
            "boot with lockdown=integrity, or without Secure Boot",
        ),
        mode => Check::ok(NAME, mode),
    }
}

fn memlock(system: &System) -> Check {
    const NAME: &str = "locked memory";
    let is_old = system
        .kernel_release()
        .is_some_and(|(_, version)| version < FIRST_WITHOUT_MEMLOCK);
    let limits = system.text("/proc/self/limits").unwrap_or_default();
    let limit = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"));
    let soft = limit
        .and_then(|line| line.split_whitespace().next())
        .unwrap_or("unknown");
    let words = match soft.parse::<u64>() {
        Ok(bytes) => format!("{} KiB", bytes / 1024),
        Err(_) => soft.to_owned(),
    };
    match soft {
        _ if !is_old => Check::ok(
            NAME,
            format!("{words}; does not bind BPF since kernel 5.11"),
        ),
        "unlimited" => Check::ok(NAME, words),
        _ => Check::degraded(
            NAME,
            format!("{words}; memtrace raises it if it may"),
            "ulimit -l unlimited",
        ),
    }
}

fn pid_namespace(system: &System) -> Check {
    const NAME: &str = "pid namespace";
    match std::fs::read_link(system.path("/proc/self/ns/pid")) {
        Ok(namespace) if namespace.as_os_str() == INITIAL_PID_NAMESPACE => {
            Check::ok(NAME, "the machine's own")
        }
        Ok(_) => Check::missing(
            NAME,
            "a container's: process ids here are not the kernel's",
            "run on the host, or in a container with its pid namespace (--pid=host)",
        ),
        Err(error) => Check::degraded(NAME, format!("unknown: {}", error.kind()), "mount /proc"),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use super::*;
    use crate::system::Verdict;

    const GOOD: [(&str, &str); 9] = [
        ("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n"),
        (
            "proc/self/status",
            "Uid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n",
        ),
        (
            "proc/self/limits",
            "Max locked memory         8388608   8388608   bytes\n",
        ),
        ("sys/kernel/btf/vmlinux", "btf"),
        ("proc/sys/kernel/perf_event_paranoid", "3\n"),
        ("proc/sys/kernel/unprivileged_bpf_disabled", "2\n"),
        (
            "sys/kernel/security/lockdown",
            "none [integrity] confidentiality\n",
        ),
        ("proc/self/ns/place", ""),
        ("sys/bus/event_source/devices/uprobe/type", "8\n"),
    ];

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A good machine with one file changed, or taken away.
    fn verdict_of(name: &str, change: Option<(&str, &str)>) -> Verdict {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in GOOD {
            write(folder.path(), path, text);
        }
        symlink(
            INITIAL_PID_NAMESPACE,
            folder.path().join("proc/self/ns/pid"),
        )
        .unwrap();
        match change {
            Some((path, "")) => fs::remove_file(folder.path().join(path)).unwrap(),
            Some((path, text)) => write(folder.path(), path, text),
            None => {}
        }
        let checks = checks(&System::at(folder.path()));
        let check = checks.iter().find(|check| check.name == name).unwrap();
        assert_eq!(
            check.verdict == Verdict::Ok,
            check.remedy.is_none(),
            "{check:?}"
        );
        check.verdict
    }

    #[test]
    fn a_good_machine_passes_every_check() {
        for name in checks(&System::here()).iter().map(|check| check.name) {
            assert_eq!(verdict_of(name, None), Verdict::Ok, "{name}");
        }
    }

    #[test]
    fn what_is_not_there_is_missing() {
        let cases = [
            ("kernel", "proc/sys/kernel/osrelease", "4.19.0\n"),
            (
                "capabilities",
                "proc/self/status",
                "Uid:\t1\t1\t1\t1\nCapEff:\t0\n",
            ),
            ("kernel types (BTF)", "sys/kernel/btf/vmlinux", ""),
            ("uprobes", "sys/bus/event_source/devices/uprobe/type", ""),
            (
                "perf_event_paranoid",
                "proc/self/status",
                "Uid:\t1\t1\t1\t1\nCapEff:\t0\n",
            ),
            (
                "unprivileged_bpf",
                "proc/sys/kernel/unprivileged_bpf_disabled",
                "",
            ),
            (
                "lockdown",
                "sys/kernel/security/lockdown",
                "none integrity [confidentiality]\n",
            ),
        ];
        for (name, path, text) in cases {
            assert_eq!(
                verdict_of(name, Some((path, text))),
                Verdict::Missing,
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_worse_is_degraded() {
        assert_eq!(
            verdict_of("kernel", Some(("proc/sys/kernel/osrelease", "5.15.0-1"))),
            Verdict::Degraded
        );
        assert_eq!(
            verdict_of(
                "locked memory",
                Some(("proc/sys/kernel/osrelease", "5.10.1"))
            ),
            Verdict::Degraded
        );
        let no_restore = "Uid:\t1\t1\t1\t1\nCapEff:\t000000c000080000\n";
        assert_eq!(
            verdict_of("mapped files", Some(("proc/self/status", no_restore))),
            Verdict::Degraded
        );
        assert_eq!(
            verdict_of("capabilities", Some(("proc/self/status", no_restore))),
            Verdict::Ok
        );
    }

    #[test]
    fn a_containers_pid_namespace_is_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("proc/self/ns")).unwrap();
        symlink("pid:[4026532200]", folder.path().join("proc/self/ns/pid")).unwrap();
        assert_eq!(
            pid_namespace(&System::at(folder.path())).verdict,
            Verdict::Missing
        );
    }
}
