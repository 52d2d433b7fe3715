//! The wire contract: every type that crosses from the probes to the collector, and every limit both
//! sides rely on.
//!
//! Rules for a type in this crate: `repr(C)`, no implicit padding, no `bool`, no Rust enum, no `Option`,
//! no `usize`. Kinds are plain integers with named constants; a value that the reader does not know is data,
//! never a panic. The [`wire!`] macro lets the compiler prove all of it.
//!
//! This crate does not know maps, programs or processes; see `memtrace-ebpf` for who writes a type and
//! `memtrace-user` for who reads it.

#![no_std]
#![cfg_attr(
    feature = "user",
    expect(
        missing_debug_implementations,
        reason = "zerocopy's derives declare hidden types without it"
    )
)]

/// Declares a struct that crosses from the probe to user space.
///
/// The number in brackets is its size in bytes, asserted on both sides: a layout that moves breaks the
/// build, not a trace.
macro_rules! wire {
    ($(#[$meta:meta])* pub struct $name:ident ($size:literal) {
        $($(#[$field_meta:meta])* pub $field:ident: $type:ty),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[cfg_attr(
            feature = "user",
            derive(
                zerocopy::FromBytes,
                zerocopy::IntoBytes,
                zerocopy::Immutable,
                zerocopy::KnownLayout,
            )
        )]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type),*
        }

        const _: () = assert!(core::mem::size_of::<$name>() == $size);

        // SAFETY: `IntoBytes` above proves that there is no padding, `FromBytes` that every bit pattern is
        // a value.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $name {}
    };
}

pub mod cookie;
pub mod domain;
pub mod edit;
pub mod event;
pub mod kind;
pub mod limits;
pub mod notice;
pub mod obituary;
pub mod patch;
pub mod process;
pub mod python;
pub mod stack;
pub mod stats;
pub mod unwind;
