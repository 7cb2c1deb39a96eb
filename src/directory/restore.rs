//! The state with which a new cluster begins, made of one that an old cluster had.
//!
//! Nothing that was tied to a session is left: a lease of the old cluster is held by nobody in the new one. What outlives
//! sessions stays. All numbers go on far above every one that the old cluster may have given out, so that nothing of it, not
//! even what came after the state was saved, is ever taken for something of the new one.

use super::command::Reason;
use super::ids::{Epoch, Revision};
use super::outcome::Applied;
use super::state::Directory;

/// Revisions between a saved state and the new cluster's first. At 25,000 entries a second an old cluster that went on after
/// the state was saved needs sixteen months to get that far.
pub const RESTORE_DISTANCE: Revision = 1 << 40;

/// No revision is larger: JSON readers have numbers that are exact up to here. A cluster can be restored 8,000 times.
pub const REVISION_MAX: Revision = 1 << 53;

/// There are no revisions left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the state is at revision {0}: another restore would pass 2^53, beyond which JSON numbers are not exact")]
pub struct NoRevisionsLeft(pub Revision);

impl Directory {
    /// The state with which a new cluster begins: every session has ended, nothing of them is held, and the revision is above
    /// all of the old cluster.
    ///
    /// # Errors
    /// When that would be too large.
    pub fn begin_anew(mut self) -> Result<Self, NoRevisionsLeft> {
        let base = self.revision() + RESTORE_DISTANCE;
        if base > REVISION_MAX {
            return Err(NoRevisionsLeft(self.revision()));
        }
        self.advance(base);
        let live: Vec<Epoch> = self.sessions().map(|live| live.epoch).collect();
        for epoch in live {
            // Nobody watches, so nobody is told.
            self.end(epoch, Reason::Expired, true, &mut Applied::default());
        }
        let ended: Vec<Epoch> = self.ended_sessions().map(|ended| ended.epoch).collect();
        for epoch in ended {
            self.release_claims(epoch);
            // All sessions are over, so nothing that waits is granted.
            self.reclaim(epoch, u32::MAX, &mut Vec::new());
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Batch, Command, Entry, GatewayAddresses, Op, OpenRefused, OpenSession, Outcome, Policy, Register, Stats,
    };
    use super::*;

    fn open(gateway: &str, attempt: u64) -> Command {
        Command::OpenSession(OpenSession {
            gateway: gateway.into(),
            nonce: "n".into(),
            attempt,
            lease_ms: 3000,
            addresses: GatewayAddresses::default(),
        })
    }

    fn batch(epoch: Epoch, serials: std::ops::Range<u64>) -> Command {
        let register = |serial| {
            Op::Register(Register {
                serial,
                user: format!("user-{serial}").into(),
                device: "web".into(),
                policy: Policy::multi(9),
                since: None,
                connected_at_ms: 5,
                remote: None,
                meta: None,
            })
        };
        Command::Batch(Batch { epoch, seq: Some(1), ops: serials.map(register).collect() })
    }

    fn apply(directory: &mut Directory, command: Command) -> Outcome {
        let entry = Entry { at_ms: 0, commands: vec![command] };
        let outcome = directory.apply(directory.revision() + 1, &entry).outcomes.remove(0);
        directory.check_invariants().unwrap();
        outcome
    }

    fn saved() -> Directory {
        let mut directory = Directory::new();
        apply(&mut directory, open("gw-1", 1));
        apply(&mut directory, open("gw-2", 1));
        apply(&mut directory, batch(1, 1..2000));
        apply(&mut directory, batch(2, 1..300));
        // One session has ended and is only half reclaimed.
        apply(&mut directory, Command::EndSession { epoch: 2, reason: Reason::Died, fenced: true });
        apply(&mut directory, Command::Reclaim { epoch: 2, limit: 100 });
        directory
    }

    #[test]
    fn all_sessions_are_over_and_everything_new_is_above_everything_old() {
        let before = saved();
        let mut after = before.clone().begin_anew().unwrap();
        after.check_invariants().unwrap();
        assert_eq!(after.stats(), Stats { connections: 0, users: 0, sessions: 0 });
        assert_eq!(after.ended_sessions().count(), 0);
        assert_eq!(after.revision(), before.revision() + RESTORE_DISTANCE);
        assert_eq!(before.clone().begin_anew().unwrap().digest(), after.digest(), "it is deterministic");

        // An old session is fenced, a late copy of its opening is recognised, and the gateway's next one is granted.
        let fenced = apply(&mut after, batch(1, 5000..5001));
        assert!(matches!(fenced, Outcome::Batch(Err(_))), "{fenced:?}");
        assert_eq!(apply(&mut after, open("gw-1", 1)), Outcome::Opened(Err(OpenRefused::Stale)));
        let Outcome::Opened(Ok(epoch)) = apply(&mut after, open("gw-1", 2)) else { panic!("not opened") };
        assert!(epoch > before.revision() + RESTORE_DISTANCE);
    }

    #[test]
    fn a_state_without_revisions_left_is_refused() {
        let mut directory = saved();
        directory.advance(REVISION_MAX - RESTORE_DISTANCE);
        assert_eq!(directory.clone().begin_anew().unwrap().revision(), REVISION_MAX);
        directory.advance(REVISION_MAX - RESTORE_DISTANCE + 1);
        assert_eq!(directory.clone().begin_anew().unwrap_err(), NoRevisionsLeft(directory.revision()));
    }
}
