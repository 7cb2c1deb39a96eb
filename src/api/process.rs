//! About the process itself, and the group of directory nodes.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::time::timeout;

use super::answer::{self, Shows};
use super::{Api, Backend, Error};
use crate::telemetry;
use crate::view::View;
use crate::wire::http::ErrorCode;
use crate::wire::peer::{Answer, RequestBody};

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
