//! Replicas that hold everybody, or only a few, and change their nodes.

use std::collections::VecDeque;

use super::log::{Log, USERS};
use super::{Node, Seen};
use crate::directory::Revision;
use crate::gateway::LoneReplica;
use crate::node::LoneNode;
use crate::wire::peer::{FoundUsers, WatchFrame, WatchFrom, Who};

/// A replica, its watch, and what it has asked for.
pub(super) struct ReplicaRun {
    replica: LoneReplica,
    users_max: Option<usize>,
    watch: Option<Watch>,
    /// Answers under way, the oldest first.
    answers: VecDeque<FoundUsers>,
}

/// A watch at one of the nodes.
struct Watch {
    node: usize,
    /// Snapshots that the node had installed when it began.
    installed: usize,
    /// Everything up to here has been sent.
    cursor: Revision,
    sent: VecDeque<WatchFrame>,
}

impl ReplicaRun {
    pub(super) fn new(users_max: Option<usize>) -> Self {
        Self { replica: LoneReplica::new(users_max), users_max, watch: None, answers: VecDeque::new() }
    }

    /// Follows for a while, or is cut off, or begins elsewhere; asks for users, and gets answers late.
    pub(super) fn step(&mut self, log: &mut Log, nodes: &[Node; 2], seen: &mut Seen) {
        if log.rng.u8(0..10) == 0 {
            self.watch = None;
        }
        for _ in 0..log.rng.usize(0..12) {
            self.follow(log, nodes, seen);
            if log.rng.u8(0..3) == 0 {
                self.ask(log, seen);
            }
            if log.rng.u8(0..3) == 0
                && let Some(answer) = self.answers.pop_front()
            {
                self.replica.answered(answer);
            }
            self.check(log);
        }
    }

    /// Follows until it shows the end of the log.
    pub(super) fn catch_up(&mut self, log: &mut Log, nodes: &[Node; 2], seen: &mut Seen) {
        let end = log.state().revision();
        for turn in 0.. {
            assert!(turn < 10_000, "a replica does not get to {end}: {:?}", self.replica.revision());
            if self.replica.revision() == Some(end) {
                return;
            }
            self.step(log, nodes, seen);
        }
    }

    fn follow(&mut self, log: &mut Log, nodes: &[Node; 2], seen: &mut Seen) {
        let Some(watch) = &mut self.watch else {
            self.watch = Some(self.begin(log.rng.usize(0..2), nodes));
            return;
        };
        let node = &nodes[watch.node];
        if node.installed != watch.installed {
            self.watch = None;
            return;
        }
        if watch.sent.is_empty() {
            match node.node.frames(watch.cursor, log.rng.usize(1..5)) {
                Ok(frames) => watch.sent.extend(frames),
                Err(oldest) => {
                    seen.compacted += 1;
                    watch.sent.push_back(WatchFrame::Compacted { oldest });
                }
            }
        }
        let Some(frame) = watch.sent.pop_front() else { return };
        if let WatchFrame::Events { revision, .. }
        | WatchFrame::Progress { revision, .. }
        | WatchFrame::SnapshotEnd { revision } = &frame
        {
            watch.cursor = *revision;
        }
        if !self.replica.take(frame) {
            self.watch = None;
        }
    }

    fn begin(&mut self, node: usize, nodes: &[Node; 2]) -> Watch {
        let of = &nodes[node];
        let from = self.replica.begin();
        let (cursor, sent) = match from {
            WatchFrom::After(revision) => (revision, Vec::new()),
            WatchFrom::Snapshot => (0, of.node.snapshot(true)),
            WatchFrom::Sessions => (0, of.node.snapshot(false)),
        };
        assert_eq!(from == WatchFrom::Snapshot, !sent.is_empty() && self.users_max.is_none());
        Watch { node, installed: of.installed, cursor, sent: sent.into() }
    }

    /// Looks for somebody, as a push does, and asks where that is not known.
    fn ask(&mut self, log: &mut Log, seen: &mut Seen) {
        let user = log.user();
        match self.replica.look(user) {
            Some(found) if found.value.is_empty() => seen.offline += 1,
            Some(_) => seen.online += 1,
            None => {
                seen.not_held += 1;
                // A linearizable read shows the end of the log.
                self.answers.push_back(LoneNode::find(log.state(), &[Who::User(user.into())]));
            }
        }
    }

    /// What is shown is the state at its revision, and a replica of a few users holds no others.
    fn check(&self, log: &Log) {
        let Some(revision) = self.replica.revision() else { return };
        let mut held = 0;
        for topic in USERS {
            let shown = self.replica.subscribed(topic);
            assert_eq!(shown.value, log.subscribed(topic, shown.revision), "topic {topic} at {revision}");
        }
        for user in USERS {
            // A look is a use, and who was used last would stay: so not everybody is looked at.
            if self.users_max.is_some() && user.len() + revision as usize % 4 == 5 {
                continue;
            }
            let Some(shown) = self.replica.look(user) else { continue };
            held += 1;
            assert_eq!(shown.value, log.connections(user, shown.revision), "{user} at {revision}");
        }
        match self.users_max {
            None => assert_eq!(held, USERS.len(), "a full replica holds everybody"),
            Some(max) => {
                let (users, connections) = self.replica.held();
                assert!(users <= max as u64 && connections <= 5 * max, "{users} users, {connections} connections");
            }
        }
    }
}
