//! How much memory a program can ask this machine for.

use std::fs;

/// Requests beyond this many bytes fail: more than memory and swap together, unless the kernel is told to promise
/// whatever is asked for (`vm.overcommit_memory` 1). `u64::MAX` when the kernel does not tell.
pub(super) fn largest_request() -> u64 {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    if read("/proc/sys/vm/overcommit_memory").trim() == "1" {
        return u64::MAX;
    }
    sum_of_totals(&read("/proc/meminfo")).unwrap_or(u64::MAX)
}

fn sum_of_totals(meminfo: &str) -> Option<u64> {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    bytes("MemTotal:")?.checked_add(bytes("SwapTotal:")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_swap_are_added() {
        let meminfo = "MemTotal:        2048 kB\nMemFree:  1 kB\nSwapTotal:       1024 kB\n";
        assert_eq!(sum_of_totals(meminfo), Some(3 << 20));
        assert_eq!(sum_of_totals("MemTotal: lots"), None);
    }
}
