//! Lifts bans that are over, while this node leads.
//!
//! Whether one is over is decided here, by this node's wall clock, and arrives in the log as a command like any other; the
//! command names the ban that it means, so that one which was made anew meanwhile stays. The earliest end is found without
//! a walk, however many users are banned.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::leases::Leases;
use super::proposals::Proposals;
use super::replicated::Replicated;
use crate::clock;
use crate::directory::{Command, Outcome, Revision};

/// How often to look; a ban is lifted at most so much late.
const TICK: Duration = Duration::from_millis(250);

/// Bans that are lifted at the same time.
const LIFTED_AT_ONCE_MAX: usize = 256;

/// Lifts bans as they end.
pub(super) async fn lift(state: Arc<Replicated>, leases: Leases, proposals: Proposals) {
    loop {
        tokio::time::sleep(TICK).await;
        while leases.table().leadership.is_some() {
            let over = over(&state, clock::wall_ms());
            let lifted = join_all(over.iter().map(|(user, made)| lift_one(&proposals, user, *made))).await;
            // What was refused, or is not known, the next turn finds out.
            if over.len() < LIFTED_AT_ONCE_MAX || !lifted.into_iter().all(|done| done) {
                break;
            }
        }
    }
}

/// The earliest bans that are over, and when each was made.
fn over(state: &Replicated, now_ms: u64) -> Vec<(Arc<str>, Revision)> {
    let directory = state.read();
    let over = directory.bans_by_end().take_while(|banned| banned.ban.until_ms.is_some_and(|until| until <= now_ms));
    over.take(LIFTED_AT_ONCE_MAX).map(|banned| (Arc::clone(banned.user), banned.made)).collect()
}

/// Whether it was decided.
async fn lift_one(proposals: &Proposals, user: &Arc<str>, made: Revision) -> bool {
    let command = Command::Unban { user: Arc::clone(user), made: Some(made) };
    match proposals.propose(command).await {
        Ok((revision, Outcome::Unbanned(lifted))) => {
            if lifted {
                tracing::info!(%user, made, revision, "a ban is over; the user may connect again");
            }
            true
        }
        Ok((_, other)) => unreachable!("lifting a ban has an outcome of its own, not {other:?}"),
        Err(error) => {
            tracing::debug!(%user, made, %error, "a ban that is over could not be lifted; it is tried again");
            false
        }
    }
}
