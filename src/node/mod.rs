//! A directory node: a member of the Raft group that holds the authoritative map.
//!
//! - `replicated`: the directory behind the log
//! - `proposals`: many gateways' commands share log entries
//! - `leases`, `expiry`, `claims`, `deaths`: deadlines in the leader's memory, endings in the log
//! - `releases`: what gateways are asked to give up
//! - `bans`, `callbacks`: bans that are over; release requests for gateways of one's own
//! - `watch_hub`, `watch`, `feed`: what changed, for replicas and for people
//! - `closings`, `trail`, `history`, `lines`: single connections of ended sessions, and who was where
//! - `members`: who belongs to the group, as it changes
//! - `requests`, `find`, `streams`: what gateways ask, and the peer listener
//! - `hash`, `backups`, `topics`: the state as a whole
//! - `view`, `backend`: what the HTTP surface stands on
//! - `offline`: files of nodes that do not run
//! - `parts`: how all of them are put together
//!
//! Invariants: what is acknowledged is committed (`proposals` answers after apply); no clock reaches the state machine; a
//! session ends by the log only; a watch never skips.

mod backend;
mod backups;
mod bans;
mod callbacks;
mod claims;
mod closings;
mod deaths;
mod expiry;
mod feed;
mod find;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod gauges;
#[cfg(test)]
mod golden;
mod hash;
mod history;
mod leases;
mod lines;
mod members;
mod meters;
pub mod offline;
mod parts;
#[cfg(feature = "simulation")]
pub mod probe;
mod proposals;
mod releases;
mod replicated;
mod requests;
mod settings;
mod streams;
#[cfg(test)]
mod testing;
#[cfg(test)]
pub(crate) use testing::LoneNode;
#[cfg(test)]
mod tests;
mod topics;
mod trail;
mod view;
mod watch;
mod watch_hub;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use switchboard_raft as raft;
use switchboard_raft::Raft;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[cfg(test)]
pub(crate) use golden::fixture;
pub use raft::LogEngine;
pub use settings::{DISK_RESERVE, SNAPSHOT_EVERY, Settings};
pub use watch_hub::{RETAIN_BYTES, RETAIN_EVENTS};

use crate::net::Listener;
use crate::threads::Threads;
use parts::Parts;

/// Threads of their own for the log and the leases. One applies entries and takes snapshots apart, one may wait for it to
/// look a session up, and the third one goes on.
const THREADS: usize = 3;

/// Longest time for another node to take over the lead before this one stops.
const HAND_OVER: Duration = Duration::from_millis(800);

/// Longest time for a node whose disk failed to end its tasks, before the process goes without.
const GIVE_UP: Duration = Duration::from_millis(300);

/// A directory node that runs.
#[derive(Debug)]
pub struct Node {
    /// Where it answers HTTP.
    pub api: SocketAddr,
    /// Where peers reach it.
    pub peer: SocketAddr,
    raft: Raft,
    tasks: JoinSet<()>,
    stop: CancellationToken,
    /// Ends the listeners, after leadership was handed over.
    end: CancellationToken,
    /// Those of the log; after everything else.
    _threads: Threads,
    /// What a simulation sees of it.
    #[cfg(feature = "simulation")]
    pub probe: probe::Probe,
}

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address can't be used.
    #[error("{0}")]
    Listen(#[from] io::Error),
    /// The log can't be opened, or does not belong to this node.
    #[error("{0}")]
    Raft(#[from] raft::StartError),
}

impl Node {
    /// Binds both listeners, recovers the state from disk and takes part in the group, until `stop`.
    ///
    /// # Errors
    /// When an address is in use, or the data directory is damaged or belongs to another node.
    pub async fn start(settings: Settings, stop: CancellationToken) -> Result<Self, StartError> {
        let api = Listener::bind(&settings.listen_api).await?;
        let peer = Listener::bind(&settings.listen_peer).await?;
        Self::start_on(settings, api, peer, stop).await
    }

    /// As [`Self::start`], on listeners that are bound already.
    ///
    /// # Errors
    /// When the data directory is damaged or belongs to another node.
    pub async fn start_on(
        settings: Settings,
        api: Listener,
        peer: Listener,
        stop: CancellationToken,
    ) -> Result<Self, StartError> {
        let (api_address, peer_address) = (api.address(), peer.address());
        let threads = Threads::start(THREADS, "raft")?;
        let (parts, queues) = Parts::open(settings, api_address, peer_address, threads.handle()).await?;
        let raft = parts.raft.clone();
        #[cfg(feature = "simulation")]
        let probe = parts.probe();
        let end = CancellationToken::new();
        let tasks = parts.run(queues, api, peer, &end);
        Ok(Self {
            api: api_address,
            peer: peer_address,
            raft,
            tasks,
            stop,
            end,
            _threads: threads,
            #[cfg(feature = "simulation")]
            probe,
        })
    }

    /// Runs until the node is told to stop, or can't go on.
    ///
    /// # Errors
    /// A sentence that says why the node can't go on: the process must end, so that nothing is built on a log whose state
    /// on disk is not known.
    pub async fn wait(mut self) -> Result<(), String> {
        let result = tokio::select! {
            () = self.stop.cancelled() => Ok(()),
            fatal = self.raft.stopped() => Err(fatal.to_string()),
        };
        if result.is_ok() {
            // A planned end costs no election. Until another node leads, whoever asks this one is sent there.
            self.raft.hand_over(HAND_OVER).await;
        }
        self.stop.cancel();
        self.end.cancel();
        if result.is_ok() {
            self.raft.shutdown().await;
        } else {
            // Nothing of the log is touched any more, and whatever waits for the disk is left behind.
            let _ = tokio::time::timeout(GIVE_UP, self.raft.shutdown()).await;
        }
        self.tasks.shutdown().await;
        result
    }

    /// What the log knows of itself and the group.
    pub fn status(&self) -> raft::Status {
        self.raft.status()
    }
}
