//! `workloads NAME…`: compiles these workload programs and prints where they are, one path a line.
//!
//! For who needs the programs without the tests: `cargo xtask vm` puts them into a machine that has no compiler.

use std::io::Write as _;

use anyhow::Result;
use memtrace_tests::programs::{self, Link};

fn main() -> Result<()> {
    for name in std::env::args().skip(1) {
        let path = programs::build(&name, Link::Dynamic)?;
        writeln!(std::io::stdout(), "{}", path.display())?;
    }
    Ok(())
}
