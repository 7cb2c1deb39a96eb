//! The form of successful answers.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::directory::Revision;

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(super) const X_REVISION: HeaderName = HeaderName::from_static("x-revision");
pub(super) const X_STALENESS: HeaderName = HeaderName::from_static("x-staleness-ms");
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the headers of an answer say about what it shows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Shows {
    /// The revision.
    pub(super) revision: Option<Revision>,
    /// Of a cached read: how old it may be. Left out where that is not known.
    pub(super) staleness: Option<Duration>,
}

impl Shows {
    pub(super) fn revision(revision: Revision) -> Self {
        Self { revision: Some(revision), staleness: None }
    }

    /// An answer with these headers.
    pub(super) fn json(self, status: StatusCode, body: &impl Serialize) -> Response {
        let body = serde_json::to_vec(body).expect("bodies of ours have a JSON form");
        self.onto((status, [(header::CONTENT_TYPE, JSON)], body).into_response())
    }

    /// Adds these headers.
    pub(super) fn onto(self, mut response: Response) -> Response {
        if let Some(revision) = self.revision {
            response.headers_mut().insert(X_REVISION, revision.into());
        }
        if let Some(staleness) = self.staleness {
            // Rounded up: an answer is never older than it says.
            let ms = u64::try_from(staleness.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
            response.headers_mut().insert(X_STALENESS, ms.into());
        }
        response
    }
}

/// An answer that shows no revision.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    Shows::default().json(status, body)
}
