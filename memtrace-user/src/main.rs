//! memtrace.
fn main() {}
