//! What the HTTP surface needs of a gateway.

use std::sync::Arc;

use tokio::time::Instant;

use super::clients::Hub;
use super::delivery::Deliveries;
use super::feed;
use super::replica::Replica;
use crate::api::{Backend, Feed, FeedRefused, FeedRequest};
use crate::client::Directory;
use crate::net::http::Client;
use crate::push::{Order, PushRefused, Pushed, Router, Target};
use crate::wire::http::Info;
use crate::wire::peer::{Answer, Failure, RequestBody, TargetStatus};

/// A gateway behind the HTTP surface.
pub(super) struct Serving {
    pub(super) hub: Arc<Hub>,
    pub(super) router: Router<Replica, Deliveries>,
    pub(super) directory: Directory,
    pub(super) http: Client,
    pub(super) nonce: Arc<str>,
    pub(super) started: Instant,
}

impl Serving {
    fn count(&self, target: &Target, began: Instant, result: &Result<Pushed, PushRefused>) {
        let route = match target {
            Target::User(_) => "user",
            Target::Connection(_) => "connection",
        };
        self.hub.meters.pushed(route, outcome(result), began.elapsed());
    }
}

fn outcome(result: &Result<Pushed, PushRefused>) -> &'static str {
    let reached = |status| matches!(status, TargetStatus::Acked | TargetStatus::Written);
    match result {
        Ok(pushed) => match pushed.results.iter().filter(|target| reached(target.status)).count() {
            all if all == pushed.results.len() => "delivered",
            0 => "failed",
            _ => "partial",
        },
        Err(PushRefused::Offline { .. }) => "offline",
        Err(PushRefused::Fenced { .. }) => "fenced",
        Err(PushRefused::Unavailable(_)) => "unavailable",
        Err(PushRefused::Timeout) => "timeout",
    }
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
            version: env!("CARGO_PKG_VERSION").to_owned(),
            nonce: self.nonce.to_string(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn ready(&self) -> Result<(), String> {
        self.hub.ready()
    }

    async fn ask(&self, request: RequestBody) -> Result<Answer, Failure> {
        let mut answer = self.directory.ask(request, self.hub.settings.ask).await;
        if let Ok(Answer::Cluster(cluster)) = &mut answer {
            cluster.node = None;
        }
        answer
    }

    async fn push(&self, order: Order) -> Result<Pushed, PushRefused> {
        let (target, began) = (order.target.clone(), Instant::now());
        let result = self.router.push(order).await;
        self.count(&target, began, &result);
        result
    }

    async fn push_many(&self, orders: Vec<Order>) -> Vec<Result<Pushed, PushRefused>> {
        let targets: Vec<Target> = orders.iter().map(|order| order.target.clone()).collect();
        let began = Instant::now();
        let results = self.router.push_many(orders).await;
        for (target, result) in targets.iter().zip(&results) {
            self.count(target, began, result);
        }
        results
    }

    async fn feed(&self, request: FeedRequest) -> Result<Feed, FeedRefused> {
        feed::open(&self.directory, &self.http, &request).await
    }
}
