//! From the rings to typed records.
//!
//! Bytes come from the ring buffers that the probes fill; typed records go to [`track`](crate::track). What a
//! record means is not known here.

pub mod decode;
pub mod pump;

#[cfg(test)]
mod obituary_tests;
