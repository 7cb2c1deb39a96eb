//! How the parts of a node are put together.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use switchboard_raft as raft;
use switchboard_raft::Raft;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backend::{NoSockets, NodeBackend};
use super::backups::Backups;
use super::callbacks::Callbacks;
use super::deaths::{Deaths, Suspects};
use super::expiry::Expiry;
use super::feed::Feeds;
use super::hash::Hashes;
use super::leases::{self, Leases, Renewal};
use super::members;
use super::proposals::{self, Proposals, Waiting};
use super::replicated::Replicated;
use super::requests::Requests;
use super::streams::Streams;
use super::topics::Topics;
use super::view::NodeView;
use super::watch::Watches;
use super::watch_hub::WatchHub;
use super::{Settings, StartError, bans, gauges};
use crate::api::{self, ApiLimits};
use crate::net::{self, Listener, http};
use crate::peer::Identity;
use crate::push::{Asks, Links, Router};
use crate::wire::http::Info;
use crate::wire::peer::{Hello, Purpose};
use crate::{chance, client, memory, telemetry};

/// Added to two elections before a node that can't confirm a read ends its watches.
const CONFIRM_MARGIN: Duration = Duration::from_millis(800);

/// What the parts share.
pub(super) struct Parts {
    pub(super) raft: Raft,
    threads: Handle,
    settings: Settings,
    state: Arc<Replicated>,
    hub: Arc<WatchHub>,
    proposals: Proposals,
    leases: Leases,
    identity: Arc<Identity>,
    others: client::Directory,
    process: Arc<str>,
    started: Instant,
}

/// The ends of the queues that tasks work off.
pub(super) struct Queues {
    proposals: mpsc::Receiver<Waiting>,
    renewals: mpsc::Receiver<Renewal>,
}

impl Parts {
    /// Recovers the state from disk and takes part in the group.
    pub(super) async fn open(
        settings: Settings,
        api: SocketAddr,
        peer: SocketAddr,
        threads: Handle,
    ) -> Result<(Self, Queues), StartError> {
        let started = Instant::now();
        let process = telemetry::process_name("directory", &settings.id.to_string());
        let hub = Arc::new(WatchHub::new(settings.retention()));
        let state = Arc::new(Replicated::new(Arc::clone(&hub), &process));
        let of_raft = settings.raft(api, peer);
        let nodes = of_raft.founders.values().map(|founder| founder.peer.clone()).collect();
        let machine = Arc::clone(&state);
        // What it spawns runs where it is started.
        let start = async move { Raft::start(of_raft, machine, Arc::new(RaftConnector)).await };
        let raft = threads.spawn(start).await.map_err(io::Error::other)??;
        let name = format!("node {}", settings.id);
        let others = client::Settings { cluster: settings.cluster.clone(), name: name.clone(), nodes };
        let identity = Identity { cluster: settings.cluster.clone(), name, nonce: chance::nonce().into() };
        let ((proposals, proposals_queue), (leases, renewals)) = (Proposals::new(raft.clone()), Leases::new());
        let parts = Self {
            raft,
            threads,
            settings,
            state,
            hub,
            proposals,
            leases,
            identity: Arc::new(identity),
            others: client::Directory::new(others),
            process,
            started,
        };
        Ok((parts, Queues { proposals: proposals_queue, renewals }))
    }

    /// Starts every task of the node; they end with the set, the listeners with `stop`.
    pub(super) fn run(self, queues: Queues, api: Listener, peer: Listener, stop: &CancellationToken) -> JoinSet<()> {
        let (raft, state) = (|| self.raft.clone(), || Arc::clone(&self.state));
        let process = || Arc::clone(&self.process);
        let requests = self.requests();
        let (suspects, suspected) = Suspects::new();
        let others = self.others.clone();
        let view = Arc::new(NodeView::new(raft(), state()));
        let expiry = Expiry {
            raft: raft(),
            state: state(),
            leases: self.leases.clone(),
            proposals: self.proposals.clone(),
            process: process(),
        };
        let streams = Streams {
            raft: raft(),
            threads: self.threads.clone(),
            identity: Arc::clone(&self.identity),
            requests: requests.clone(),
            watches: self.watches(&view),
            suspects,
        };
        let hashes = Arc::new(Hashes::new(state()));
        let backend = Arc::new(self.backend(requests.clone(), Arc::clone(&view), Arc::clone(&hashes)));

        let mut tasks = JoinSet::new();
        tasks.spawn(proposals::run(raft(), queues.proposals, process()));
        let of_leases = &self.threads;
        let acknowledge = leases::acknowledge(raft(), state(), self.leases.clone(), queues.renewals, process());
        tasks.spawn_on(acknowledge, of_leases);
        tasks.spawn_on(expiry.clone().run(), of_leases);
        tasks.spawn_on(expiry.clone().beat(), of_leases);
        tasks.spawn_on(expiry.clone().release_claims(), of_leases);
        tasks.spawn_on(Deaths::new(expiry.clone(), Arc::clone(&requests.hello)).run(suspected), of_leases);
        tasks.spawn(expiry.reclaim());
        tasks.spawn(bans::lift(state(), self.leases.clone(), self.proposals.clone()));
        tasks.spawn(Callbacks::new(state(), Arc::clone(&self.hub), self.leases.clone(), process()).run());
        tasks.spawn(view.keep_confirming());
        tasks.spawn(settle(Arc::clone(&self.hub)));
        let (held, hub) = (state(), Arc::clone(&self.hub));
        let held = move || held.read().state_bytes() + hub.retained().bytes as u64;
        tasks.spawn(memory::keep_giving_back(held));
        tasks.spawn(gauges::keep(raft(), state(), Arc::clone(&self.hub), process()));
        tasks.spawn(hashes.keep(process()));
        tasks.spawn(members::keep_learning(raft(), others));
        tasks.spawn(streams.serve(peer, stop.clone()));
        let router = api::router(backend, ApiLimits::default());
        tasks.spawn(http::serve(api, router, http::ServeLimits::default(), stop.clone()));
        tasks
    }

    #[cfg(feature = "simulation")]
    pub(super) fn probe(&self) -> super::probe::Probe {
        super::probe::Probe::new(self.raft.clone(), Arc::clone(&self.state))
    }

    fn requests(&self) -> Requests {
        let (cluster, from) = (self.identity.cluster.clone(), self.identity.name.clone());
        Requests {
            raft: self.raft.clone(),
            proposals: self.proposals.clone(),
            leases: self.leases.clone(),
            state: Arc::clone(&self.state),
            hub: Arc::clone(&self.hub),
            others: self.others.clone(),
            election_max: self.settings.election.1,
            hello: Arc::new(Hello::new(cluster, from, Purpose::Identify)),
        }
    }

    fn watches(&self, view: &NodeView) -> Watches {
        Watches {
            raft: self.raft.clone(),
            state: Arc::clone(&self.state),
            hub: Arc::clone(&self.hub),
            confirm_within: self.confirm_within(),
            confirmed: Arc::clone(&view.confirmed),
            process: Arc::clone(&self.process),
        }
    }

    fn backend(&self, requests: Requests, view: Arc<NodeView>, hashes: Arc<Hashes>) -> NodeBackend {
        let Identity { cluster, name, nonce } = &*self.identity;
        let links = Links::new(cluster, name);
        let asks = Asks::for_questions(cluster, name);
        let process = Arc::clone(&self.process);
        let feeds = Feeds {
            hub: Arc::clone(&self.hub),
            confirmed: Arc::clone(&view.confirmed),
            confirm_within: self.confirm_within(),
            process: Arc::clone(&self.process),
        };
        NodeBackend {
            feeds: Arc::new(feeds),
            router: Router::new(Arc::clone(&view), Arc::new(NoSockets), links, http::Client::new(), process),
            view,
            asks,
            hashes,
            backups: Backups::new(self.raft.clone()),
            topics: Topics::new(Arc::clone(&self.state)),
            requests,
            others: self.others.clone(),
            info: Info {
                role: "directory".to_owned(),
                id: self.settings.id.to_string(),
                cluster: cluster.clone(),
                cluster_id: None,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                nonce: nonce.to_string(),
                uptime_ms: 0,
            },
            started: self.started,
        }
    }

    fn confirm_within(&self) -> Duration {
        self.settings.election.1 * 2 + CONFIRM_MARGIN
    }
}

/// Does for the hub what takes too long for where entries are applied.
async fn settle(hub: Arc<WatchHub>) {
    hub.settle().await;
}

/// Opens streams to other nodes.
struct RaftConnector;

impl raft::Connect for RaftConnector {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn raft::Stream>>> {
        Box::pin(async move { Ok(Box::new(net::connect(address).await?) as Box<dyn raft::Stream>) })
    }
}
