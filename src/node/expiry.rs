//! Ends the sessions whose lease ran out, while this node leads, and frees what they held.

use std::sync::Arc;
use std::time::Duration;

use switchboard_raft::{Applied, Leadership, Raft};
use tokio::time::Instant;

use super::leases::Leases;
use super::proposals::Proposals;
use super::replicated::{Replicated, decode_reply, encode_entry};
use crate::clock;
use crate::directory::{Command, Entry, Epoch, Outcome, Reason, Revision};

/// How often deadlines are looked at; endings come at most this late.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// How often the process shows itself that it is running.
const BEAT: Duration = Duration::from_millis(50);

/// A beat that comes this late means that the process was stalled, and the renewals with it.
const STALL: Duration = Duration::from_millis(500);

/// How long to wait for a decision before looking whether this node still leads.
const DECISION_WAIT: Duration = Duration::from_millis(200);

/// Sessions that are ended at the same time.
const ENDINGS_MAX: usize = 64;

/// How often to look for ended sessions: whoever waits for a connection of theirs is granted that much later.
const RECLAIM_TICK: Duration = Duration::from_millis(10);

/// Connections of an ended session whose memory one entry frees.
const RECLAIM_LIMIT: u32 = 500;

/// Ends sessions while this node leads.
#[derive(Debug, Clone)]
pub(super) struct Expiry {
    pub(super) raft: Raft,
    pub(super) state: Arc<Replicated>,
    pub(super) leases: Leases,
    pub(super) proposals: Proposals,
    pub(super) process: Arc<str>,
}

impl Expiry {
    /// Takes office and leaves it as leadership comes and goes, and looks at deadlines.
    pub(super) async fn run(self) {
        let mut leadership = self.raft.leadership();
        let now = leadership.borrow_and_update().clone();
        self.take_office(now);
        loop {
            tokio::select! {
                changed = leadership.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = leadership.borrow_and_update().clone();
                    self.take_office(now);
                }
                () = tokio::time::sleep(TICK) => self.end_overdue().await,
            }
        }
    }

    /// Notices that the process was stalled, and extends the leases by as much.
    pub(super) async fn beat(self) {
        loop {
            tokio::time::sleep(BEAT).await;
            let mut table = self.leases.table();
            let since = std::mem::replace(&mut table.beat, Instant::now());
            let gap = table.beat - since;
            if gap > STALL && table.leadership.is_some() {
                table.excuse(since);
                tracing::warn!(
                    ?gap,
                    "this node was stalled; leases are extended by as much, by their own length at most"
                );
            }
        }
    }

    /// Grants what waits for ended sessions and frees what they hold, slice by slice, as soon as their claims are free.
    pub(super) async fn reclaim(self) {
        loop {
            tokio::time::sleep(RECLAIM_TICK).await;
            while self.leases.table().leadership.is_some() {
                let ended = self.state.read().ended_sessions().find(|ended| !ended.claims).map(|ended| ended.epoch);
                let Some(epoch) = ended else { break };
                // Refused or unknown: the next turn finds out what is left.
                if self.proposals.propose(Command::Reclaim { epoch, limit: RECLAIM_LIMIT }).await.is_err() {
                    break;
                }
            }
        }
    }

    /// Every live session gets a whole lease: nobody knows when the leader before acknowledged its last renewal.
    fn take_office(&self, leadership: Option<Leadership>) {
        let directory = self.state.read();
        let mut table = self.leases.table();
        if table.leadership != leadership {
            table.leadership = leadership;
            table.leases.clear();
            table.ending.clear();
            table.admit(&directory);
        }
    }

    /// Ends the sessions whose deadline has passed, after this node has confirmed that it leads and has looked once more at
    /// renewals that have arrived.
    async fn end_overdue(&self) {
        let leadership = {
            let directory = self.state.read();
            let mut table = self.leases.table();
            table.admit(&directory);
            let Some(leadership) = table.leadership.clone() else { return };
            if !table.mark_overdue(ENDINGS_MAX) {
                return;
            }
            leadership
        };
        let confirmed = self.raft.read_index().await.is_ok();
        let overdue = {
            let mut table = self.leases.table();
            // A stall that the beat has not told of yet: then it will extend the leases first.
            if !confirmed || table.beat.elapsed() > STALL || table.leadership.as_ref() != Some(&leadership) {
                table.ending.clear();
                return;
            }
            table.still_overdue()
        };
        let endings = overdue.into_iter().map(|(epoch, late)| self.end(&leadership, epoch, Reason::Expired, late));
        futures_util::future::join_all(endings).await;
    }

    /// Proposes the ending of a session. The log decides; whatever the outcome, its renewals then go by the state machine.
    pub(super) async fn end(&self, leadership: &Leadership, epoch: Epoch, reason: Reason, late: Duration) {
        // Past its lease, and so past its own deadline, a gateway has fenced itself.
        let fenced = reason == Reason::Expired;
        let command = Command::EndSession { epoch, reason, fenced };
        let entry = Entry { at_ms: clock::wall_ms(), commands: vec![command] };
        let result = self.raft.propose_as(leadership, encode_entry(&entry).into()).await;
        match result {
            Ok(proposed) if decode_reply(&proposed.reply) == [Outcome::Ended(true)] => {
                self.tell_ended(epoch, reason, proposed.index, late);
            }
            Ok(_) => {}
            Err(error) => {
                tracing::info!(epoch, %error, "the end of a session could not be decided; it is tried again");
                if error.applied() == Applied::Unknown {
                    self.outlive(leadership).await;
                }
            }
        }
        self.leases.table().ending.remove(&epoch);
    }

    fn tell_ended(&self, epoch: Epoch, reason: Reason, revision: Revision, late: Duration) {
        let process = || Arc::clone(&self.process);
        if reason == Reason::Died {
            metrics::counter!("switchboard_session_deaths_total", "process" => process()).increment(1);
            return tracing::warn!(epoch, revision, after = ?late, "a gateway's process is gone; its session is over");
        }
        metrics::counter!("switchboard_session_expirations_total", "process" => process()).increment(1);
        metrics::histogram!("switchboard_lease_expiry_lag_seconds", "process" => process()).record(late);
        tracing::warn!(epoch, revision, ?late, "a gateway's lease ran out; its session is over");
    }

    /// Waits until whatever this node has proposed so far in this term is decided. Before that no renewal of a session whose
    /// ending may still come may be acknowledged.
    async fn outlive(&self, leadership: &Leadership) {
        let proposed = self.raft.status().last_log.unwrap_or(0);
        while self.raft.leadership().borrow().as_ref() == Some(leadership) {
            if self.raft.wait_applied(proposed, DECISION_WAIT).await.is_ok() {
                return;
            }
        }
    }
}
