//! Measured figures, shown even when the test passes: the test runner's capture is bypassed.

use std::io::Write as _;

/// Shows one figure with the test that measured it.
pub fn show(figure: &str) {
    let thread = std::thread::current();
    // A closed standard error takes the figure away, not the test's verdict.
    let _ = writeln!(
        std::io::stderr(),
        "FIGURE {}: {figure}",
        thread.name().unwrap_or("?")
    );
}
