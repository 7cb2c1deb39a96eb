//! What the HTTP surface needs of a gateway.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::clients::Hub;
use super::delivery::Deliveries;
use super::feed;
use super::questions;
use super::replica::Replica;
use crate::api::{Backend, Feed, FeedRefused, FeedRequest, History, PassedOn};
use crate::client::Directory;
use crate::directory::{Epoch, Revision, Session};
use crate::net::http::Client;
use crate::push::{Order, PushRefused, Pushed, Router};
use crate::wire::http::{Info, cluster_id};
use crate::wire::peer::{Answer, Failure, GatewayAnswer, GatewayAsk, RequestBody};

/// Longest wait for when users were last seen: it completes an answer that is true without it.
const LAST_SEEN_WITHIN: Duration = Duration::from_millis(500);

/// Users that a directory node is asked for with one request.
const USERS_A_REQUEST: usize = 1024;

/// A gateway behind the HTTP surface.
pub(super) struct Serving {
    pub(super) hub: Arc<Hub>,
    pub(super) router: Router<Replica, Deliveries>,
    pub(super) directory: Directory,
    pub(super) http: Client,
    pub(super) nonce: Arc<str>,
    pub(super) started: Instant,
}

impl Backend for Serving {
    type View = Replica;

    fn view(&self) -> &Replica {
        &self.hub.replica
    }

    fn info(&self) -> Info {
        Info {
            role: String::from("gateway"),
            id: self.hub.settings.id.clone(),
            cluster: self.hub.settings.cluster.clone(),
            cluster_id: self.directory.cluster_id().map(cluster_id),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            nonce: self.nonce.to_string(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn ready(&self) -> Result<(), String> {
        self.hub.ready()
    }

    fn shut_out(&self) -> Option<String> {
        None
    }

    async fn ask(&self, request: RequestBody) -> Result<Answer, Failure> {
        if let RequestBody::Change(change) = request {
            return self.directory.change(change).await;
        }
        let mut answer = self.directory.ask(request, self.hub.settings.ask).await;
        if let Ok(Answer::Cluster(cluster)) = &mut answer {
            cluster.node = None;
        }
        answer
    }

    async fn push(&self, order: Order) -> Result<Pushed, PushRefused> {
        self.router.push(order).await
    }

    async fn push_many(&self, orders: Vec<Order>) -> Vec<Result<Pushed, PushRefused>> {
        self.router.push_many(orders).await
    }

    async fn ask_gateway(
        &self,
        epoch: Epoch,
        session: &Session,
        ask: GatewayAsk,
        within: Duration,
    ) -> Option<GatewayAnswer> {
        if self.hub.lease.epoch() == Some(epoch) {
            return timeout(within, questions::answer(&self.hub, ask)).await.ok();
        }
        self.hub.asks.ask(session.addresses.peer.as_ref()?, ask, within).await
    }

    async fn feed(&self, request: FeedRequest) -> Result<Feed, FeedRefused> {
        feed::open(&self.directory, &self.http, &request).await
    }

    async fn pass_on(&self, path: &str) -> Result<PassedOn, FeedRefused> {
        feed::pass_on(&self.directory, &self.http, path).await
    }

    async fn history(&self, user: &str, revision: Revision) -> Result<History, FeedRefused> {
        feed::history(&self.directory, &self.http, user, revision).await
    }

    async fn last_seen(&self, users: &[&str], revision: Revision, alone: bool) -> Vec<Option<u64>> {
        if alone {
            return vec![None; users.len()];
        }
        let mut seen = Vec::with_capacity(users.len());
        for some in users.chunks(USERS_A_REQUEST) {
            let asked = some.iter().map(|user| Arc::from(*user)).collect();
            match self.directory.ask(RequestBody::LastSeen { users: asked, revision }, LAST_SEEN_WITHIN).await {
                Ok(Answer::LastSeen(told)) if told.len() == some.len() => seen.extend(told),
                _ => break,
            }
        }
        seen.resize(users.len(), None);
        seen
    }
}
