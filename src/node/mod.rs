//! A directory node: a member of the Raft group that holds the authoritative map.
//!
//! - [`replicated`]: the directory behind the log
//! - [`proposals`]: many gateways' commands share log entries
//! - [`leases`], [`expiry`]: deadlines in the leader's memory, endings in the log
//! - [`watch_hub`], [`watch`], [`feed`]: what changed, for replicas and for people
//! - [`requests`], [`streams`]: what gateways ask, and the peer listener
//! - [`view`], [`backend`]: what the HTTP surface stands on
//!
//! Invariants: what is acknowledged is committed (`proposals` answers after apply); no clock reaches the state machine; a
//! session ends by the log only; a watch never skips.

mod backend;
mod expiry;
mod feed;
mod gauges;
mod leases;
mod meters;
mod proposals;
mod replicated;
mod requests;
mod settings;
mod streams;
#[cfg(test)]
mod tests;
mod view;
mod watch;
mod watch_hub;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use switchboard_raft as raft;
use switchboard_raft::Raft;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use settings::{SNAPSHOT_EVERY, Settings};

use crate::api::{self, ApiLimits};
use crate::net::{self, Listener, http};
use crate::peer::Identity;
use crate::push::{Links, Router};
use crate::wire::http::Info;
use crate::wire::peer::{Hello, Purpose};
use crate::{chance, client, telemetry};
use backend::{NoSockets, NodeBackend};
use expiry::Expiry;
use leases::Leases;
use proposals::Proposals;
use replicated::Replicated;
use requests::Requests;
use streams::Streams;
use view::NodeView;
use watch::Watches;
use watch_hub::WatchHub;

/// Added to two elections before a node that can't confirm a read ends its watches.
const CONFIRM_MARGIN: Duration = Duration::from_millis(800);

/// Longest time for another node to take over the lead before this one stops.
const HAND_OVER: Duration = Duration::from_millis(800);

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
        let started = Instant::now();
        let process = telemetry::process_name("directory", &settings.id.to_string());
        let hub = Arc::new(WatchHub::default());
        let state = Arc::new(Replicated::new(Arc::clone(&hub), &process));
        let (api_address, peer_address) = (api.address(), peer.address());
        let raft_settings = settings.raft(api_address, peer_address);
        let others = raft_settings.founders.values().map(|founder| founder.peer.clone()).collect();
        let raft = Raft::start(raft_settings, Arc::clone(&state) as _, Arc::new(RaftConnector)).await?;

        let id = settings.id.to_string();
        let name = format!("node {id}");
        let identity =
            Identity { cluster: settings.cluster.clone(), name: name.clone(), nonce: chance::nonce().into() };
        let (proposals, proposals_queue) = Proposals::new();
        let (leases, renewals) = Leases::new();
        let hello = Hello { cluster: settings.cluster.clone(), from: name.clone(), purpose: Purpose::Identify };
        let requests = Requests {
            raft: raft.clone(),
            proposals: proposals.clone(),
            leases: leases.clone(),
            election_max: settings.election.1,
            hello: Arc::new(hello),
        };
        let confirm_within = settings.election.1 * 2 + CONFIRM_MARGIN;
        let watches = Watches {
            raft: raft.clone(),
            state: Arc::clone(&state),
            hub: Arc::clone(&hub),
            confirm_within,
            process: Arc::clone(&process),
        };
        let view = Arc::new(NodeView::new(raft.clone(), Arc::clone(&state)));
        let backend = NodeBackend {
            view: Arc::clone(&view),
            requests: requests.clone(),
            others: client::Directory::new(client::Settings {
                cluster: settings.cluster.clone(),
                name: name.clone(),
                nodes: others,
            }),
            router: Router::new(
                Arc::clone(&view),
                Arc::new(NoSockets),
                Links::new(&settings.cluster, &name),
                http::Client::new(),
                Arc::clone(&process),
            ),
            hub: Arc::clone(&hub),
            confirm_within,
            info: Info {
                role: "directory".to_owned(),
                id,
                cluster: settings.cluster.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                nonce: identity.nonce.to_string(),
                uptime_ms: 0,
            },
            started,
        };
        let expiry = Expiry {
            raft: raft.clone(),
            state: Arc::clone(&state),
            leases: leases.clone(),
            proposals,
            process: Arc::clone(&process),
        };

        let mut tasks = JoinSet::new();
        tasks.spawn(proposals::run(raft.clone(), proposals_queue, Arc::clone(&process)));
        tasks.spawn(leases::acknowledge(raft.clone(), Arc::clone(&state), leases, renewals, Arc::clone(&process)));
        tasks.spawn(expiry.clone().run());
        tasks.spawn(expiry.clone().beat());
        tasks.spawn(expiry.reclaim());
        tasks.spawn(view.keep_confirming());
        tasks.spawn(gauges::keep(raft.clone(), state, process));
        let streams = Streams { raft: raft.clone(), identity: Arc::new(identity), requests, watches };
        tasks.spawn(streams.serve(peer, stop.clone()));
        let router = api::router(Arc::new(backend), ApiLimits::default());
        tasks.spawn(http::serve(api, router, http::ServeLimits::default(), stop.clone()));
        Ok(Self { api: api_address, peer: peer_address, raft, tasks, stop })
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
        self.stop.cancel();
        if result.is_ok() {
            // A planned end costs no election.
            self.raft.hand_over(HAND_OVER).await;
        }
        self.raft.shutdown().await;
        self.tasks.shutdown().await;
        result
    }

    /// What the log knows of itself and the group.
    pub fn status(&self) -> raft::Status {
        self.raft.status()
    }
}

/// Opens streams to other nodes, past their listener's fork.
struct RaftConnector;

impl raft::Connect for RaftConnector {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn raft::Stream>>> {
        Box::pin(async move { Ok(Box::new(net::connect(address).await?) as Box<dyn raft::Stream>) })
    }
}
