//! About the process itself, and the group of directory nodes.

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::time::timeout;

use super::answer::{self, Shows};
use super::{Api, Backend, Error};
use crate::telemetry;
use crate::view::View;
use crate::wire::http::{Applied, ErrorCode};
use crate::wire::peer::{Answer, RequestBody};

/// What a process still answers about itself when it must not answer for the cluster.
const ABOUT_ITSELF: &str = "/v1/info";

/// Refuses what concerns the cluster where this process does not belong to it.
pub(super) async fn refuse_if_shut_out<B: Backend>(
    State(api): State<Api<B>>,
    request: Request,
    next: Next,
) -> Result<Response, Error> {
    let path = request.uri().path();
    if path.starts_with("/v1/")
        && path != ABOUT_ITSELF
        && let Some(why) = api.backend.shut_out()
    {
        return Err(Error::new(ErrorCode::Unavailable, why).temporary(false).applied(Applied::No));
    }
    Ok(next.run(request).await)
}

/// `GET /livez`: the process answers.
pub(super) async fn livez() -> Response {
    answer::json(StatusCode::OK, &json!({"live": true}))
}

/// `GET /readyz`: it should get traffic.
pub(super) async fn readyz<B: Backend>(State(api): State<Api<B>>) -> Result<Response, Error> {
    match api.backend.ready() {
        Ok(()) => Ok(answer::json(
            StatusCode::OK,
            &match api.backend.warning() {
                None => json!({"ready": true}),
                Some(warning) => json!({"ready": true, "warning": warning}),
            },
        )),
        Err(why) => Err(Error::new(ErrorCode::Unavailable, why)),
    }
}

/// `GET /metrics`
pub(super) async fn metrics<B: Backend>(State(api): State<Api<B>>) -> Response {
    let text = telemetry::render(&api.process);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// `GET /v1/info`
pub(super) async fn info<B: Backend>(State(api): State<Api<B>>) -> Response {
    Shows::revision(api.backend.view().revision()).json(StatusCode::OK, &api.backend.info())
}

/// `GET /v1/cluster`
pub(super) async fn cluster<B: Backend>(State(api): State<Api<B>>) -> Result<Response, Error> {
    match timeout(api.limits.read_timeout, api.backend.ask(RequestBody::Cluster)).await {
        Ok(Ok(Answer::Cluster(cluster))) => Ok(Shows::revision(cluster.applied).json(StatusCode::OK, &cluster)),
        Ok(Ok(other)) => Err(super::unexpected(&other)),
        Ok(Err(failure)) => Err(Error::of_question(&failure)),
        Err(_) => Err(Error::new(ErrorCode::Timeout, "no directory node answered in time")),
    }
}
