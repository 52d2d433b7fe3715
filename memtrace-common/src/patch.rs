//! Calls that the loader replaces before a program is loaded.
//!
//! One program text serves three ways to attach. What differs between them, how a program learns which
//! function it stands on and whether it runs at the return, is a call to a number that is no helper; the loader
//! puts a helper call, a kernel function call or a constant in its place. The verifier then drops the branches
//! that cannot be taken.

/// `u64 cookie(ctx)`: the attach cookie (`bpf_get_attach_cookie`), or a constant where the kernel has none.
pub const CALL_COOKIE: u32 = 0x7eaf_0001;
/// `u64 is_return(ctx)`: `bpf_session_is_return`, or a constant in a program that is attached to one side only.
pub const CALL_IS_RETURN: u32 = 0x7eaf_0002;
