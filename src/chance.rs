//! Every random choice: jitter, nonces, message ids. One seed decides them all, so that a simulated run can be repeated.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

static SEED: AtomicU64 = AtomicU64::new(0);
static THREADS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static RNG: RefCell<fastrand::Rng> = RefCell::new(match SEED.load(Ordering::Relaxed) {
        0 => fastrand::Rng::new(),
        seed => fastrand::Rng::with_seed(seed.wrapping_add(THREADS.fetch_add(1, Ordering::Relaxed))),
    });
}

/// How the maps of the processes' own tables hash. In a simulation, where the order in them must not differ between two runs,
/// without a choice.
#[cfg(not(feature = "simulation"))]
pub type Hashing = foldhash::fast::RandomState;
/// As above.
#[cfg(feature = "simulation")]
pub type Hashing = foldhash::fast::FixedState;

/// Makes every later choice follow from `seed` (not 0). To be called before any other thread starts.
pub fn seed(seed: u64) {
    SEED.store(seed, Ordering::Relaxed);
    RNG.with_borrow_mut(|rng| rng.seed(seed));
}

/// Sixteen letters and digits that nobody else has.
pub fn nonce() -> String {
    RNG.with_borrow_mut(|rng| (0..16).map(|_| rng.alphanumeric()).collect())
}

/// Any number.
pub fn number() -> u64 {
    RNG.with_borrow_mut(|rng| rng.u64(..))
}

/// A number below `end`; 0 if `end` is 0.
pub fn below(end: u64) -> u64 {
    if end == 0 { 0 } else { RNG.with_borrow_mut(|rng| rng.u64(0..end)) }
}

/// `period`, longer or shorter by at most `share` of it: nothing periodic may run in step with its neighbours.
pub fn jittered(period: Duration, share: f64) -> Duration {
    let unit = RNG.with_borrow_mut(fastrand::Rng::f64) * 2.0 - 1.0;
    period.mul_f64(1.0 + unit * share.clamp(0.0, 0.99))
}
