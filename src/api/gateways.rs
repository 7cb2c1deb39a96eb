//! Gateways, and counts of everything.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use tokio::time::timeout;

use super::read::Freshness;
use super::request::Query;
use super::{Api, Backend, Error};
use crate::directory::{Epoch, Session};
use crate::view::{At, Counts, View};
use crate::wire::http::{Gateway, Gateways, ReconnectBackoff, Stats};
use crate::wire::peer::{Answer, RequestBody};

/// How long the leader is asked for what is left of the leases; the rest of the answer does not depend on it.
const LEASES_WITHIN: Duration = Duration::from_millis(500);

/// How long a node is asked for the number of topics, likewise.
const TOPICS_WITHIN: Duration = Duration::from_millis(500);

/// Tries to read counts and sessions of one revision.
const ONE_REVISION_TRIES: usize = 16;

const BACKOFF: ReconnectBackoff = ReconnectBackoff { base_ms: 500, max_ms: 30_000, factor: 1.8, jitter: 0.5 };

type Live = (Epoch, Arc<Session>, u64);

/// `GET /v1/gateways`
pub(super) async fn list<B: Backend>(State(api): State<Api<B>>, query: Query, uri: Uri) -> Result<Response, Error> {
    let fresh = Freshness::from_query(&query, &api.limits)?;
    if !api.backend.view().holds_all() {
        return api.pass_on(&uri, &fresh).await;
    }
    let (sessions, revision, shows) = fresh.read(api.backend.view(), View::sessions).await?;
    let gateways = bodies(&sessions, &leases(&*api.backend).await);
    Ok(shows.json(StatusCode::OK, &Gateways { gateways, backoff: BACKOFF, revision }))
}

/// `GET /v1/stats`
pub(super) async fn stats<B: Backend>(State(api): State<Api<B>>, query: Query, uri: Uri) -> Result<Response, Error> {
    let fresh = Freshness::from_query(&query, &api.limits)?;
    if !api.backend.view().holds_all() {
        return api.pass_on(&uri, &fresh).await;
    }
    let ((counts, sessions), revision, shows) = fresh.read(api.backend.view(), count).await?;
    let gateways = bodies(&sessions, &leases(&*api.backend).await);
    let Counts { connections, users } = counts;
    let topics = topics(&api).await;
    Ok(shows.json(StatusCode::OK, &Stats { connections, users, topics, gateways, revision }))
}

/// How many topics there are, as a directory node knows it; the rest of the answer does not depend on it.
async fn topics<B: Backend>(api: &Api<B>) -> Option<u64> {
    if let Some(state) = api.backend.state() {
        return Some(state.topic_count());
    }
    let told = timeout(TOPICS_WITHIN, api.backend.pass_on("/v1/stats?consistency=cached")).await.ok()?.ok()?;
    let stats: Stats = serde_json::from_slice(&told.body).ok()?;
    stats.topics
}

/// Both of one revision, unless changes come too fast for that: then of two near each other, named by the older.
fn count(view: &impl View) -> At<(Counts, Vec<Live>)> {
    let mut tries = 0;
    loop {
        tries += 1;
        let (counts, sessions) = (view.counts(), view.sessions());
        if counts.revision == sessions.revision || tries == ONE_REVISION_TRIES {
            let revision = counts.revision.min(sessions.revision);
            return At { value: (counts.value, sessions.value), revision };
        }
    }
}

async fn leases<B: Backend>(backend: &B) -> HashMap<Epoch, u64> {
    match timeout(LEASES_WITHIN, backend.ask(RequestBody::Leases)).await {
        Ok(Ok(Answer::Leases(leases))) => leases.into_iter().collect(),
        _ => HashMap::new(),
    }
}

fn bodies(sessions: &[Live], leases: &HashMap<Epoch, u64>) -> Vec<Gateway> {
    // New clients go where few are; one is added so that an empty gateway has a finite share.
    let inverse = |connections: u64| 1.0 / (connections as f64 + 1.0);
    let sum: f64 = sessions.iter().map(|(_, _, connections)| inverse(*connections)).sum();
    let mut gateways: Vec<Gateway> = sessions
        .iter()
        .map(|(epoch, session, connections)| Gateway {
            id: session.gateway.to_string(),
            url: session.addresses.url.as_deref().map(str::to_owned),
            epoch: *epoch,
            connections: *connections,
            draining: false,
            weight: inverse(*connections) / sum,
            lease_remaining_ms: leases.get(epoch).copied(),
            api: session.addresses.api.as_deref().map(str::to_owned),
        })
        .collect();
    gateways.sort_by(|a, b| a.id.cmp(&b.id));
    gateways
}
