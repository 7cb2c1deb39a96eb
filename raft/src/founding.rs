//! How a cluster begins, and why it can't begin twice.
//!
//! Every founder is told the same set of founders. A founder whose directory is empty asks the others, again and again,
//! whether theirs are empty too. Only the founder with the lowest id writes the first entry, the membership, and only
//! when in one sweep every other founder has said that its directory is empty. The entry records the nonce of each
//! directory as it was then. All others get in by replication.
//!
//! - *An empty founder does not vote.* A vote, an append or a snapshot arrives over a connection whose hello names the
//!   nonce of the acceptor's directory, as the sender's membership has it (`net::serve`). Only a membership that this
//!   very directory was asked about can have it. A directory that was lost and created anew has a new nonce, so nobody
//!   asks it for anything: it can't vote a second time, nor acknowledge what the lost one had and it has not.
//! - *A founder that was slow to be contacted is not shut out.* Its nonce is in the membership, so it may vote and
//!   receive, however long after the founding that is. Asking, it learns `Founded { seated: true }` and waits.
//! - *A founder whose directory was lost after the founding* learns `seated: false`, says so loudly, and stays out. It
//!   must start under a new id with `join`.
//! - *Restarts.* Before the first entry is durable, a restarted lowest founder is empty and sweeps anew; nobody has seen
//!   the entry, because it comes before any vote in the same durable stream. After that it is not empty, has the
//!   membership, and stands for election. The others keep nothing between restarts but their nonces.
//! - *The lowest founder's directory is lost right after it wrote the first entry.* Founding anew is possible only if every
//!   other founder is still empty: none has voted or received anything, so there was no majority for anything.
//! - *Founders that were told different founders* answer with their own set, and nothing is founded until it is corrected.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use tokio::sync::watch;
use tracing::{debug, error, info};

use crate::apply::Applier;
use crate::entry::{Group, Seat};
use crate::net::frame::{FoundingAnswer, FoundingAsk, Hello, JoinAnswer, Purpose, Refusal};
use crate::net::link::{Lines, LinkError, Local};
use crate::settings::{Addresses, NodeId};

type OpenRaft = openraft::Raft<Group, Applier>;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How far this member is with becoming one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has a place in a founded cluster, or had one: its directory is not empty.
    Seated,
    /// Its directory is empty, and the founders have not all answered yet, or have not contacted it yet.
    Founding,
    /// Its directory is empty and it waits to be added to an existing cluster.
    Joining,
    /// Its directory is empty but the cluster is founded without it, or the founders disagree. What to do is in the text.
    ShutOut(String),
    /// It was a member and was removed. That is for ever: it must start with an empty directory, `join` and a new id.
    Removed,
}

/// The founding of this member's cluster, as far as it goes.
pub(crate) struct Founders {
    local: Arc<Local>,
    founders: BTreeMap<NodeId, Addresses>,
    standing: watch::Sender<Standing>,
}

impl Founders {
    /// `founders` is empty for a member that joins.
    pub(crate) fn new(local: Arc<Local>, founders: BTreeMap<NodeId, Addresses>, pristine: bool) -> Founders {
        let standing = match (pristine, founders.is_empty()) {
            (false, _) => Standing::Seated,
            (true, false) => Standing::Founding,
            (true, true) => Standing::Joining,
        };
        Founders { local, founders, standing: watch::Sender::new(standing) }
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    pub(crate) fn changes(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Notes a standing, and says it if it is new.
    pub(crate) fn stand(&self, standing: Standing) {
        let before = self.standing.borrow().clone();
        if before == standing || before == Standing::Removed {
            return;
        }
        match &standing {
            Standing::ShutOut(why) => error!(id = self.local.id, why, "this node is shut out of the cluster"),
            Standing::Removed => error!(
                id = self.local.id,
                "this node was removed from the cluster and takes no part any more; stop it, and start it with an empty \
                 directory, --join and a new id if it is to come back"
            ),
            other => info!(id = self.local.id, standing = ?other, "the founding of the cluster goes on"),
        }
        self.standing.send_replace(standing);
    }

    fn names(&self) -> BTreeSet<NodeId> {
        self.founders.keys().copied().collect()
    }

    /// Answers another founder.
    pub(crate) async fn answer(&self, raft: &OpenRaft, hello: &Hello, ask: &FoundingAsk) -> io::Result<FoundingAnswer> {
        if !raft.is_initialized().await.map_err(io::Error::other)? {
            let founders = self.names();
            return Ok(if founders == ask.founders {
                FoundingAnswer::Empty { nonce: self.local.nonce, addresses: self.local.advertise.clone() }
            } else {
                FoundingAnswer::OtherFounders { founders }
            });
        }
        let metrics = raft.server_metrics();
        let metrics = metrics.borrow_watched();
        if metrics.membership_config.nodes().next().is_none() {
            return Ok(FoundingAnswer::Underway);
        }
        let seat = metrics.membership_config.get_node(&hello.from);
        Ok(FoundingAnswer::Founded { seated: seat.is_some_and(|seat| seat.nonce == hello.from_nonce) })
    }

    /// Answers a leader that was told to add this member, or whoever else wants to know who is here.
    pub(crate) async fn introduce(&self, raft: &OpenRaft, cluster_id: u64) -> io::Result<JoinAnswer> {
        let (nonce, addresses) = (self.local.nonce, self.local.advertise.clone());
        Ok(if raft.is_initialized().await.map_err(io::Error::other)? {
            JoinAnswer::Stored { nonce, process: self.local.process, cluster_id, addresses }
        } else if self.founders.is_empty() {
            JoinAnswer::Waiting { nonce, addresses }
        } else {
            JoinAnswer::Founder
        })
    }

    /// A member of the cluster looked for this node with another data directory than this one, which is empty.
    pub(crate) fn sought_otherwise(&self, by: NodeId) {
        if *self.standing.borrow() == Standing::Joining {
            self.stand(Standing::ShutOut(format!(
                "node {by} looks for node {here} with another data directory: the group knows the id {here} already, and \
                 ids are never used again. Start with an empty directory, --join and a new id",
                here = self.local.id
            )));
        }
    }

    /// Founds the cluster, or waits until it is founded. Ends when this member is seated or the replica stops.
    pub(crate) async fn found(&self, raft: &OpenRaft, lines: &Lines) {
        let mut pause = FIRST_PAUSE;
        loop {
            match raft.is_initialized().await {
                Ok(true) => return self.stand(Standing::Seated),
                Ok(false) => {}
                Err(_stopped) => return,
            }
            if !self.founders.is_empty() {
                let answers = self.ask_all(lines).await;
                self.proceed(raft, &answers).await;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn ask_all(&self, lines: &Lines) -> BTreeMap<NodeId, Result<FoundingAnswer, Refusal>> {
        let others = self.founders.iter().filter(|(id, _)| **id != self.local.id);
        let ask = FoundingAsk { founders: self.names() };
        let asked = others.map(|(id, addresses)| {
            let seat = Seat { addresses: addresses.clone(), nonce: 0 };
            let ask = &ask;
            async move {
                let within = self.local.limits.answer_within;
                let answer = lines.call(&self.local, (*id, &seat), Purpose::Founding, ask, within).await;
                match answer {
                    Ok(answer) => Some((*id, Ok(answer))),
                    Err(LinkError::Refused { refusal, .. }) => Some((*id, Err(refusal))),
                    Err(e @ LinkError::Unreachable { .. }) => {
                        debug!(error = %e, "a founder does not answer yet");
                        None
                    }
                }
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn proceed(&self, raft: &OpenRaft, answers: &BTreeMap<NodeId, Result<FoundingAnswer, Refusal>>) {
        for (id, answer) in answers {
            let answer = match answer {
                Ok(answer) => answer,
                // It will take the next connection.
                Err(Refusal::Busy) => continue,
                Err(refusal) => return self.stand(Standing::ShutOut(self.misfit(*id, refusal))),
            };
            match answer {
                FoundingAnswer::Founded { seated: false } => {
                    return self.stand(Standing::ShutOut(format!(
                        "node {id} says that the cluster is founded, with another data directory of node {here} or \
                         without it. If the directory was lost, start with an empty one, --join and a new id",
                        here = self.local.id
                    )));
                }
                FoundingAnswer::OtherFounders { founders } => {
                    return self.stand(Standing::ShutOut(format!(
                        "node {id} was told the founders {founders:?}, this node {ours:?}; give all the same ones",
                        ours = self.names()
                    )));
                }
                FoundingAnswer::Empty { .. } | FoundingAnswer::Founded { seated: true } | FoundingAnswer::Underway => {}
            }
        }
        self.stand(Standing::Founding);
        if let Some(seats) = self.seats(answers) {
            self.initialize(raft, seats).await;
        }
    }

    /// Why this founder and another one don't fit together, and what to do.
    fn misfit(&self, id: NodeId, refusal: &Refusal) -> String {
        let address = self.founders.get(&id).map_or("", |addresses| &addresses.peer);
        match refusal {
            Refusal::Cluster { theirs, ours } => format!(
                "the node at {address} belongs to cluster {ours:?}, this one to {theirs:?}; give all founders the same \
                 --cluster, and one that was started under another name an empty directory"
            ),
            Refusal::WrongNode { wanted, here } => format!(
                "node {here} answers at {address}, where node {wanted} was expected; give all founders the same --peers, with \
                 the address of each"
            ),
            other => format!("the node at {address} refuses this one: {other}"),
        }
    }

    /// Every founder with its nonce, if this is the one to begin and all others are empty.
    fn seats(&self, answers: &BTreeMap<NodeId, Result<FoundingAnswer, Refusal>>) -> Option<BTreeMap<NodeId, Seat>> {
        if self.founders.keys().next() != Some(&self.local.id) {
            return None;
        }
        let seat = |(id, addresses): (&NodeId, &Addresses)| {
            let (nonce, told) = match answers.get(id) {
                Some(Ok(FoundingAnswer::Empty { nonce, addresses })) => (*nonce, addresses),
                None if *id == self.local.id => (self.local.nonce, &self.local.advertise),
                _ => return None,
            };
            // The founders were given each other's peer addresses; where clients connect, each knows of itself.
            let addresses = Addresses { peer: addresses.peer.clone(), api: told.api.clone() };
            Some((*id, Seat { addresses, nonce }))
        };
        self.founders.iter().map(seat).collect()
    }

    async fn initialize(&self, raft: &OpenRaft, seats: BTreeMap<NodeId, Seat>) {
        match raft.initialize(seats).await {
            Ok(()) => info!(id = self.local.id, "founded the cluster"),
            // Something was stored in between, which is as good.
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(e) => error!(error = %e, "the cluster can't be founded"),
        }
    }
}
