//! What is looked at after every step: nodes, gateways and replicas beside the log.

use std::time::Duration;

use switchboard::directory::{ConnectionId, Reason};
use switchboard::node::probe::Probe;
use switchboard::view::View;

use super::book::Pages;
use super::cluster::{Cluster, LEASE};

/// How often gateways are looked at where nothing was applied.
const LOOK_EVERY_MS: u64 = 10;

/// How often a state is compared as a whole, with that of one node and one replica.
const COMPARE_EVERY_MS: u64 = 40;

/// Above the lease and half a second, for what a proposal takes on slow disks.
const CLEAN_UP_SLACK: Duration = Duration::from_millis(1500);

/// What the checks remember.
#[derive(Debug, Default)]
pub(super) struct Checks {
    steps: u64,
    revision: u64,
    /// Who has led since when, without a break.
    leader: Option<(usize, u64, Duration)>,
    /// When something was last done to a node or to a link between nodes.
    pub(super) disturbed: Duration,
    /// Nothing is done to anybody any more, so nobody's session may end.
    pub(super) calm: bool,
}

impl Checks {
    /// Looks at everything, after a step.
    pub(super) fn look(&mut self, cluster: &Cluster, now: Duration) {
        self.steps += 1;
        self.look_at_leaders(cluster, now);
        self.look_at_endings(cluster);
        let revision = cluster.book.pages().newest().map_or(0, switchboard::directory::Directory::revision);
        if revision != self.revision || self.steps.is_multiple_of(LOOK_EVERY_MS) {
            self.revision = revision;
            look_at_owners(cluster);
        }
        if self.steps.is_multiple_of(COMPARE_EVERY_MS) {
            let turn = usize::try_from(self.steps / COMPARE_EVERY_MS).unwrap_or(0);
            compare_node(cluster, turn % cluster.nodes.len());
            compare_replica(cluster, turn % cluster.gateways.len());
            self.look_for_ghosts(cluster, now);
        }
    }

    fn look_at_leaders(&mut self, cluster: &Cluster, now: Duration) {
        for (at, seat) in cluster.nodes.iter().enumerate() {
            if let Some(term) = seat.probe().and_then(|probe| probe.leads()) {
                cluster.book.leads(at, term);
            }
        }
        let leader = cluster.leader();
        let known = self.leader.map(|(at, term, _)| (at, term));
        if leader != known {
            self.leader = leader.map(|(at, term)| (at, term, now));
        }
    }

    /// I3 and I5: nobody's lease is taken for over who would still serve under it.
    fn look_at_endings(&self, cluster: &Cluster) {
        let ended = std::mem::take(&mut cluster.book.pages().ended);
        for ended in ended {
            if self.calm && matches!(ended.reason, Reason::Expired | Reason::Died) {
                let what = format!("s-{} ended as {:?} although nothing was wrong", ended.epoch, ended.reason);
                cluster.book.violate("I3 a session that is renewed does not end", what);
            }
            if ended.reason != Reason::Expired {
                continue;
            }
            for seat in cluster.gateways.iter().filter(|seat| !seat.machine.frozen) {
                let Some(probe) = seat.probe() else { continue };
                let holds = seat.machine.look(|| probe.is_held() && probe.epoch() == Some(ended.epoch));
                if holds == Some(true) {
                    let what = format!("s-{} expired while {} still served under it", ended.epoch, seat.machine.name);
                    cluster.book.violate("I5 a gateway gives up first", what);
                }
            }
        }
    }

    /// I4: what a silent gateway leaves behind is gone in time.
    fn look_for_ghosts(&self, cluster: &Cluster, now: Duration) {
        let Some((_, _, promoted)) = self.leader else { return };
        let pages = cluster.book.pages();
        let Some(state) = pages.newest() else { return };
        let mut found = None;
        for seat in &cluster.gateways {
            let Some(silent) = seat.silent_since else { continue };
            let since = silent.max(promoted).max(self.disturbed);
            let name = seat.machine.name.trim_start_matches("gateway ");
            if let Some(live) = state.session_of(name)
                && now > since + LEASE + Duration::from_millis(500) + CLEAN_UP_SLACK
            {
                found =
                    Some(format!("s-{} of {name} lives {:?} after its gateway fell silent", live.epoch, now - silent));
            }
        }
        drop(pages);
        if let Some(what) = found {
            cluster.book.violate("I4 what a silent gateway held is gone in time", what);
        }
    }
}

/// I2 and I5: whom a gateway serves exclusively, nobody else was granted.
fn look_at_owners(cluster: &Cluster) {
    let mut found = None;
    let pages = cluster.book.pages();
    let Some(state) = pages.newest() else { return };
    for (at, seat) in cluster.gateways.iter().enumerate().filter(|(_, seat)| !seat.machine.frozen) {
        let Some(probe) = seat.probe() else { continue };
        let policy = cluster.shape.policies[at % cluster.shape.policies.len()];
        let Some(per) = policy.claim() else { continue };
        for served in seat.machine.look(|| probe.served()).unwrap_or_default() {
            for live in state.connections_of(&served.user) {
                let Some(claim) = live.connection.claim.filter(|_| live.id != served.id) else { continue };
                if Pages::overlap((per, &served.device), (claim, &live.connection.device)) {
                    let name = &seat.machine.name;
                    let what = format!(
                        "{name} serves {} of {} granted {}, which {} was granted at {}",
                        served.id, served.user, served.granted, live.id, live.connection.granted
                    );
                    found = Some(what);
                }
            }
        }
    }
    drop(pages);
    if let Some(what) = found {
        cluster.book.violate("I5 nobody is served whose place another was granted", what);
    }
}

/// Equal revisions are equal states.
fn compare_node(cluster: &Cluster, at: usize) {
    let seat = &cluster.nodes[at];
    let Some(directory) = seat.probe().as_ref().map(Probe::directory) else { return };
    let pages = cluster.book.pages();
    let revision = directory.revision();
    if pages.is_forgotten(revision) {
        return;
    }
    let Some(mut truth) = pages.state_at(revision).cloned() else { return };
    truth.advance(revision);
    drop(pages);
    if truth.digest() != directory.digest() {
        let what = format!("{} is at revision {revision} and has another state than the log says", seat.machine.name);
        cluster.book.violate("equal revisions are equal states", what);
    }
}

/// I6 and I12: a replica shows exactly the state of its revision.
fn compare_replica(cluster: &Cluster, at: usize) {
    let seat = &cluster.gateways[at];
    let Some(probe) = seat.probe() else { return };
    let replica = probe.replica();
    if !replica.is_loaded() {
        return;
    }
    let shown = seat.machine.look(|| (replica.scan(None, usize::MAX), replica.sessions()));
    let Some((connections, sessions)) = shown else { return };
    if connections.revision != sessions.revision {
        return;
    }
    let pages = cluster.book.pages();
    let revision = connections.revision;
    if pages.is_forgotten(revision) {
        return;
    }
    let Some(truth) = pages.state_at(revision) else { return };
    let true_connections: Vec<_> = truth.scan(None).map(|live| (live.id, live.connection)).collect();
    let shown: Vec<_> = connections.value.into_iter().map(|found| (found.id, found.connection)).collect();
    let true_sessions: Vec<u64> = truth.sessions().map(|live| live.epoch).collect();
    let shown_sessions: Vec<u64> = sessions.value.iter().map(|(epoch, _, _)| *epoch).collect();
    let same = shown == true_connections && shown_sessions == true_sessions;
    drop(pages);
    if !same {
        let ids = |of: &[(ConnectionId, _)]| of.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>().join(" ");
        let what = format!(
            "the replica of {} is at {revision} and shows {} in {shown_sessions:?}, the log {} in {true_sessions:?}",
            seat.machine.name,
            ids(&shown),
            ids(&true_connections)
        );
        cluster.book.violate("I6, I12 a replica is the state of its revision", what);
    }
}
