//! What a probe is told about the place it stands on: the attach cookie of every allocator probe.
//!
//! | bits | |
//! |---|---|
//! | 0-7 | [`kind`](crate::kind) of the function |
//! | 8-11, 12-15, 16-19 | where its first, second and third argument are |
//! | 20 | [`THROWS`] |
//! | 21-22 | [`domain`](crate::domain) of the function |
//! | 23 | [`TRIAL`] |
//!
//! A place is the index of a register in the kernel's `struct pt_regs`, as exclusive or with the index of the register
//! that the argument came in: a function whose arguments are all in place has its kind for a cookie.

/// Index in `struct pt_regs` (arch/x86/include/asm/ptrace.h) by the number in the instruction encoding. `rsp`, which
/// holds no argument, has a place outside of the 16 that can be named, and here that of no register.
const SAVED_INDEX: [u32; 16] = [10, 11, 12, 5, 15, 4, 13, 14, 9, 8, 7, 6, 3, 2, 1, 0];

/// Indices of `rdi`, `rsi` and `rdx`: where the first three arguments come (System V ABI, x86-64 supplement, 3.2.3).
const IN_PLACE: [u32; 3] = [14, 13, 12];

/// The function throws an exception when it fails. No unwinder gets past a return address that the kernel has
/// replaced, and the program would be ended: a call that must fail is not to be followed to its return.
pub const THROWS: u32 = 1 << 20;

/// The function is only listened to: what it returns and what it is given to free is told as it is, whatever it is called
/// from, and counts nowhere.
pub const TRIAL: u32 = 1 << 23;

/// Where the domain is.
const DOMAIN_SHIFT: u32 = 21;

/// `cookie` for a function of CPython's `domain`.
#[must_use]
pub const fn with_domain(cookie: u32, domain: u32) -> u32 {
    cookie | (domain & 3) << DOMAIN_SHIFT
}

/// Domain of the function.
#[must_use]
pub const fn domain(cookie: u32) -> u32 {
    (cookie >> DOMAIN_SHIFT) & 3
}

/// The cookie of a function of `kind` whose arguments are in `registers`, numbered as instructions encode them.
#[must_use]
pub const fn pack(kind: u32, registers: [u8; 3]) -> u32 {
    let mut cookie = kind & 0xff;
    let mut argument = 0;
    while argument < IN_PLACE.len() {
        let index = SAVED_INDEX[(registers[argument] & 15) as usize];
        cookie |= (index ^ IN_PLACE[argument]) << shift(argument);
        argument += 1;
    }
    cookie
}

/// What the function does.
#[must_use]
pub const fn kind(cookie: u32) -> u32 {
    cookie & 0xff
}

/// Whether all arguments are in the registers they came in.
#[must_use]
pub const fn is_in_place(cookie: u32) -> bool {
    cookie & (0xfff << 8) == 0
}

/// Index in `struct pt_regs` of the register that holds `argument` (0, 1 or 2).
#[must_use]
pub const fn saved_index(cookie: u32, argument: usize) -> u32 {
    ((cookie >> shift(argument)) & 15) ^ IN_PLACE[argument]
}

const fn shift(argument: usize) -> usize {
    8 + 4 * argument
}

// rdi, rsi and rdx are where nothing has to be said; rcx (1) is told from them.
const _: () = assert!(pack(crate::kind::MALLOC, [7, 6, 2]) == crate::kind::MALLOC);
const _: () = assert!(saved_index(pack(crate::kind::CALLOC, [0, 6, 1]), 0) == 10);
const _: () = assert!(saved_index(pack(crate::kind::CALLOC, [0, 6, 1]), 1) == 13);
const _: () = assert!(saved_index(pack(crate::kind::CALLOC, [0, 6, 1]), 2) == 11);
const _: () = assert!(domain(with_domain(THROWS | TRIAL | 0xf_ffff, 2)) == 2);
const _: () = assert!(kind(with_domain(crate::kind::FREE, 3) | TRIAL) == crate::kind::FREE);
