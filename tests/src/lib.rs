//! Helpers of the tests that drive real probes on real processes.
