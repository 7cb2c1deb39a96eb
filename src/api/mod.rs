//! The HTTP surface that directory nodes and gateways share: thin handlers over one trait, [`Backend`].
//!
//! A handler parses, makes one call, and maps the result; what the call means is decided behind the trait. Every answer
//! that is not a success has the one form of [`crate::wire::http::ErrorBody`], whatever went wrong.

#[cfg(any(test, feature = "fuzzing"))]
#[path = "tests/backend.rs"]
#[cfg_attr(not(test), expect(dead_code, reason = "tests use all of it, fuzzing does not"))]
#[expect(clippy::unwrap_used, reason = "it is for tests, which end where what they believe is wrong")]
mod alone;
mod answer;
mod backend;
mod bans;
mod batch;
mod connections;
mod control;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod gateways;
mod later;
mod limits;
mod members;
mod observe;
mod process;
mod push;
mod read;
mod request;
mod sessions;
mod state;
#[cfg(test)]
mod tests;
mod topics;
mod users;
mod watch;

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::directory::Directory;
use crate::telemetry;
use crate::wire::http::{Applied, ErrorCode};
use crate::wire::peer::{Answer, Failure, RequestBody};

pub use backend::{
    Backend, Backup, Feed, FeedItem, FeedRefused, FeedRequest, HashAsk, History, PassedOn, StateRefused, TopicsAsk,
};
pub use limits::ApiLimits;

use error::Error;
use read::Freshness;

/// The routes of the API over `backend`. To be served by [`crate::net::http::serve`], whose end also ends watches.
pub fn router<B: Backend>(backend: Arc<B>, limits: ApiLimits) -> Router {
    let info = backend.info();
    let api = Api {
        backend,
        watches: Arc::new(Semaphore::new(limits.watches_max)),
        limits: Arc::new(limits),
        process: telemetry::process_name(&info.role, &info.id),
    };
    Router::new()
        .route("/v1/users/{user}", get(users::get::<B>).head(users::head::<B>))
        .route("/v1/users/{user}/history", get(users::history::<B>))
        .route("/v1/users:lookup", post(users::lookup::<B>))
        .route("/v1/users/{user}/subscribe", post(topics::subscribe::<B>))
        .route("/v1/users/{user}/unsubscribe", post(topics::unsubscribe::<B>))
        .route("/v1/users/{user}/disconnect", post(control::disconnect::<B>))
        .route("/v1/connections/{id}", get(connections::get::<B>).delete(control::delete::<B>))
        .route("/v1/connections/{id}/meta", put(control::set_meta::<B>))
        .route("/v1/connections", get(connections::list::<B>))
        .route("/v1/bans", get(bans::list::<B>))
        .route("/v1/bans/{user}", put(bans::put::<B>).delete(bans::delete::<B>))
        .route("/v1/topics", get(topics::list::<B>))
        .route("/v1/topics/{topic}", get(topics::get::<B>))
        .route("/v1/topics/{topic}/members", get(topics::members::<B>))
        .route("/v1/stats", get(gateways::stats::<B>))
        .route("/v1/gateways", get(gateways::list::<B>))
        .route("/v1/users/{user}/push", post(push::to_user::<B>))
        .route("/v1/connections/{id}/push", post(push::to_connection::<B>))
        .route("/v1/topics/{topic}/push", post(push::to_topic::<B>))
        .route("/v1/broadcast", post(push::to_all::<B>))
        .route("/v1/push:batch", post(push::batch::<B>))
        .route("/v1/watch", get(watch::watch::<B>))
        .route("/v1/sessions", post(sessions::open::<B>))
        .route("/v1/sessions/{session}", delete(sessions::end::<B>))
        .route("/v1/sessions/{session}/renew", put(sessions::renew::<B>))
        .route("/v1/sessions/{session}/batch", post(sessions::batch::<B>))
        .route("/v1/cluster", get(process::cluster::<B>))
        .route("/v1/cluster/hash", get(state::hash::<B>))
        .route("/v1/cluster/snapshot", post(state::snapshot::<B>))
        .route("/v1/cluster/backup", get(state::backup::<B>))
        .route("/v1/cluster/members", post(members::add::<B>))
        .route("/v1/cluster/members/{id}", delete(members::remove::<B>))
        .route("/v1/cluster/members/{id}/promote", post(members::promote::<B>))
        .route("/v1/cluster/transfer-leader", post(members::transfer_leader::<B>))
        .route("/v1/info", get(process::info::<B>))
        .route("/livez", get(process::livez))
        .route("/readyz", get(process::readyz::<B>))
        .route("/metrics", get(process::metrics::<B>))
        .merge(later::routes())
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(api.clone(), process::refuse_if_shut_out::<B>))
        .layer(from_fn_with_state(api.clone(), observe::observe::<B>))
        .with_state(api)
}

/// What every handler is given.
struct Api<B> {
    backend: Arc<B>,
    limits: Arc<ApiLimits>,
    /// Permits for open watches.
    watches: Arc<Semaphore>,
    /// Value of the label `process` of its metrics.
    process: Arc<str>,
}

impl<B> Clone for Api<B> {
    fn clone(&self) -> Self {
        Self {
            backend: Arc::clone(&self.backend),
            limits: Arc::clone(&self.limits),
            watches: Arc::clone(&self.watches),
            process: Arc::clone(&self.process),
        }
    }
}

impl<B: Backend> Api<B> {
    /// Asks the directory for a change.
    async fn ask(&self, request: RequestBody) -> Result<Answer, Error> {
        let is_change = matches!(request, RequestBody::Change(_));
        let within = if is_change { self.limits.change_timeout } else { self.limits.ask_timeout };
        match timeout(within, self.backend.ask(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(failure)) => Err(Error::of_write(&failure).leader(self.leader_api(&failure).await)),
            Err(_) => {
                Err(Error::new(ErrorCode::Timeout, "no answer from the leader in time").applied(Applied::Unknown))
            }
        }
    }

    /// Whether this process holds the state itself, with what a gateway's replica lacks.
    fn holds_state(&self) -> bool {
        self.backend.state().is_some()
    }

    /// The state, where this process holds it.
    fn state(&self) -> Directory {
        self.backend.state().expect("a process that holds the state goes on to")
    }

    /// Has a read answered by a directory node, where this process does not hold what it needs.
    async fn pass_on(&self, uri: &Uri, fresh: &Freshness) -> Result<Response, Error> {
        let path = uri.path_and_query().map_or(uri.path(), |path| path.as_str());
        match timeout(fresh.within(), self.backend.pass_on(path)).await {
            Ok(Ok(PassedOn { status, headers, body })) => {
                let mut response = (status, body).into_response();
                for name in [header::CONTENT_TYPE, answer::X_REVISION, answer::X_STALENESS, header::RETRY_AFTER] {
                    response.headers_mut().extend(headers.get(&name).map(|value| (name, value.clone())));
                }
                Ok(response)
            }
            Ok(Err(refused)) => Err(refused.into()),
            Err(_) => Err(Error::new(ErrorCode::Timeout, "no directory node answered in time")),
        }
    }

    /// The API address of the leader whom a failure names.
    async fn leader_api(&self, failure: &Failure) -> Option<String> {
        let Failure::NotLeader { leader: Some((id, _)) } = failure else { return None };
        match timeout(self.limits.read_timeout, self.backend.ask(RequestBody::Cluster)).await {
            Ok(Ok(Answer::Cluster(cluster))) => cluster.members.into_iter().find(|m| m.id == *id).map(|m| m.api),
            _ => None,
        }
    }
}

/// An answer to another question: two versions that do not understand each other.
fn unexpected(answer: &Answer) -> Error {
    tracing::error!(?answer, "the directory answered another question than the one that was asked");
    Error::new(
        ErrorCode::Unavailable,
        "the directory answered another question; its version may differ from this one's",
    )
}

async fn no_route(uri: Uri) -> Error {
    Error::new(ErrorCode::NotFound, format!("there is no route {}", uri.path()))
}

async fn no_method(method: Method, uri: Uri) -> Error {
    Error::new(ErrorCode::MethodNotAllowed, format!("{method} is not offered on {}", uri.path()))
}
