//! Frees the exclusive claims of sessions that ended before their gateway was known to have stopped, one whole lease later.
//!
//! *Why then.* A gateway serves exclusive connections for four fifths of a lease after it sent the last renewal that was
//! acknowledged, and none is acknowledged once the ending is applied. So a lease after that it has stopped, whatever
//! became of it. Who leads counts from when it saw the ending, or from when it took office: both are later.

use std::collections::HashMap;
use std::time::Duration;

use switchboard_raft::Leadership;
use tokio::time::Instant;

use super::expiry::{Expiry, TICK};
use super::replicated::encode_entry;
use crate::clock;
use crate::directory::{Command, Entry, Epoch};

/// Since when this leader knows of the endings whose claims stay.
#[derive(Debug, Default)]
struct Waiting {
    leadership: Option<Leadership>,
    since: HashMap<Epoch, Instant>,
}

impl Waiting {
    /// Takes in which endings there are, with their leases, and says which of them are due.
    fn due(&mut self, leadership: Option<Leadership>, ended: &[(Epoch, Duration)], now: Instant) -> Vec<Epoch> {
        if self.leadership != leadership {
            *self = Self { leadership, since: HashMap::new() };
        }
        self.since.retain(|epoch, _| ended.iter().any(|(of, _)| of == epoch));
        let is_due = |(epoch, lease): &&(Epoch, Duration)| {
            let since = *self.since.entry(*epoch).or_insert(now);
            now.saturating_duration_since(since) >= *lease
        };
        ended.iter().filter(is_due).map(|(epoch, _)| *epoch).collect()
    }
}

impl Expiry {
    /// Frees claims while this node leads.
    pub(super) async fn release_claims(self) {
        let mut waiting = Waiting::default();
        loop {
            tokio::time::sleep(TICK).await;
            let leadership = self.leases.table().leadership.clone();
            let ended: Vec<_> = match &leadership {
                Some(_) => {
                    let directory = self.state.read();
                    let kept = directory.ended_sessions().filter(|ended| ended.claims);
                    kept.map(|ended| (ended.epoch, Duration::from_millis(ended.session.lease_ms.into()))).collect()
                }
                None => Vec::new(),
            };
            let due = waiting.due(leadership.clone(), &ended, Instant::now());
            let Some(leadership) = leadership else { continue };
            for epoch in due {
                let entry = Entry { at_ms: clock::wall_ms(), commands: vec![Command::ReleaseClaims { epoch }] };
                // Whether it is decided is seen at the next look.
                match self.raft.propose_as(&leadership, encode_entry(&entry).into()).await {
                    Ok(_) => tracing::info!(epoch, "a lease after the session ended, its claims are free"),
                    Err(error) => tracing::info!(epoch, %error, "claims could not be freed; it is tried again"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_claim_is_due_one_lease_after_it_was_seen_and_another_leader_counts_anew() {
        let (now, lease) = (Instant::now(), Duration::from_secs(3));
        let (first, second) = (Some(Leadership::for_tests(1)), Some(Leadership::for_tests(2)));
        let ended = [(5, lease), (6, 2 * lease)];
        let mut waiting = Waiting::default();
        assert_eq!(waiting.due(first.clone(), &ended, now), [0; 0]);
        assert_eq!(waiting.due(first.clone(), &ended, now + lease / 2), [0; 0]);
        assert_eq!(waiting.due(first, &ended, now + lease), [5]);
        assert_eq!(waiting.due(second.clone(), &ended, now + lease), [0; 0]);
        assert_eq!(waiting.due(second.clone(), &ended, now + lease * 2), [5]);
        assert_eq!(waiting.due(second, &ended[1..], now + lease * 3), [6]);
    }
}
