//! Leases: deadlines in the leader's memory, renewals that a quorum confirms, expiry that the log decides.
//!
//! *Why a deposed leader does no harm.* It can't acknowledge a renewal, because the ReadIndex round fails that begins after
//! the renewal arrived; and it can't end a session, because the proposal is conditional on its leadership and is never
//! forwarded. *Why an acknowledgement never overlooks an ending*: the state machine is applied up to the read index before
//! the session is looked up, and the read index lies after everything that was committed before the renewal arrived.
//! *Why nobody is ended who renews in time*: a leader gives every session a whole lease when it takes office, moves the
//! deadlines when it finds that it was itself stalled and lets renewals come in first, however long that was, and before it proposes an ending it confirms its leadership and looks
//! once more at renewals that have arrived.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use switchboard_raft::{Leadership, Raft};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::releases::{self, Lag};
use super::replicated::Replicated;
use crate::directory::{Directory, Epoch, Revision};
use crate::lease::calm;
#[cfg(feature = "simulation")]
use crate::simulation;
use crate::wire::peer::{Answer, Failure};

/// Renewals that arrive within this time share a confirmation.
const RENEWAL_WINDOW: Duration = Duration::from_millis(20);

/// A renewal whose session is being ended is looked at again this often.
const DECISION_PAUSE: Duration = Duration::from_millis(5);

/// Renewals that wait for a confirmation. Gateways renew five times a lease, so this is far above any cluster's need.
const RENEWALS_WAITING_MAX: usize = 65_536;

/// What the leader knows of one lease.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    pub(super) length: Duration,
    pub(super) deadline: Instant,
    /// When the latest renewal arrived, acknowledged or not.
    pub(super) heard: Option<Instant>,
    /// By how much stalls have moved the deadline since the latest renewal arrived, or since the lease began.
    pub(super) moved: Duration,
    /// How far its gateway is behind with what it is asked to release.
    lag: Lag,
    /// Whether that is so far that its renewals count for nothing.
    ignores: bool,
}

/// The leases of this term, while this node leads.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) leadership: Option<Leadership>,
    pub(super) leases: HashMap<Epoch, Lease>,
    /// Sessions whose ending is under way, until it is decided: their renewals wait.
    pub(super) ending: HashSet<Epoch>,
    /// When the process was last seen running.
    pub(super) beat: Instant,
}

/// A renewal that waits for a confirmation.
#[derive(Debug)]
pub(super) struct Renewal {
    epoch: Epoch,
    /// Up to which revision release requests were handled.
    handled: Revision,
    received: Instant,
    answer: oneshot::Sender<Result<Answer, Failure>>,
}

/// The leases, shared by whoever serves renewals and the tasks that keep them. Who locks both the state and the table locks
/// the state first.
#[derive(Debug, Clone)]
pub(super) struct Leases {
    table: Arc<Mutex<Table>>,
    queue: mpsc::Sender<Renewal>,
}

impl Table {
    /// Gives sessions that are new, and in the first place those that a new leader finds, a whole lease; forgets those that
    /// are over.
    pub(super) fn admit(&mut self, directory: &Directory) {
        if self.leadership.is_none() {
            return;
        }
        let now = Instant::now();
        for live in directory.sessions() {
            let lease_ms = live.session.lease_ms;
            #[cfg(feature = "simulation")]
            let lease_ms = if simulation::is_planted(simulation::Bug::ForgetsLeases) { 0 } else { lease_ms };
            self.leases.entry(live.epoch).or_insert_with(|| Lease::new(lease_ms, now));
        }
        self.leases.retain(|epoch, _| directory.session(*epoch).is_some());
    }

    /// A renewal has arrived. It may have to wait for its confirmation, but its gateway is not silent.
    fn hear(&mut self, epoch: Epoch, received: Instant) {
        if let Some(lease) = self.leases.get_mut(&epoch) {
            lease.heard = Some(received);
            lease.moved = Duration::ZERO;
        }
    }

    /// This process has stood still `since` then, so renewals may be waiting that it has not seen: deadlines move by as much,
    /// though by no more than a lease between two renewals. However long it was, whoever had a calm left has one now; whoever
    /// had less has as much, so that one stall after the other keeps nobody alive who is silent.
    pub(super) fn excuse(&mut self, since: Instant) {
        let now = Instant::now();
        for lease in self.leases.values_mut() {
            let left = lease.over().saturating_duration_since(since);
            let gap = (now - since).min(lease.length.saturating_sub(lease.moved));
            lease.deadline = (lease.deadline + gap).max(now + left.min(calm(lease.length)));
            lease.moved += gap;
        }
    }

    /// Marks at most `limit` sessions whose deadline has passed.
    pub(super) fn mark_overdue(&mut self, limit: usize) -> bool {
        let now = Instant::now();
        let mut overdue: Vec<Epoch> =
            self.leases.iter().filter(|(_, lease)| lease.deadline <= now).map(|(epoch, _)| *epoch).collect();
        overdue.sort_unstable();
        self.ending.extend(overdue.into_iter().take(limit));
        !self.ending.is_empty()
    }

    /// The marked sessions, and by how much each is overdue. Those of which a renewal has arrived in time after all lose
    /// their mark, and are renewed as usual.
    pub(super) fn still_overdue(&mut self) -> Vec<(Epoch, Duration)> {
        let now = Instant::now();
        let Self { leases, ending, .. } = self;
        ending.retain(|epoch| leases.get(epoch).is_some_and(|lease| lease.over() <= now));
        ending.iter().map(|epoch| (*epoch, now - leases[epoch].deadline)).collect()
    }

    /// The answer to a renewal, once it is known whether this node led when it arrived. `None` while the session is being
    /// ended: the outcome decides.
    fn settle(
        &mut self,
        directory: &Directory,
        renewal: &Renewal,
        confirmed: Option<&Leadership>,
    ) -> Option<Result<Answer, Failure>> {
        if confirmed.is_none() || self.leadership.as_ref() != confirmed {
            return Some(Err(Failure::NotLeader { leader: None }));
        }
        if self.ending.contains(&renewal.epoch) {
            return None;
        }
        let Some(live) = directory.session(renewal.epoch) else {
            self.leases.remove(&renewal.epoch);
            return Some(Ok(Answer::Gone));
        };
        let lease =
            self.leases.entry(renewal.epoch).or_insert_with(|| Lease::new(live.session.lease_ms, renewal.received));
        let (release, oldest) = releases::asked_of(directory, renewal.epoch, renewal.handled);
        lease.ignores = lease.lag.note(oldest, renewal.received) > lease.length;
        if lease.ignores {
            return Some(Err(Failure::Ignored { since: oldest.unwrap_or_default() }));
        }
        lease.deadline = lease.deadline.max(renewal.received + lease.length);
        let (lease_ms, revision) = (live.session.lease_ms, directory.revision());
        Some(Ok(Answer::Renewed { lease_ms, release, revision }))
    }
}

impl Lease {
    fn new(lease_ms: u32, from: Instant) -> Self {
        let length = Duration::from_millis(lease_ms.into());
        Self {
            length,
            deadline: from + length,
            heard: None,
            moved: Duration::ZERO,
            lag: Lag::default(),
            ignores: false,
        }
    }

    /// When the session may be ended: at its deadline, or a lease after its gateway was last heard, acknowledged or not. Stalls
    /// since then excuse it there, too.
    fn over(&self) -> Instant {
        let heard = self.heard.filter(|_| !self.ignores);
        heard.map_or(self.deadline, |heard| self.deadline.max(heard + self.length + self.moved))
    }
}

impl Leases {
    /// The leases, and the end of the queue of renewals.
    pub(super) fn new() -> (Self, mpsc::Receiver<Renewal>) {
        let (queue, renewals) = mpsc::channel(RENEWALS_WAITING_MAX);
        let table = Table { leadership: None, leases: HashMap::new(), ending: HashSet::new(), beat: Instant::now() };
        (Self { table: Arc::new(Mutex::new(table)), queue }, renewals)
    }

    /// Extends a lease, if this node leads and a quorum confirms that it did so when the renewal arrived.
    pub(super) async fn renew(&self, epoch: Epoch, handled: Revision) -> Result<Answer, Failure> {
        let received = Instant::now();
        {
            let mut table = self.table();
            if table.leadership.is_none() {
                return Err(Failure::NotLeader { leader: None });
            }
            table.hear(epoch, received);
        }
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Renewal { epoch, handled, received, answer }).map_err(|_| Failure::Overloaded)?;
        answered.await.unwrap_or(Err(Failure::Unknown))
    }

    /// A session was opened just now: its lease begins.
    pub(super) fn opened(&self, epoch: Epoch, lease_ms: u32) {
        let mut table = self.table();
        if table.leadership.is_some() {
            table.leases.entry(epoch).or_insert_with(|| Lease::new(lease_ms, Instant::now()));
        }
    }

    /// Milliseconds left of each lease. Only the leader knows.
    pub(super) fn remaining(&self) -> Result<Vec<(Epoch, u64)>, Failure> {
        let table = self.table();
        if table.leadership.is_none() {
            return Err(Failure::NotLeader { leader: None });
        }
        let now = Instant::now();
        let left = |lease: &Lease| u64::try_from((lease.deadline - now).as_millis()).unwrap_or(u64::MAX);
        Ok(table.leases.iter().map(|(epoch, lease)| (*epoch, left(lease))).collect())
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no code panics while holding this lock")
    }
}

/// Acknowledges renewals: gathers those of a short window, has one ReadIndex round confirm them all, and looks the sessions
/// up in a state machine that has applied everything up to it.
pub(super) async fn acknowledge(
    raft: Raft,
    state: Arc<Replicated>,
    leases: Leases,
    mut queue: mpsc::Receiver<Renewal>,
    process: Arc<str>,
) {
    let renewed = metrics::counter!("switchboard_lease_renewals_total", "process" => process);
    let mut waiting: Vec<Renewal> = Vec::new();
    loop {
        if waiting.is_empty() {
            if queue.recv_many(&mut waiting, RENEWALS_WAITING_MAX).await == 0 {
                return;
            }
            tokio::time::sleep(RENEWAL_WINDOW).await;
        } else {
            tokio::time::sleep(DECISION_PAUSE).await;
        }
        while let Ok(more) = queue.try_recv() {
            waiting.push(more);
        }
        let led = leases.table().leadership.clone();
        let confirmed = raft.read_index().await.is_ok();
        #[cfg(feature = "simulation")]
        let confirmed = confirmed || simulation::is_planted(simulation::Bug::RenewsUnconfirmed);
        let confirmed = led.as_ref().filter(|_| confirmed);
        let directory = state.read();
        let mut table = leases.table();
        let mut undecided = Vec::new();
        for renewal in waiting.drain(..) {
            match table.settle(&directory, &renewal, confirmed) {
                Some(answer) => {
                    renewed.increment(u64::from(matches!(answer, Ok(Answer::Renewed { .. }))));
                    // The gateway may have stopped waiting.
                    let _ = renewal.answer.send(answer);
                }
                None => undecided.push(renewal),
            }
        }
        drop((directory, table));
        waiting = undecided;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::{Command, Entry, GatewayAddresses, OpenSession};

    fn directory(gateways: &[&str]) -> Directory {
        let mut directory = Directory::new();
        for (index, gateway) in gateways.iter().enumerate() {
            let open = OpenSession {
                gateway: (*gateway).into(),
                nonce: "n".into(),
                attempt: 1,
                lease_ms: 3000,
                addresses: GatewayAddresses::default(),
            };
            directory.apply(index as u64 + 1, &Entry { at_ms: 0, commands: vec![Command::OpenSession(open)] });
        }
        directory
    }

    fn leading(directory: &Directory) -> Leases {
        let leases = Leases::new().0;
        leases.table().leadership = Some(Leadership::for_tests(1));
        leases.table().admit(directory);
        leases
    }

    /// The process stands still for so long.
    async fn stall(leases: &Leases, gap: Duration) {
        let since = Instant::now();
        tokio::time::advance(gap).await;
        leases.table().excuse(since);
    }

    fn settle(
        leases: &Leases,
        directory: &Directory,
        epoch: Epoch,
        received: Instant,
    ) -> Option<Result<Answer, Failure>> {
        let renewal = Renewal { epoch, handled: 0, received, answer: oneshot::channel().0 };
        let mut table = leases.table();
        let leadership = table.leadership.clone();
        table.settle(directory, &renewal, leadership.as_ref())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_session_is_overdue_after_its_lease_and_a_renewed_one_is_not() {
        let directory = directory(&["a", "b"]);
        let leases = leading(&directory);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(matches!(settle(&leases, &directory, 2, Instant::now()), Some(Ok(Answer::Renewed { .. }))));
        tokio::time::advance(Duration::from_millis(1500)).await;
        assert!(leases.table().mark_overdue(10));
        let overdue = leases.table().still_overdue();
        assert_eq!(overdue, [(1, Duration::from_millis(500))]);
        assert_eq!(settle(&leases, &directory, 1, Instant::now()), None, "a session that is being ended waits");
        assert_eq!(settle(&leases, &directory, 9, Instant::now()), Some(Ok(Answer::Gone)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_arrived_in_time_saves_its_session_also_before_it_is_acknowledged() {
        let directory = directory(&["a"]);
        let leases = leading(&directory);
        tokio::time::advance(Duration::from_millis(2900)).await;
        leases.table().hear(1, Instant::now());
        tokio::time::advance(Duration::from_millis(200)).await;
        assert!(leases.table().mark_overdue(10));
        assert_eq!(leases.table().still_overdue(), []);
        assert!(matches!(settle(&leases, &directory, 1, Instant::now()), Some(Ok(Answer::Renewed { .. }))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_moves_deadlines_by_at_most_one_lease() {
        let directory = directory(&["a"]);
        let leases = leading(&directory);
        let before = leases.table().leases[&1].deadline;
        for _ in 0..3 {
            stall(&leases, Duration::from_millis(1100)).await;
        }
        assert_eq!(leases.table().leases[&1].deadline - before, Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_of_any_length_leaves_a_calm_to_whoever_had_as_much_left_and_none_begins_it_anew() {
        let directory = directory(&["a"]);
        let leases = leading(&directory);
        let (lease, instant) = (Duration::from_secs(3), Duration::from_millis(1));
        let left = || leases.table().leases[&1].deadline - Instant::now();
        stall(&leases, 9 * lease).await;
        assert_eq!(left(), calm(lease), "a waiting renewal can still come in");
        // A dead gateway's lease gets shorter whenever the leader runs, whatever comes in between.
        for run in 1..=3 {
            tokio::time::advance(calm(lease) / 3 - instant).await;
            stall(&leases, 9 * lease).await;
            assert_eq!(left(), calm(lease) - (calm(lease) / 3 - instant) * run);
        }
        tokio::time::advance(3 * instant).await;
        stall(&leases, 9 * lease).await;
        assert!(leases.table().mark_overdue(10));
        assert_eq!(leases.table().still_overdue().len(), 1, "it is over, and no stall brings it back");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_long_stall_a_renewal_that_waits_for_its_confirmation_leaves_a_calm_too() {
        let directory = directory(&["a"]);
        let leases = leading(&directory);
        let lease = Duration::from_secs(3);
        tokio::time::advance(lease / 2).await;
        leases.table().hear(1, Instant::now());
        // The majority is slow: the deadline passes, and the gateway is not silent.
        tokio::time::advance(lease / 2).await;
        stall(&leases, 9 * lease).await;
        assert!(!leases.table().mark_overdue(10));
        tokio::time::advance(calm(lease)).await;
        assert!(leases.table().mark_overdue(10));
        assert_eq!(leases.table().still_overdue().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn stalls_excuse_a_gateway_also_while_its_renewal_waits_for_its_confirmation() {
        let directory = directory(&["a"]);
        let leases = leading(&directory);
        for _ in 0..2 {
            leases.table().hear(1, Instant::now());
            // The majority is slow, so nothing is acknowledged; then the leader stands still, and the next renewal waits unread.
            tokio::time::advance(Duration::from_secs(2)).await;
            stall(&leases, Duration::from_millis(2500)).await;
            assert!(!leases.table().mark_overdue(10) || leases.table().still_overdue().is_empty());
        }
        tokio::time::advance(Duration::from_secs(3)).await;
        assert!(leases.table().mark_overdue(10));
        assert_eq!(leases.table().still_overdue().len(), 1, "a stall is no excuse for ever");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_acknowledged_by_a_node_that_does_not_lead_or_could_not_confirm_it() {
        let directory = directory(&["a"]);
        let leases = leading(&directory);
        let renewal = Renewal { epoch: 1, handled: 0, received: Instant::now(), answer: oneshot::channel().0 };
        let refused = Some(Err(Failure::NotLeader { leader: None }));
        assert_eq!(leases.table().settle(&directory, &renewal, None), refused);
        let other = Leadership::for_tests(2);
        assert_eq!(leases.table().settle(&directory, &renewal, Some(&other)), refused);
    }
}
