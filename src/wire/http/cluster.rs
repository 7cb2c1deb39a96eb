//! Bodies about processes: gateways, directory nodes, the process itself.

use serde::{Deserialize, Serialize};

/// A gateway with a live session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gateway {
    /// Its name.
    pub id: String,
    /// WebSocket URL for clients, where it told one.
    pub url: Option<String>,
    /// Epoch of its session.
    pub epoch: u64,
    /// Live connections.
    pub connections: u64,
    /// Whether it sends its clients away.
    pub draining: bool,
    /// Share of new clients that it should get, 0 to 1; the shares of all gateways add up to 1.
    pub weight: f64,
    /// What is left of its lease, milliseconds; null where the leader was not reached.
    pub lease_remaining_ms: Option<u64>,
    /// Its address for services, where it told one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
}

/// Answer to `GET /v1/gateways`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gateways {
    /// Ordered by name.
    pub gateways: Vec<Gateway>,
    /// How clients should come back.
    pub backoff: ReconnectBackoff,
    /// Revision of the directory that this shows.
    pub revision: u64,
}

/// How clients should come back after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ReconnectBackoff {
    /// First wait.
    pub base_ms: u64,
    /// Longest wait.
    pub max_ms: u64,
    /// Each wait is so much longer than the one before.
    pub factor: f64,
    /// Share of a wait that is left to chance.
    pub jitter: f64,
}

/// Answer to `GET /v1/cluster`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Name of the cluster.
    pub cluster: String,
    /// The node that answered; null on a gateway.
    pub node: Option<u64>,
    /// Who leads, where known.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
    /// Ordered by id.
    pub members: Vec<Member>,
    /// Revision up to which this node has applied.
    pub applied: u64,
    /// Revision up to which this node knows entries to be committed.
    pub committed: u64,
    /// The cluster's own id, 16 hexadecimal digits: drawn when it was founded or restored, whatever it is called. Null until
    /// it is known.
    #[serde(default)]
    pub cluster_id: Option<String>,
    /// Voters that must answer for anything to be decided.
    #[serde(default)]
    pub quorum: u64,
    /// Whether a change of the voters is half done: until it is complete majorities of the old and of the new ones are
    /// needed.
    #[serde(default)]
    pub changing: bool,
}

/// A directory node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// `voter` or `learner`.
    pub role: String,
    /// Its address for peers.
    pub peer: String,
    /// Its address for services.
    pub api: String,
    /// `leader`, `follower`, `candidate`, `learner`, or `unknown` for a node that the one that answers hears nothing of.
    pub state: String,
    /// Last entry of its log, where known.
    pub last_log: Option<u64>,
    /// Last entry that it has applied, where known.
    pub applied: Option<u64>,
    /// Bytes that are free in its data directory, if that is too little to write anything new.
    #[serde(default)]
    pub short_of_space: Option<u64>,
    /// Entries that it lacks, where known: as the leader sees its followers.
    #[serde(default)]
    pub lag: Option<u64>,
}

/// What a member is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberRole {
    /// It receives everything and does not vote.
    #[default]
    Learner,
    /// It counts for majorities.
    Voter,
    /// It is none any more, for ever.
    Removed,
}

/// Body of `POST /v1/cluster/members`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddMemberBody {
    /// The new node's id; one that was never used.
    pub id: u64,
    /// Where it waits, `host:port`.
    pub peer: String,
    /// What it is to become.
    #[serde(default)]
    pub role: MemberRole,
}

/// Body of `POST /v1/cluster/transfer-leader`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferLeaderBody {
    /// Who is to lead.
    pub to: u64,
}

/// Answer to a change of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberAnswer {
    /// The node.
    pub id: u64,
    /// What it is now.
    pub role: MemberRole,
    /// Revision at which it is so.
    pub revision: u64,
    /// With 202: what is still missing, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Answer to `POST /v1/cluster/transfer-leader`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderAnswer {
    /// Who leads.
    pub leader: u64,
    /// Revision up to which the former leader had applied.
    pub revision: u64,
}

/// Answer to `GET /v1/info`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// `directory` or `gateway`.
    pub role: String,
    /// Name or number of the process.
    pub id: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Its id, as in [`Cluster`].
    #[serde(default)]
    pub cluster_id: Option<String>,
    /// Version of the program.
    pub version: String,
    /// Names the process; chosen at random when it started.
    pub nonce: String,
    /// How long it has been running.
    pub uptime_ms: u64,
}
