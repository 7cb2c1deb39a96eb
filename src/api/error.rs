//! Every answer that is not a success, in its one form.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use super::answer::{JSON, X_REVISION};
use crate::directory::{OpRefused, Owner, Revision};
use crate::push::PushRefused;
use crate::view::Stale;
use crate::wire::http::{Applied, ErrorBody, ErrorCode, ErrorDetail, OwnerBody};
use crate::wire::peer::Failure;

/// An answer that is not a success.
#[derive(Debug, Clone)]
pub(super) struct Error {
    status: StatusCode,
    body: Box<ErrorBody>,
    revision: Option<Revision>,
}

impl Error {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let temporary = matches!(code, ErrorCode::RateLimited | ErrorCode::Unavailable | ErrorCode::Timeout);
        let error = ErrorDetail { code, message: message.into(), temporary, applied: None, leader: None, owner: None };
        Self { status: status_of(code), body: Box::new(ErrorBody { error, more: Map::new() }), revision: None }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    pub(super) fn too_large(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::TooLarge, message)
    }

    /// `what` is not offered by this version; a noun phrase that begins a sentence.
    pub(super) fn not_offered(what: &str) -> Self {
        Self::new(ErrorCode::NotImplemented, format!("{what} is not offered yet"))
    }

    /// With another status than the one that belongs to the code.
    pub(super) fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Whether trying again later may help, where the code alone does not tell.
    pub(super) fn temporary(mut self, temporary: bool) -> Self {
        self.body.error.temporary = temporary;
        self
    }

    /// With a further field.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.body.more.insert(name.to_owned(), value.into());
        self
    }

    /// Of a write: whether it took effect.
    pub(super) fn applied(mut self, applied: Applied) -> Self {
        self.body.error.applied = Some(applied);
        self
    }

    /// Names the leader's API address.
    pub(super) fn leader(mut self, api: Option<String>) -> Self {
        self.body.error.leader = api;
        self
    }

    /// As a part of a larger answer.
    pub(super) fn into_body(self) -> ErrorBody {
        *self.body
    }

    /// Why a write has no answer.
    pub(super) fn of_write(failure: &Failure) -> Self {
        let message = failure.to_string();
        let (code, applied) = match failure {
            Failure::NotLeader { .. } | Failure::NoQuorum | Failure::NoSpace { .. } | Failure::ShutOut { .. } => {
                (ErrorCode::Unavailable, Applied::No)
            }
            Failure::Overloaded => (ErrorCode::RateLimited, Applied::No),
            Failure::Ignored { .. } => (ErrorCode::Conflict, Applied::No),
            Failure::Refused { .. } => (ErrorCode::BadRequest, Applied::No),
            Failure::Unknown => (ErrorCode::Unavailable, Applied::Unknown),
        };
        Self::new(code, message).applied(applied)
    }

    /// Why a question has no answer: nothing could have been applied.
    pub(super) fn of_question(failure: &Failure) -> Self {
        let mut error = Self::of_write(failure);
        error.body.error.applied = None;
        error
    }

    /// Why an operation of a batch changed nothing.
    pub(super) fn of_op(refused: &OpRefused) -> ErrorDetail {
        let code = match refused {
            OpRefused::ConnectionLimit { .. } => ErrorCode::ConnectionLimit,
            OpRefused::SerialReused | OpRefused::Conflict { .. } | OpRefused::Superseded { .. } => ErrorCode::Conflict,
            OpRefused::TopicLimit => ErrorCode::TooLarge,
            OpRefused::Banned(_) => ErrorCode::Forbidden,
            OpRefused::NotFound => ErrorCode::NotFound,
            OpRefused::VersionMismatch { .. } => ErrorCode::Fenced,
            OpRefused::Invalid(_) => ErrorCode::BadRequest,
        };
        let mut error = Self::new(code, refused.to_string()).into_body().error;
        match refused {
            OpRefused::Conflict { owner } => {
                error.temporary = !owner.live;
                error.owner = Some(Box::new(owner_body(owner)));
            }
            // Read what is there now, and try again with that.
            OpRefused::VersionMismatch { .. } => error.temporary = true,
            _ => {}
        }
        error
    }
}

fn owner_body(owner: &Owner) -> OwnerBody {
    OwnerBody {
        connection: owner.id.to_string(),
        gateway: owner.gateway.to_string(),
        device: Some(owner.device.to_string()).filter(|device| !device.is_empty()),
        granted: owner.granted,
        live: owner.live,
    }
}

fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::BadRequest => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorCode::Forbidden => StatusCode::FORBIDDEN,
        ErrorCode::NotFound | ErrorCode::Offline => StatusCode::NOT_FOUND,
        ErrorCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::Conflict | ErrorCode::ConnectionLimit => StatusCode::CONFLICT,
        ErrorCode::Compacted | ErrorCode::Gone => StatusCode::GONE,
        ErrorCode::Fenced => StatusCode::PRECONDITION_FAILED,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::NotImplemented => StatusCode::NOT_IMPLEMENTED,
        ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Timeout => StatusCode::GATEWAY_TIMEOUT,
    }
}

impl From<PushRefused> for Error {
    fn from(refused: PushRefused) -> Self {
        let message = refused.to_string();
        match refused {
            PushRefused::Offline { as_of } => Self::offline(message, as_of),
            PushRefused::Fenced { epoch } => Self::new(ErrorCode::Fenced, message).with("epoch", epoch),
            PushRefused::Unavailable(_) => Self::new(ErrorCode::Unavailable, message).applied(Applied::No),
            PushRefused::Unreached { .. } => Self::new(ErrorCode::Unavailable, message).applied(Applied::No),
            PushRefused::Busy { .. } => Self::new(ErrorCode::RateLimited, message).applied(Applied::No),
            PushRefused::Timeout => Self::new(ErrorCode::Timeout, message).applied(Applied::Unknown),
        }
    }
}

impl Error {
    /// Exact: there was no such connection at that revision.
    pub(super) fn offline(message: impl Into<String>, as_of: Revision) -> Self {
        let mut error = Self::new(ErrorCode::Offline, message).with("as_of_revision", as_of);
        error.revision = Some(as_of);
        error
    }
}

impl From<Stale> for Error {
    fn from(stale: Stale) -> Self {
        Self::new(ErrorCode::Unavailable, stale.to_string())
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.body).expect("an error has a JSON form");
        let mut response = (self.status, [(header::CONTENT_TYPE, JSON)], body).into_response();
        if matches!(self.body.error.code, ErrorCode::Unavailable | ErrorCode::RateLimited) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(revision) = self.revision {
            response.headers_mut().insert(X_REVISION, revision.into());
        }
        response
    }
}
