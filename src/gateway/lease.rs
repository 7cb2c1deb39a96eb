//! The lease as everybody in the process sees it: which session is held and until when it may be served.
//!
//! *Exclusive connections* are served only while the session that they were granted in is held, by this process's own
//! clock. Whoever is about to read or write for one looks here first, each time: a process that was stopped for a while
//! finds its deadline over at the first look, before it does anything, and asks the directory afterwards.
//!
//! *Nobody sleeps through a renewal.* Who looks reads the clock first and the deadline second; who extends stores the
//! deadline first and reads the clock second. So if anybody has found the former deadline over, the one who extends finds
//! that, too, and wakes those who wait.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock;
use crate::directory::Epoch;

/// The session and its deadline. Written by the session keeper, read by everybody, each time anew.
#[derive(Debug, Default)]
pub(super) struct Lease {
    epoch: AtomicU64,
    /// Nanoseconds on the clock that counts sleep.
    deadline: AtomicU64,
    /// Whether it was held when its keeper last looked.
    was_held: AtomicBool,
    confirmed: Notify,
}

/// What has become of the lease since its keeper last looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is held.
    Held,
    /// It is over, or the session is: exclusive connections are not served.
    Fenced,
}

impl Lease {
    /// A session was granted; it may be served until `deadline`.
    pub(super) fn hold(&self, epoch: Epoch, deadline: Duration) {
        self.deadline.store(nanos(deadline), Ordering::SeqCst);
        self.epoch.store(epoch, Ordering::SeqCst);
        self.confirmed.notify_waiters();
    }

    /// A renewal was acknowledged. Deadlines only move forward: answers may overtake each other. Whether the former one was
    /// over, so that somebody may be waiting.
    pub(super) fn extend(&self, deadline: Duration) -> bool {
        let former = self.deadline.fetch_max(nanos(deadline), Ordering::SeqCst);
        let was_over = nanos(clock::boottime()) >= former;
        if was_over {
            self.confirmed.notify_waiters();
        }
        was_over
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
        let now = clock::boottime();
        if self.epoch().is_none() {
            return Duration::ZERO;
        }
        Duration::from_nanos(self.deadline.load(Ordering::SeqCst)).saturating_sub(now)
    }

    /// Whether the session may be served now.
    pub(super) fn is_held(&self) -> bool {
        !self.left().is_zero()
    }

    /// Whether what this session was granted for itself alone may be served now.
    pub(super) fn serves(&self, epoch: Epoch) -> bool {
        let left = self.left();
        !left.is_zero() && self.epoch() == Some(epoch)
    }

    /// Waits until the session may be served.
    pub(super) async fn held(&self) {
        loop {
            let confirmed = self.confirmed.notified();
            if self.is_held() {
                return;
            }
            confirmed.await;
        }
    }

    /// What has changed since this was last asked; for its keeper.
    pub(super) fn turn(&self) -> Option<Turn> {
        let is_held = self.is_held();
        let turn = if is_held { Turn::Held } else { Turn::Fenced };
        (self.was_held.swap(is_held, Ordering::SeqCst) != is_held).then_some(turn)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_seconds(seconds: u64) -> Duration {
        clock::boottime() + Duration::from_secs(seconds)
    }

    #[test]
    fn a_late_answer_never_shortens_a_lease() {
        let lease = Lease::default();
        assert!(!lease.is_held());
        lease.hold(7, in_seconds(50));
        assert!(!lease.extend(in_seconds(10)), "nobody waits");
        assert!(lease.left() > Duration::from_secs(40));
        lease.lose();
        assert_eq!((lease.epoch(), lease.left()), (None, Duration::ZERO));
    }

    #[test]
    fn a_deadline_that_is_over_fences_but_keeps_the_session() {
        let lease = Lease::default();
        lease.hold(7, clock::boottime());
        assert_eq!((lease.epoch(), lease.is_held(), lease.serves(7)), (Some(7), false, false));
        assert!(lease.extend(in_seconds(10)), "somebody may wait for it");
        assert_eq!((lease.serves(7), lease.serves(6)), (true, false), "only what it was granted");
    }

    #[test]
    fn each_turn_is_told_once() {
        let lease = Lease::default();
        assert_eq!(lease.turn(), None);
        lease.hold(7, in_seconds(50));
        assert_eq!((lease.turn(), lease.turn()), (Some(Turn::Held), None));
        lease.lose();
        assert_eq!((lease.turn(), lease.turn()), (Some(Turn::Fenced), None));
    }
}
