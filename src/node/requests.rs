//! What a directory node answers to gateways, to nodes that do not lead, and to its own HTTP surface.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use switchboard_raft as raft;
use switchboard_raft::{MemberRole, MemberState, Raft, Role};

use super::leases::Leases;
use super::members;
use super::proposals::{Pending, Proposals};
use super::replicated::Replicated;
use super::watch_hub::WatchHub;
use crate::client::Directory;
use crate::directory::limits::BATCH_OPS_MAX;
use crate::directory::{Command, Epoch, GatewayAddresses, OpenRefused, OpenSession, Outcome, Reason};
use crate::lease;
use crate::peer;
use crate::wire::http::{Cluster, Member, cluster_id};
use crate::wire::peer::{Answer, Failure, Hello, Purpose, RequestBody};

/// Longest wait for a gateway to say who it is.
const IDENTIFY_TIMEOUT: Duration = Duration::from_millis(500);

/// Longest wait for the leader to complete what a node tells of the group.
const MEMBERS_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a leader is waited for before a request is refused for want of one. Short against the patience of callers.
const LEADER_WITHIN: Duration = Duration::from_millis(200);

/// Attempts to open a session while an incumbent is in the way: one, one after it was ended, one for a race.
const OPEN_ATTEMPTS: usize = 3;

/// Answers requests.
#[derive(Debug, Clone)]
pub(super) struct Requests {
    pub(super) raft: Raft,
    pub(super) proposals: Proposals,
    pub(super) leases: Leases,
    pub(super) state: Arc<Replicated>,
    pub(super) hub: Arc<WatchHub>,
    /// The other nodes, the leader among them.
    pub(super) others: Directory,
    pub(super) election_max: Duration,
    pub(super) hello: Arc<Hello>,
}

/// A request of which only the answer is missing. What had to be done in order has been done.
pub(super) enum Begun {
    /// A batch that was handed in.
    Batch(Pending),
    /// Anything else.
    Rest(RequestBody),
}

impl Requests {
    /// Begins a request. Those that one task begins are decided in that order, as far as order matters.
    pub(super) fn begin(&self, body: RequestBody) -> Result<Begun, Failure> {
        if let Some(why) = members::shut_out(&self.raft) {
            return Err(Failure::ShutOut { why });
        }
        match body {
            RequestBody::Batch(batch) if batch.size() > BATCH_OPS_MAX => Err(Failure::Refused {
                why: format!("a batch of {} operations and topics; the limit is {BATCH_OPS_MAX}", batch.size()),
            }),
            RequestBody::Batch(batch) => Ok(Begun::Batch(self.proposals.submit(Command::Batch(batch))?)),
            rest => Ok(Begun::Rest(rest)),
        }
    }

    /// The answer to a request that has begun.
    pub(super) async fn finish(&self, begun: Begun) -> Result<Answer, Failure> {
        let result = match begun {
            Begun::Batch(pending) => match pending.decided().await {
                Ok((_, Outcome::Batch(result))) => Ok(Answer::Batch(result)),
                Err(failure) => Err(failure),
                Ok((_, other)) => unreachable!("a batch has the outcome of a batch, not {other:?}"),
            },
            Begun::Rest(RequestBody::OpenSession(open)) => self.open(open).await,
            Begun::Rest(RequestBody::EndSession { epoch, reason, fenced }) => self.end(epoch, reason, fenced).await,
            Begun::Rest(RequestBody::Renew { epoch, handled }) => self.leases.renew(epoch, handled).await,
            Begun::Rest(RequestBody::Disconnect(disconnect)) => self.asked(Command::Disconnect(disconnect)).await,
            Begun::Rest(RequestBody::Ban { user, ban }) => self.asked(Command::Ban { user, ban }).await,
            Begun::Rest(RequestBody::Unban { user }) => {
                match self.proposals.propose(Command::Unban { user, made: None }).await {
                    Ok((revision, Outcome::Unbanned(existed))) => Ok(Answer::Unbanned { existed, revision }),
                    Ok((_, other)) => unreachable!("lifting a ban has an outcome of its own, not {other:?}"),
                    Err(failure) => Err(failure),
                }
            }
            Begun::Rest(RequestBody::Leases) => self.leases.remaining().map(Answer::Leases),
            Begun::Rest(RequestBody::Cluster) => Ok(Answer::Cluster(self.cluster_as_led().await)),
            Begun::Rest(RequestBody::Members) => self.members(),
            Begun::Rest(RequestBody::Change(change)) => self.change(change).await,
            Begun::Rest(RequestBody::Find(whom)) => self.find(&whom).await,
            Begun::Rest(RequestBody::LastSeen { users, revision }) => self.last_seen(&users, revision).await,
            Begun::Rest(RequestBody::Batch(_)) => unreachable!("a batch is begun as one"),
        };
        match result {
            Ok(answer) => Ok(answer),
            Err(failure) => Err(self.point_to_leader(failure).await),
        }
    }

    /// Answers a request.
    pub(super) async fn answer(&self, body: RequestBody) -> Result<Answer, Failure> {
        match self.begin(body) {
            Ok(begun) => self.finish(begun).await,
            Err(failure) => Err(failure),
        }
    }

    /// Opens a session. Where another process holds the name, it is asked whether it still exists.
    async fn open(&self, open: OpenSession) -> Result<Answer, Failure> {
        let lease = Duration::from_millis(open.lease_ms.into());
        if let Err(why) = lease::check(lease, self.election_max) {
            return Ok(Answer::NotOpened { why });
        }
        for _ in 0..OPEN_ATTEMPTS {
            let (_, outcome) = self.proposals.propose(Command::OpenSession(open.clone())).await?;
            match outcome {
                Outcome::Opened(Ok(epoch)) => {
                    self.leases.opened(epoch, open.lease_ms);
                    return Ok(Answer::Opened { epoch, lease_ms: open.lease_ms });
                }
                Outcome::Opened(Err(OpenRefused::Conflict { epoch, nonce, addresses })) => {
                    if !is_gone(&addresses, &nonce, &self.hello).await {
                        return Ok(Answer::Taken { epoch });
                    }
                    tracing::info!(gateway = %open.gateway, epoch, "the process that held this gateway id is gone; it is replaced");
                    self.end(epoch, Reason::Replaced, false).await?;
                }
                Outcome::Opened(Err(OpenRefused::NotAlone)) => {}
                Outcome::Opened(Err(refused)) => return Ok(Answer::NotOpened { why: refused.to_string() }),
                other => unreachable!("opening a session has an outcome of its own, not {other:?}"),
            }
        }
        Err(Failure::Overloaded)
    }

    /// Has connections asked for to be closed.
    async fn asked(&self, command: Command) -> Result<Answer, Failure> {
        match self.proposals.propose(command).await? {
            (revision, Outcome::Asked(connections) | Outcome::Banned(Ok(connections))) => {
                Ok(Answer::Asked { connections, revision })
            }
            (_, Outcome::Banned(Err(why))) => Err(Failure::Refused { why: why.to_string() }),
            (_, other) => unreachable!("asking for connections has an outcome of its own, not {other:?}"),
        }
    }

    async fn end(&self, epoch: Epoch, reason: Reason, fenced: bool) -> Result<Answer, Failure> {
        match self.proposals.propose(Command::EndSession { epoch, reason, fenced }).await? {
            (_, Outcome::Ended(existed)) => Ok(Answer::Ended { existed }),
            (_, other) => unreachable!("ending a session has an outcome of its own, not {other:?}"),
        }
    }

    /// The group as this node sees it, completed by what only the leader knows: who answers, and how far their logs are.
    async fn cluster_as_led(&self) -> Cluster {
        let mut cluster = self.cluster();
        if cluster.leader == cluster.node {
            return cluster;
        }
        if let Ok(Answer::Cluster(led)) = self.others.ask(RequestBody::Members, MEMBERS_TIMEOUT).await
            && led.term >= cluster.term
        {
            let own = cluster.node;
            for member in &mut cluster.members {
                let Some(known) = led.members.iter().find(|known| known.id == member.id) else { continue };
                if Some(member.id) == own {
                    member.lag = known.lag;
                } else {
                    *member = known.clone();
                }
            }
        }
        cluster
    }

    /// The group as its leader sees it.
    fn members(&self) -> Result<Answer, Failure> {
        let cluster = self.cluster();
        if cluster.leader == cluster.node {
            Ok(Answer::Cluster(cluster))
        } else {
            Err(Failure::NotLeader { leader: None })
        }
    }

    /// The group as this node sees it.
    pub(super) fn cluster(&self) -> Cluster {
        let status = self.raft.status();
        let last = status.last_log.unwrap_or(0);
        // Only the leader knows what others have.
        let follows = |member: &&raft::Member| status.role == Role::Leader && member.id != status.id;
        let lag = |member: &raft::Member| {
            Some(member).filter(follows).map(|member| last.saturating_sub(member.matched.unwrap_or(0)))
        };
        let members = status.members.iter().map(|member| {
            let here = member.id == status.id;
            Member {
                id: member.id,
                role: role_word(member.role).to_owned(),
                peer: member.addresses.peer.clone(),
                api: member.addresses.api.clone(),
                state: if here { own_word(status.role) } else { state_word(member) }.to_owned(),
                last_log: if here { status.last_log } else { member.matched },
                applied: here.then_some(status.applied),
                short_of_space: member.short.as_ref().map(|space| space.free),
                lag: lag(member),
            }
        });
        Cluster {
            cluster: status.cluster.clone(),
            node: Some(status.id),
            leader: status.leader,
            term: status.term,
            members: members.collect(),
            applied: status.applied,
            committed: status.committed.unwrap_or(0),
            cluster_id: status.cluster_id.map(cluster_id),
            quorum: status.quorum as u64,
            changing: status.joint,
        }
    }

    /// Tells who leads, where a part that does not know says only that this node does not. An election or a transfer may be
    /// about to end: that is waited for a little, so that callers learn of it at once instead of asking again and again. Where
    /// nobody leads then, a majority is missing.
    async fn point_to_leader(&self, failure: Failure) -> Failure {
        let mut office = self.raft.leadership();
        let holds_office = office.borrow().is_some();
        match failure {
            // It believes to lead and could not confirm it: a majority may be elsewhere.
            Failure::NotLeader { leader: None } if holds_office => return Failure::NoQuorum,
            Failure::NotLeader { leader: None } => {}
            // A leader that is not in office yet has been heard by nobody.
            Failure::NoQuorum if !holds_office => {}
            failure => return failure,
        }
        let mut changes = self.raft.status_changes();
        let known = tokio::time::timeout(LEADER_WITHIN, async {
            loop {
                let status = self.raft.status();
                let leads = |member: &&raft::Member| match status.leader {
                    // Not before it can take requests.
                    Some(leader) if leader == status.id => member.id == leader && office.borrow().is_some(),
                    leader => leader == Some(member.id),
                };
                if let Some(member) = status.members.iter().find(leads) {
                    return Some((member.id, member.addresses.peer.clone()));
                }
                let changed = tokio::select! {
                    changed = changes.changed() => changed,
                    changed = office.changed() => changed,
                };
                changed.ok()?;
            }
        });
        match known.await {
            Ok(leader) => Failure::NotLeader { leader },
            Err(_) => Failure::NoQuorum,
        }
    }
}

fn role_word(role: MemberRole) -> &'static str {
    match role {
        MemberRole::Voter => "voter",
        MemberRole::Learner => "learner",
    }
}

fn own_word(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
    }
}

/// How another member looks from here.
fn state_word(member: &raft::Member) -> &'static str {
    match (member.state, member.role) {
        (MemberState::Leader, _) => "leader",
        (MemberState::Following, MemberRole::Voter) => "follower",
        (MemberState::Following, MemberRole::Learner) => "learner",
        (MemberState::Silent | MemberState::Unknown, _) => "unknown",
    }
}

/// Whether the process that held a session is certainly gone: its address refuses, or another process answers there. Silence
/// proves nothing.
pub(super) async fn is_gone(addresses: &GatewayAddresses, nonce: &Arc<str>, hello: &Hello) -> bool {
    let Some(address) = &addresses.peer else { return false };
    let hello = Hello { purpose: Purpose::Identify, ..hello.clone() };
    match tokio::time::timeout(IDENTIFY_TIMEOUT, peer::dial(address, &hello)).await {
        Ok(Ok(dialed)) => dialed.nonce != *nonce,
        Ok(Err(error)) => error.kind() == io::ErrorKind::ConnectionRefused,
        Err(_) => false,
    }
}
