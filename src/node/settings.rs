//! How a directory node runs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use switchboard_raft as raft;

use super::watch_hub::Retention;
use crate::chance;

/// How a directory node runs. Checked by `config.rs` and, where the log is concerned, by `raft/`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This member's id.
    pub id: u64,
    /// Name of the cluster.
    pub cluster: String,
    /// Where the log, its snapshots and the identity live.
    pub data_dir: PathBuf,
    /// `host:port` for services.
    pub listen_api: String,
    /// `host:port` for peers.
    pub listen_peer: String,
    /// How others reach the peer listener; the listening address if it is not given.
    pub advertise_peer: Option<String>,
    /// How others reach the API; the listening address if it is not given.
    pub advertise_api: Option<String>,
    /// Peer addresses of the founding members, this one included. Empty with `join`.
    pub peers: BTreeMap<u64, String>,
    /// Start empty and wait to be added.
    pub join: bool,
    /// How often a leader shows that it lives.
    pub heartbeat: Duration,
    /// Shortest and longest silence after which a member asks for votes.
    pub election: (Duration, Duration),
    /// Log entries after which a snapshot is taken; a quarter as many are kept behind it.
    pub snapshot_every: u64,
    /// Bytes below the data directory that are kept free.
    pub disk_reserve: u64,
    /// Changes that are retained for watches and histories.
    pub retain_events: usize,
    /// Memory of these changes, bytes by estimate; whichever limit is reached first.
    pub retain_bytes: u64,
    /// What keeps the log on disk.
    pub log_engine: raft::LogEngine,
}

/// Default of [`Settings::snapshot_every`]: bounds replay at a restart to a few seconds.
pub const SNAPSHOT_EVERY: u64 = 200_000;

/// Default of [`Settings::disk_reserve`]: all proposals that may be under way at once.
pub const DISK_RESERVE: u64 = 64 << 20;

impl Settings {
    pub(super) fn retention(&self) -> Retention {
        Retention { events: self.retain_events, bytes: usize::try_from(self.retain_bytes).unwrap_or(usize::MAX) }
    }

    /// What `raft/` needs of it. Founders tell only their peer addresses; a member's API address is learned from itself.
    pub(super) fn raft(&self, api: SocketAddr, peer: SocketAddr) -> raft::Settings {
        let advertise = raft::Addresses {
            peer: self
                .advertise_peer
                .as_ref()
                .or_else(|| self.peers.get(&self.id))
                .cloned()
                .unwrap_or_else(|| peer.to_string()),
            api: self.advertise_api.clone().unwrap_or_else(|| api.to_string()),
        };
        let mut founders: BTreeMap<u64, raft::Addresses> = self
            .peers
            .iter()
            .map(|(id, peer)| (*id, raft::Addresses { peer: peer.clone(), api: String::new() }))
            .collect();
        if let Some(own) = founders.get_mut(&self.id) {
            *own = advertise.clone();
        }
        raft::Settings {
            founders,
            join: self.join,
            advertise,
            heartbeat: self.heartbeat,
            election: self.election,
            formats: super::replicated::FORMATS,
            engine: self.log_engine,
            limits: raft::Limits {
                disk_reserve_bytes: self.disk_reserve,
                snapshot_every_entries: self.snapshot_every,
                entries_kept_after_snapshot: self.snapshot_every / 4,
                ..raft::Limits::default()
            },
            ..raft::Settings::new(self.id, self.cluster.clone(), self.data_dir.clone(), chance::number())
        }
    }
}
