//! What the HTTP surface of a directory node stands on.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use switchboard_raft::{Space, Standing};
use tokio::time::Instant;

use super::backups::Backups;
use super::feed::Feeds;
use super::hash::Hashes;
use super::history;
use super::members;
use super::requests::Requests;
use super::topics::Topics;
use super::view::NodeView;
use crate::api::{Backend, Backup, Feed, FeedRefused, FeedRequest, HashAsk, History, StateRefused, TopicsAsk};
use crate::client;
use crate::directory::{Directory, Epoch, Revision, Session, Topic};
use crate::push::{Asks, Local, Order, PushRefused, Pushed, Router};
use crate::view::{At, View};
use crate::wire::http::{Info, SnapshotTaken, StateHash, cluster_id};
use crate::wire::peer::{
    Answer, Deliver, Delivery, Failure, GatewayAnswer, GatewayAsk, Reached, RequestBody, TargetStatus, Targets,
};

/// Longest time for which a request follows the leader.
const ASK_TIMEOUT: Duration = Duration::from_secs(8);

/// A view that was not confirmed for so long is not ready for traffic.
const READY_STALENESS_MAX: Duration = Duration::from_secs(2);

/// A directory node behind its HTTP surface.
#[derive(Debug)]
pub(super) struct NodeBackend {
    pub(super) view: Arc<NodeView>,
    pub(super) hashes: Arc<Hashes>,
    pub(super) backups: Backups,
    pub(super) topics: Topics,
    pub(super) requests: Requests,
    /// The leader, for a node that does not lead.
    pub(super) others: client::Directory,
    pub(super) router: Router<NodeView, NoSockets>,
    /// To gateways.
    pub(super) asks: Asks,
    pub(super) feeds: Arc<Feeds>,
    pub(super) info: Info,
    pub(super) started: Instant,
}

/// A directory node has no clients.
#[derive(Debug)]
pub(super) struct NoSockets;

impl Local for NoSockets {
    fn epoch(&self) -> Option<Epoch> {
        None
    }

    type Entered = Deliver;

    async fn enter(&self, delivery: Deliver) -> Deliver {
        delivery
    }

    async fn outcome(&self, delivery: Deliver) -> Delivery {
        match delivery.targets {
            Targets::Each(targets) => Delivery::Each(vec![TargetStatus::Gone; targets.len()]),
            Targets::Many(_) => Delivery::Many(Reached::default()),
        }
    }
}

impl Backend for NodeBackend {
    type View = NodeView;

    fn view(&self) -> &NodeView {
        &self.view
    }

    fn info(&self) -> Info {
        let uptime_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let cluster_id = self.requests.raft.status().cluster_id.map(cluster_id);
        Info { uptime_ms, cluster_id, ..self.info.clone() }
    }

    fn ready(&self) -> Result<(), String> {
        if let Some(why) = self.shut_out() {
            return Err(why);
        }
        let status = self.requests.raft.status();
        match (self.view.staleness(), status.standing) {
            (Some(age), _) if age <= READY_STALENESS_MAX => Ok(()),
            (_, Standing::Founding) => Err("the cluster is being founded; are all founders running?".to_owned()),
            (_, Standing::Joining) => {
                Err("this node waits to be added to a cluster: switchboard members add ID HOST:PORT".to_owned())
            }
            _ if status.leader.is_none() => Err("no leader is known; is a majority of the nodes running?".to_owned()),
            _ => Err("no quorum confirms what this node knows".to_owned()),
        }
    }

    fn warning(&self) -> Option<String> {
        let Space { dir, free, reserve, short } = self.requests.raft.space();
        let dir = dir.display();
        short.then(|| format!("{free} bytes are free in {dir}, {reserve} are kept free: new writes are refused"))
    }

    fn shut_out(&self) -> Option<String> {
        members::shut_out(&self.requests.raft)
    }

    async fn ask(&self, request: RequestBody) -> Result<Answer, Failure> {
        let result = self.requests.answer(request.clone()).await;
        if !matches!(result, Err(Failure::NotLeader { .. } | Failure::NoQuorum)) {
            return result;
        }
        // Without a known leader an election may be under way; it is worth waiting for.
        match request {
            RequestBody::Change(change) => self.others.change(change).await,
            request => self.others.ask(request, ASK_TIMEOUT).await,
        }
    }

    fn push(&self, order: Order) -> impl Future<Output = Result<Pushed, PushRefused>> + Send {
        self.router.push(order)
    }

    fn push_many(&self, orders: Vec<Order>) -> impl Future<Output = Vec<Result<Pushed, PushRefused>>> + Send {
        self.router.push_many(orders)
    }

    async fn feed(&self, request: FeedRequest) -> Result<Feed, FeedRefused> {
        // Also for a feed from now on: a node that lags would show what is long past.
        self.view.linearize().await.map_err(|stale| FeedRefused::Unavailable(stale.to_string()))?;
        self.feeds.hub.reached(self.view.revision()).await;
        self.feeds.open(request)
    }

    async fn history(&self, user: &str, revision: Revision) -> Result<History, FeedRefused> {
        Ok(history::of(&self.feeds.hub, user, revision).await)
    }

    async fn last_seen(&self, users: &[&str], revision: Revision, _alone: bool) -> Vec<Option<u64>> {
        self.feeds.hub.reached(revision).await;
        self.feeds.hub.last_seen(users)
    }

    fn state(&self) -> Option<Directory> {
        Some(self.topics.state.frozen())
    }

    async fn ask_gateway(
        &self,
        _epoch: Epoch,
        session: &Session,
        ask: GatewayAsk,
        within: Duration,
    ) -> Option<GatewayAnswer> {
        self.asks.ask(session.addresses.peer.as_ref()?, ask, within).await
    }

    async fn topics(&self, ask: TopicsAsk) -> Result<At<Vec<Topic>>, StateRefused> {
        self.topics.most(ask).await
    }

    async fn hash(&self, ask: HashAsk) -> Result<StateHash, StateRefused> {
        self.hashes.hash(ask).await
    }

    async fn snapshot(&self) -> Result<SnapshotTaken, StateRefused> {
        self.backups.snapshot().await
    }

    async fn backup(&self) -> Result<Backup, StateRefused> {
        self.backups.backup().await
    }
}
