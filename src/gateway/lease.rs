//! The lease as everybody in the process sees it: which session is held and until when it may be served.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock;
use crate::directory::Epoch;

/// The session and its deadline. Written by the session keeper, read by everybody, each time anew: a process that was
/// stopped for a while finds its deadline over at the first look.
#[derive(Debug, Default)]
pub(super) struct Lease {
    epoch: AtomicU64,
    /// Nanoseconds on the clock that counts sleep.
    deadline: AtomicU64,
}

impl Lease {
    /// A session was granted; it may be served until `deadline`.
    pub(super) fn hold(&self, epoch: Epoch, deadline: Duration) {
        self.deadline.store(nanos(deadline), Ordering::SeqCst);
        self.epoch.store(epoch, Ordering::SeqCst);
    }

    /// A renewal was acknowledged. Deadlines only move forward: answers may overtake each other.
    pub(super) fn extend(&self, deadline: Duration) {
        self.deadline.fetch_max(nanos(deadline), Ordering::SeqCst);
    }

    /// The session is over.
    pub(super) fn lose(&self) {
        self.epoch.store(0, Ordering::SeqCst);
    }

    /// The session, whether or not its deadline is over.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        match self.epoch.load(Ordering::SeqCst) {
            0 => None,
            epoch => Some(epoch),
        }
    }

    /// What is left until the gateway has to fence itself; zero when that moment is over or there is no session.
    pub(super) fn left(&self) -> Duration {
        if self.epoch().is_none() {
            return Duration::ZERO;
        }
        Duration::from_nanos(self.deadline.load(Ordering::SeqCst)).saturating_sub(clock::boottime())
    }

    /// Whether the session may be served now.
    pub(super) fn is_held(&self) -> bool {
        !self.left().is_zero()
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_answer_never_shortens_a_lease() {
        let lease = Lease::default();
        assert!(!lease.is_held());
        lease.hold(7, clock::boottime() + Duration::from_secs(50));
        lease.extend(clock::boottime() + Duration::from_secs(10));
        assert!(lease.left() > Duration::from_secs(40));
        lease.lose();
        assert_eq!((lease.epoch(), lease.left()), (None, Duration::ZERO));
    }

    #[test]
    fn a_deadline_that_is_over_fences_but_keeps_the_session() {
        let lease = Lease::default();
        lease.hold(7, clock::boottime());
        assert_eq!((lease.epoch(), lease.is_held()), (Some(7), false));
    }
}
