//! The arithmetic of leases, the same on both sides: how long a gateway serves, how often it renews, which leases are safe.
//!
//! The gateway counts from the moment at which it *sent* the renewal and stops at [`serve`]; the leader counts the whole
//! lease from the moment at which it *received* it. So the gateway gives up first, as long as the two clocks' speeds
//! differ by less than a fifth.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Leases that are granted.
pub const LEASES: RangeInclusive<Duration> = Duration::from_secs(3)..=Duration::from_secs(60);

/// Share of [`renew_every`] by which a renewal may come early or late.
pub const JITTER: f64 = 0.1;

/// What a fail-over takes besides two elections: noticing, connecting to the new leader, its first commit.
const FAIL_OVER_MARGIN: Duration = Duration::from_millis(500);

/// How long a gateway serves after it sent a renewal that was acknowledged.
pub fn serve(lease: Duration) -> Duration {
    lease * 4 / 5
}

/// How often a gateway renews, before jitter.
pub fn renew_every(lease: Duration) -> Duration {
    lease / 5
}

/// How long after a stall of the leader a session goes on that had as much of its lease left before. Every gateway that is
/// awake renews within that time: the next renewal is due after one interval at most, and one that failed during the stall
/// is repeated sooner; the rest is for jitter, and for connecting anew to a node that had stopped answering.
pub fn calm(lease: Duration) -> Duration {
    renew_every(lease) * 3 / 2
}

/// Refuses a lease that one fail-over could let run out although the gateway is healthy: what is left of it when a renewal
/// just fails must outlast two elections.
///
/// # Errors
/// A sentence that says what to change.
pub fn check(lease: Duration, election_max: Duration) -> Result<(), String> {
    if !LEASES.contains(&lease) {
        return Err(format!("a lease is {:?} to {:?}, not {lease:?}", LEASES.start(), LEASES.end()));
    }
    let left = serve(lease).saturating_sub(renew_every(lease).mul_f64(1.0 + JITTER));
    let needed = election_max * 2 + FAIL_OVER_MARGIN;
    if left < needed {
        return Err(format!(
            "a lease of {lease:?} is too short for elections of up to {election_max:?}: {left:?} are left when a renewal \
             fails, and a fail-over may take {needed:?}; use a lease of at least {:?}",
            shortest(needed)
        ));
    }
    Ok(())
}

/// The shortest lease, in whole seconds, that leaves `needed`.
fn shortest(needed: Duration) -> Duration {
    let share = 0.8 - 0.2 * (1.0 + JITTER);
    Duration::from_secs(needed.div_f64(share).as_secs() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_serves_four_fifths_of_its_lease_and_renews_five_times_meanwhile() {
        let lease = Duration::from_secs(3);
        assert_eq!((serve(lease), renew_every(lease)), (Duration::from_millis(2400), Duration::from_millis(600)));
    }

    #[test]
    fn the_defaults_survive_a_fail_over_and_slower_elections_need_longer_leases() {
        assert_eq!(check(Duration::from_secs(3), Duration::from_millis(600)), Ok(()));
        let why = check(Duration::from_secs(3), Duration::from_secs(2)).unwrap_err();
        assert!(why.contains("at least 8s"), "{why}");
        assert_eq!(check(Duration::from_secs(8), Duration::from_secs(2)), Ok(()));
        assert!(check(Duration::from_secs(2), Duration::from_millis(100)).is_err());
        assert!(check(Duration::from_secs(61), Duration::from_millis(100)).is_err());
    }
}
