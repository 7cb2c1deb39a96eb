//! Settings of a directory node.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::units::{duration, member, range, size};
use super::{CLUSTER, ConfigError, check_advertised, check_loopback};
use crate::node::{LogEngine, RETAIN_EVENTS, SNAPSHOT_EVERY, Settings};

/// Run a directory node: a member of the Raft group that holds the map of connections
#[derive(Debug, Clone, Args)]
pub struct DirectoryArgs {
    /// Number of this node in the group; never used again for another data directory
    #[arg(long, value_name = "N", env = "SWITCHBOARD_ID")]
    pub id: u64,

    /// Where the log and its snapshots live
    #[arg(long, value_name = "DIR", env = "SWITCHBOARD_DATA_DIR")]
    pub data_dir: PathBuf,

    /// Address for services: HTTP
    #[arg(long, value_name = "HOST:PORT", env = "SWITCHBOARD_LISTEN_API")]
    pub listen_api: String,

    /// Address for other processes of the cluster
    #[arg(long, value_name = "HOST:PORT", env = "SWITCHBOARD_LISTEN_PEER")]
    pub listen_peer: String,

    /// All founding members with their peer addresses, the same list on every one of them: 1=A,2=A,3=A
    #[arg(
        long,
        value_name = "N=HOST:PORT,…",
        env = "SWITCHBOARD_PEERS",
        value_delimiter = ',',
        value_parser = member
    )]
    pub peers: Vec<(u64, String)>,

    /// Start empty and wait until the members of an existing group add this node
    #[arg(long, env = "SWITCHBOARD_JOIN")]
    pub join: bool,

    /// Name of the cluster; processes of other clusters are refused
    #[arg(long, value_name = "NAME", env = "SWITCHBOARD_CLUSTER", default_value = CLUSTER)]
    pub cluster: String,

    /// What keeps the log on disk: raft-log or sled; a data directory stays with the one that it was written with
    #[arg(long, value_name = "ENGINE", env = "SWITCHBOARD_LOG_ENGINE", default_value_t)]
    pub log_engine: LogEngine,

    /// Peer address that others are told, if it is not the listening one
    #[arg(long, value_name = "HOST:PORT", env = "SWITCHBOARD_ADVERTISE_PEER")]
    pub advertise_peer: Option<String>,

    /// API address that others are told, if it is not the listening one
    #[arg(long, value_name = "HOST:PORT", env = "SWITCHBOARD_ADVERTISE_API")]
    pub advertise_api: Option<String>,

    /// How often a leader shows that it lives
    #[arg(long, value_name = "TIME", env = "SWITCHBOARD_HEARTBEAT", default_value = "100ms", value_parser = duration)]
    pub heartbeat: Duration,

    /// Shortest and longest silence of a leader after which another one is elected
    #[arg(long, value_name = "TIME-TIME", env = "SWITCHBOARD_ELECTION", default_value = "300ms-600ms", value_parser = range)]
    pub election: (Duration, Duration),

    /// Log entries after which a snapshot is taken, so that the log can be cut and a restart is quick
    #[arg(long, value_name = "N", env = "SWITCHBOARD_SNAPSHOT_EVERY", default_value_t = SNAPSHOT_EVERY)]
    pub snapshot_every: u64,

    /// Space below the data directory that is kept free: beneath it new writes are refused; 0B turns this off
    #[arg(long, value_name = "SIZE", env = "SWITCHBOARD_DISK_RESERVE", default_value = "64MiB", value_parser = size)]
    pub disk_reserve: u64,

    /// Changes that are retained for watches that come back and for histories; older ones are compacted
    #[arg(long, value_name = "N", env = "SWITCHBOARD_RETAIN_EVENTS", default_value_t = RETAIN_EVENTS)]
    pub retain_events: usize,

    /// Memory for these changes, whichever limit is reached first
    #[arg(long, value_name = "SIZE", env = "SWITCHBOARD_RETAIN_BYTES", default_value = "256MiB", value_parser = size)]
    pub retain_bytes: u64,

    /// Listen on addresses that other machines can reach although nobody has to show credentials
    #[arg(long, env = "SWITCHBOARD_INSECURE")]
    pub insecure: bool,
}

impl DirectoryArgs {
    /// Checks the settings, also against each other.
    ///
    /// # Errors
    /// The first one that makes no sense.
    pub async fn settings(self) -> Result<Settings, ConfigError> {
        let refuse = |why: String| Err(ConfigError(why));
        if self.id == 0 {
            return refuse(String::from("--id is 1 or more"));
        }
        if self.join != self.peers.is_empty() {
            return refuse(String::from(
                "give either --peers, the founding members with this one among them, or --join, to be added to a group",
            ));
        }
        let peers: BTreeMap<u64, String> = self.peers.iter().cloned().collect();
        if peers.len() != self.peers.len() {
            return refuse(String::from("--peers names a node twice"));
        }
        if !self.join && !peers.contains_key(&self.id) {
            return refuse(format!(
                "--peers does not name this node ({}); it is the same list on every founding member",
                self.id
            ));
        }
        if self.snapshot_every < 100 {
            return refuse(String::from("--snapshot-every is at least 100: more often, the node would do little else"));
        }
        if self.heartbeat.is_zero() || self.election.0 < self.heartbeat * 2 {
            let shortest = self.heartbeat * 2;
            return refuse(format!(
                "--election must begin at two heartbeats or later ({shortest:?}): a single late one is no sign of death"
            ));
        }
        if self.retain_events < 1000 || self.retain_bytes < 1 << 20 {
            return refuse(String::from(
                "--retain-events is at least 1000 and --retain-bytes at least 1MiB: with less, watches would have to begin \
                 again all the time",
            ));
        }
        let listeners =
            [("listen-api", &*self.listen_api), ("listen-peer", &*self.listen_peer), ("listen-clients", "")];
        check_loopback(self.insecure, listeners).await?;
        // A founder is known by its place in the list of peers.
        let peer = self.advertise_peer.as_ref().or_else(|| peers.get(&self.id));
        check_advertised([("peer", peer, &self.listen_peer), ("api", self.advertise_api.as_ref(), &self.listen_api)])?;
        Ok(Settings {
            id: self.id,
            cluster: self.cluster,
            data_dir: self.data_dir,
            listen_api: self.listen_api,
            listen_peer: self.listen_peer,
            advertise_peer: self.advertise_peer,
            advertise_api: self.advertise_api,
            peers,
            join: self.join,
            heartbeat: self.heartbeat,
            election: self.election,
            log_engine: self.log_engine,
            snapshot_every: self.snapshot_every,
            disk_reserve: self.disk_reserve,
            retain_events: self.retain_events,
            retain_bytes: self.retain_bytes,
        })
    }
}
