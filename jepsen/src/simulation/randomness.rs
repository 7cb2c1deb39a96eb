//! Makes every random choice of the process follow from the seed, also those that nobody asks our own source for: the keys
//! of the standard maps, the turns of `select!`, the election timeouts of the log.
//!
//! All of them begin with what the system gives. So its function is replaced by one of the same name, which is found first
//! because it is in the program itself. Before it is seeded it passes on what the system gives.

use std::ffi::{c_int, c_long, c_uint, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

/// 0 until it is seeded.
static STATE: AtomicU64 = AtomicU64::new(0);

#[cfg(target_arch = "x86_64")]
const SYS_GETRANDOM: c_long = 318;
#[cfg(target_arch = "aarch64")]
const SYS_GETRANDOM: c_long = 278;

/// From now on everything follows from `seed`.
pub(super) fn seed(seed: u64) {
    // The linker keeps what is named.
    let replaced = getrandom as unsafe extern "C" fn(*mut c_void, usize, c_uint) -> isize;
    std::hint::black_box(replaced);
    STATE.store(mixed(seed) | 1, Ordering::SeqCst);
    switchboard::chance::seed(seed.wrapping_mul(2).wrapping_add(1));
}

/// splitmix64, whose every output depends on every bit of its input.
fn mixed(from: u64) -> u64 {
    let mut z = from.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn next() -> u64 {
    mixed(STATE.fetch_add(0x9e37_79b9_7f4a_7c15 << 1, Ordering::SeqCst))
}

#[expect(unsafe_code, reason = "the system's function has this form")]
unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// In the place of the system's function of this name.
#[expect(unsafe_code, reason = "it takes the place of the system's function, and so its form")]
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(to: *mut c_void, bytes: usize, flags: c_uint) -> isize {
    if STATE.load(Ordering::SeqCst) == 0 {
        // SAFETY: the arguments are those that the caller has given for this very call.
        let given = unsafe { syscall(SYS_GETRANDOM, to, bytes, flags as c_int) };
        return isize::try_from(given).unwrap_or(-1);
    }
    // SAFETY: the caller hands over a buffer of this many bytes.
    let to = unsafe { std::slice::from_raw_parts_mut(to.cast::<u8>(), bytes) };
    for part in to.chunks_mut(8) {
        part.copy_from_slice(&next().to_le_bytes()[..part.len()]);
    }
    isize::try_from(bytes).unwrap_or(isize::MAX)
}
