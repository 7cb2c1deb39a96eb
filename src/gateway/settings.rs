//! Everything that can be set on a gateway, with its default and the reason for it.

use std::io;
use std::str::FromStr;
use std::time::Duration;

use crate::directory::Policy;
use crate::directory::limits::is_name;
use crate::pattern::Pattern;
use crate::tokens;

/// What a gateway is told when it starts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of this gateway in the cluster, `--id`.
    pub id: String,
    /// Name of the cluster, `--cluster`.
    pub cluster: String,
    /// Peer addresses of directory nodes, `--directory`; one that can be reached is enough.
    pub directory: Vec<String>,
    /// Where clients connect, `--listen-clients`.
    pub listen_clients: String,
    /// Where services connect, `--listen-api`.
    pub listen_api: String,
    /// Where other processes of the cluster connect, `--listen-peer`.
    pub listen_peer: String,
    /// WebSocket URL that others are told, `--advertise-url`; otherwise made of the bound address.
    pub advertise_url: Option<String>,
    /// API address that others are told, `--advertise-api`; otherwise the bound one.
    pub advertise_api: Option<String>,
    /// Peer address that others are told, `--advertise-peer`; otherwise the bound one.
    pub advertise_peer: Option<String>,
    /// How much of the directory is kept in memory, `--replica`.
    pub replica: ReplicaMode,
    /// Which connections of a user may live beside those of this gateway: `--policy`, `--per`, `--handover` and `--max`.
    pub policy: Policy,
    /// How clients show who they are, `--client-token-…`; without it they are believed.
    pub tokens: Option<tokens::Settings>,
    /// Origins of web pages that may connect, in lower case, `--client-allowed-origins`; without it all may.
    pub origins: Option<Vec<Pattern>>,
    /// Length of the lease, `--lease`. 3 s: three elections fit into it, and a silent gateway is gone soon.
    pub lease: Duration,
    /// How long sockets stay open after the lease was lost. A minute bridges the restart of a directory node.
    pub lease_lost_grace: Duration,
    /// A name that another process holds is asked for at the start for a lease, in which that of a crashed predecessor runs
    /// out, and this longer: a change of leader, and leases that differ a little.
    pub taken_slack: Duration,
    /// Limits of client sockets.
    pub clients: ClientLimits,
    /// Limits of registrations.
    pub registrar: RegistrarLimits,
    /// Limits of deliveries from other processes.
    pub peers: PeerLimits,
    /// Longest wait for an answer of the directory to a question of the API.
    pub ask: Duration,
    /// How long a drain may take before the rest is closed. Clients need a round trip for their close frame.
    pub drain: Duration,
}

/// How much of the directory a gateway keeps in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReplicaMode {
    /// Everybody: every look-up is one of memory, and goes on without a quorum.
    #[default]
    Full,
    /// At most so many users, those that were asked for last. Who is not among them is asked for.
    Lru(usize),
}

impl FromStr for ReplicaMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("lru:").map(str::parse)) {
            ("full", _) => Ok(Self::Full),
            (_, Some(Ok(users))) if users > 0 => Ok(Self::Lru(users)),
            _ => Err(String::from("it is full, or lru:N with a number of users from 1")),
        }
    }
}

/// Limits of client sockets.
#[derive(Debug, Clone)]
pub struct ClientLimits {
    /// Sockets of this gateway. A million is what one machine's memory and ports are planned for.
    pub connections_max: usize,
    /// Sockets from one address. Large offices and carriers share addresses; 10,000 stops a single abuser only.
    pub per_address_max: u32,
    /// Pings are sent this often. 25 s is below the 30 s after which the strictest middle boxes forget a connection.
    pub heartbeat: Duration,
    /// Silence longer than the heartbeat and this ends a connection: two round trips of the worst mobile network.
    pub pong_timeout: Duration,
    /// Time for the `connect` frame: it follows the upgrade at once, so this covers slow networks only.
    pub connect_timeout: Duration,
    /// Largest frame or message of a client: clients talk to the directory, they do not upload.
    pub frame_bytes_max: usize,
    /// Messages of a client per second in the long run, and at once. A human types slower, a loop is faster.
    pub messages_per_second: u32,
    /// Messages of a client at once.
    pub messages_burst: u32,
    /// Topics that a client is subscribed to at once. A page of an application has some tens of them.
    pub subscriptions_max: usize,
    /// Messages that wait for one socket. More means that it does not read.
    pub outbox_messages_max: usize,
    /// Bytes that wait for one socket; one message alone may be larger.
    pub outbox_bytes_max: usize,
    /// Bytes gathered into one write: larger ones only delay the first message.
    pub burst_bytes: usize,
    /// Read buffer of a socket. Small, because most sockets are idle and there are many; larger frames grow it.
    pub read_buffer_bytes: usize,
    /// How long a write may take before the client counts as gone.
    pub write_stall: Duration,
    /// How long a welcome waits for the own replica to show the connection; usually a millisecond or two.
    pub welcome_wait: Duration,
    /// How long a client waits for its upgrade while the gateway has no lease: most elections are over by then.
    pub lease_wait: Duration,
    /// Clients that wait so at once; more are refused without waiting.
    pub lease_waiters_max: usize,
    /// How long the goodbye to a client that is released or drained waits for its unregistration to be committed, so that
    /// nobody finds it here any more when it comes back.
    pub commit_wait: Duration,
    /// How long the other side may take for its half of the close.
    pub close_wait: Duration,
    /// Clients that are sent away come back within this time, each at a moment of its own.
    pub reconnect_jitter: Duration,
}

/// Limits of registrations.
#[derive(Debug, Clone)]
pub struct RegistrarLimits {
    /// Registrations that wait for a batch. Beyond it clients are told at once to come back later.
    pub queue_max: usize,
    /// Longest wait for a registration to be committed. Two elections fit into it.
    pub register_wait: Duration,
    /// Clients that wait for the place of another at once. Beyond it newcomers are told to come back later.
    pub pending_max: usize,
    /// A client waits for the place of another for a lease, which is what a gateway that does not answer costs, and this
    /// longer: an election, after which that lease begins anew.
    pub pending_slack: Duration,
    /// Batches under way. Enough to hide a round trip; the directory holds the outcomes of four times as many.
    pub batches_in_flight: usize,
    /// While batches are under way, the next one leaves at this size.
    pub batch_ops: usize,
    /// While batches are under way, the next one leaves after this time.
    pub batch_wait: Duration,
    /// Operations of one batch at most, when many wait, as after a lost session.
    pub batch_ops_max: usize,
    /// Bytes of text in one batch: a log entry takes several times as much.
    pub batch_bytes_max: usize,
}

/// Limits of deliveries from other processes.
#[derive(Debug, Clone)]
pub struct PeerLimits {
    /// Streams from other processes. A cluster has far fewer.
    pub streams_max: usize,
    /// Deliveries of one stream that wait for sockets; no more are read from it then.
    pub deliveries_max: usize,
    /// Questions of one stream that are being answered; no more are read from it then. Most of them wait for a change of who is
    /// subscribed to a topic.
    pub questions_max: usize,
    /// Longest wait for the replica to reach the revision at which targets were resolved.
    pub reach: Duration,
    /// Messages that are written at a rate at once: each is for many and takes its time, so more would only get later.
    pub paced_max: usize,
    /// Keyed messages remembered, so that a repeated one is written once. At 200 bytes each this is 13 MB.
    pub remembered_max: usize,
    /// How long a keyed message is remembered.
    pub remembered_for: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            id: String::new(),
            cluster: String::from("switchboard"),
            directory: Vec::new(),
            listen_clients: String::from("127.0.0.1:8001"),
            listen_api: String::from("127.0.0.1:8101"),
            listen_peer: String::from("127.0.0.1:8201"),
            advertise_url: None,
            advertise_api: None,
            advertise_peer: None,
            replica: ReplicaMode::default(),
            policy: Policy::multi(16),
            tokens: None,
            origins: None,
            lease: Duration::from_secs(3),
            lease_lost_grace: Duration::from_secs(60),
            taken_slack: Duration::from_secs(9),
            clients: ClientLimits::default(),
            registrar: RegistrarLimits::default(),
            peers: PeerLimits::default(),
            ask: Duration::from_secs(5),
            drain: Duration::from_secs(10),
        }
    }
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            connections_max: 1_000_000,
            per_address_max: 10_000,
            heartbeat: Duration::from_secs(25),
            pong_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            frame_bytes_max: 64 << 10,
            messages_per_second: 100,
            messages_burst: 200,
            subscriptions_max: 256,
            outbox_messages_max: 1024,
            outbox_bytes_max: 1 << 20,
            burst_bytes: 64 << 10,
            read_buffer_bytes: 1024,
            write_stall: Duration::from_secs(30),
            welcome_wait: Duration::from_millis(250),
            lease_wait: Duration::from_secs(2),
            lease_waiters_max: 4096,
            commit_wait: Duration::from_secs(1),
            close_wait: Duration::from_secs(2),
            reconnect_jitter: Duration::from_secs(5),
        }
    }
}

impl Default for RegistrarLimits {
    fn default() -> Self {
        Self {
            queue_max: 65_536,
            register_wait: Duration::from_secs(10),
            pending_max: 65_536,
            pending_slack: Duration::from_secs(5),
            batches_in_flight: 8,
            batch_ops: 256,
            batch_wait: Duration::from_millis(5),
            batch_ops_max: 2048,
            batch_bytes_max: 256 << 10,
        }
    }
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self {
            streams_max: 4096,
            deliveries_max: 1024,
            questions_max: 12_000,
            reach: Duration::from_millis(500),
            paced_max: 16,
            remembered_max: 65_536,
            remembered_for: Duration::from_secs(300),
        }
    }
}

/// Why a gateway can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting that makes no sense.
    #[error("{0}")]
    Setting(String),
    /// A listener can't be bound.
    #[error(transparent)]
    Listen(#[from] io::Error),
}

impl Settings {
    /// Checks the settings and the relations between them.
    ///
    /// # Errors
    /// The first one that makes no sense, in words for the operator.
    pub fn check(&self) -> Result<(), StartError> {
        let refuse = |why: String| Err(StartError::Setting(why));
        if !is_name(&self.id) {
            return refuse(format!("{:?} is no gateway id: 1 to 128 bytes without control characters", self.id));
        }
        if self.directory.iter().all(String::is_empty) {
            return refuse(String::from("at least one directory node is needed"));
        }
        if let Policy::Multi { max: 0, .. } = self.policy {
            return refuse(String::from("a user needs at least one connection: max is 0"));
        }
        if !(Duration::from_secs(3)..=Duration::from_secs(60)).contains(&self.lease) {
            return refuse(format!("a lease of {:?}; it must be 3 to 60 s", self.lease));
        }
        Ok(())
    }

    /// Whether some of its connections may be exclusive: a token may say so of its own.
    pub(super) fn may_be_exclusive(&self) -> bool {
        self.is_exclusive() || self.tokens.is_some()
    }

    /// Whether the connections of this gateway are claimed for themselves alone, so that they are served under a lease only,
    /// unless their tokens say otherwise.
    pub(super) fn is_exclusive(&self) -> bool {
        self.policy.claim().is_some()
    }

    /// Longest wait of a newcomer for its place.
    pub(super) fn pending_wait(&self) -> Duration {
        self.lease + self.registrar.pending_slack
    }

    pub(super) fn lease_ms(&self) -> u32 {
        u32::try_from(self.lease.as_millis()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_full_or_of_so_many_users() {
        assert_eq!(("full".parse(), "lru:10000".parse()), (Ok(ReplicaMode::Full), Ok(ReplicaMode::Lru(10_000))));
        for bad in ["", "lru", "lru:", "lru:0", "lru:-1", "lru:x", "Full", "half"] {
            assert!(bad.parse::<ReplicaMode>().is_err(), "{bad}");
        }
    }
}
