//! What a member does that is short of space: it says so, hands over the lead, and lets others stand for election first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::blocking;
use crate::members::Members;
use crate::settings::NodeId;
use crate::space::{Headroom, LOOK_EVERY, Space};
use crate::status::{MemberRole, Role, Status};

/// A member that is short of space stands for election all the same after so many of the longest election timeouts without
/// a leader: then nobody has space, and a leader that refuses proposals is better than none.
const HEAD_START: u32 = 2;

/// After an attempt to hand over the lead, another one waits for so long.
const HAND_OVER_PAUSE: Duration = Duration::from_secs(5);

/// Who is short of space, as far as this member knows.
pub(crate) struct Shortage {
    id: NodeId,
    pub(crate) own: Arc<Headroom>,
    /// Those that said so with their last answer to this leader.
    others: Mutex<BTreeMap<NodeId, Space>>,
    /// Of a leader: for whose sake it refuses proposals although it has space itself.
    majority: Mutex<Option<(NodeId, Space)>>,
    /// When a leader was heard last.
    heard: Mutex<Instant>,
}

impl Shortage {
    pub(crate) fn new(id: NodeId, own: Arc<Headroom>) -> Shortage {
        let (others, majority) = (Mutex::default(), Mutex::default());
        Shortage { id, own, others, majority, heard: Mutex::new(Instant::now()) }
    }

    /// What the leader is told with every answer.
    pub(crate) fn tell(&self) -> Option<Space> {
        self.own.is_short().then(|| self.own.seen())
    }

    /// Another member has told whether it is short.
    pub(crate) fn told(&self, member: NodeId, space: Option<Space>) {
        let mut others = self.others.lock().expect("nothing panics while it holds this");
        match space {
            Some(space) => drop(others.insert(member, space)),
            None => drop(others.remove(&member)),
        }
    }

    /// A leader lives.
    pub(crate) fn heard_leader(&self) {
        *self.heard.lock().expect("nothing panics while it holds this") = Instant::now();
    }

    /// The space of a member, if it is short.
    pub(crate) fn of(&self, member: NodeId) -> Option<Space> {
        if member == self.id {
            return self.tell();
        }
        self.others.lock().expect("nothing panics while it holds this").get(&member).cloned()
    }

    /// For whose sake a leader refuses ordinary proposals: its own, or that of a majority that could not take them.
    pub(crate) fn refuses(&self) -> Option<(NodeId, Space)> {
        let majority = || self.majority.lock().expect("nothing panics while it holds this").clone();
        self.tell().map(|space| (self.id, space)).or_else(majority)
    }

    /// This member, if it has no space even for what ends or frees something.
    pub(crate) fn exhausted(&self) -> Option<(NodeId, Space)> {
        self.own.is_exhausted().then(|| (self.id, self.own.seen()))
    }

    /// Notes whether so many voters are short that the others are no majority.
    fn look_at_majority(&self, status: &Status) {
        let voters = status.members.iter().filter(|member| member.role == MemberRole::Voter);
        let voters: Vec<_> = voters.map(|member| (member.id, self.of(member.id))).collect();
        let with_space = voters.iter().filter(|(_, space)| space.is_none()).count();
        let lacks = status.role == Role::Leader && with_space * 2 <= voters.len();
        let first = voters.into_iter().find_map(|(id, space)| Some((id, space?)));
        *self.majority.lock().expect("nothing panics while it holds this") = first.filter(|_| lacks);
    }

    /// Looks at the space again and again, and does what follows from it.
    pub(crate) async fn keep(&self, members: &Members, election_max: Duration, status: impl Fn() -> Status) {
        let mut handed_over: Option<Instant> = None;
        loop {
            sleep(LOOK_EVERY).await;
            let own = self.own.clone();
            // A disk may take its time, also to answer this.
            if blocking::run(move || own.look()).await.is_err() {
                return;
            }
            let heard = *self.heard.lock().expect("nothing panics while it holds this");
            let short = self.own.is_short();
            members.stand_for_election(!short || heard.elapsed() > election_max * HEAD_START);
            let status = status();
            self.look_at_majority(&status);
            let tried = handed_over.is_some_and(|at| at.elapsed() < HAND_OVER_PAUSE);
            if status.role != Role::Leader || !short || tried {
                continue;
            }
            if members.hand_over_to_space().await {
                handed_over = Some(Instant::now());
            }
        }
    }
}
