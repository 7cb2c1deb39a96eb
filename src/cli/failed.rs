//! Why a verb failed, for the caller's eyes and for scripts.

use std::process::ExitCode;

use crate::net::http::Response;
use crate::wire::http::{ErrorBody, ErrorCode};

/// Exit codes of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Bad usage or configuration.
    Usage = 2,
    /// Not found, or offline.
    NotFound = 3,
    /// No quorum: not known, or not possible now.
    NoQuorum = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a verb failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failed {
    /// For scripts.
    pub exit: Exit,
    /// What happened, to what, and what to do. Empty where what was printed says it all.
    pub message: String,
}

impl Failed {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// Of an answer that is an error; `what` was being done.
    pub(super) fn of_answer(what: &str, answer: &Response) -> Self {
        let Ok(ErrorBody { error, .. }) = serde_json::from_slice(&answer.body) else {
            let message = format!("{what}: the server answered {}; is this a Switchboard API?", answer.status);
            return Self::new(Exit::Failed, message);
        };
        let exit = match error.code {
            ErrorCode::BadRequest => Exit::Usage,
            ErrorCode::NotFound | ErrorCode::Offline => Exit::NotFound,
            ErrorCode::Unavailable => Exit::NoQuorum,
            _ => Exit::Failed,
        };
        let advice = match error.code {
            ErrorCode::Unavailable => "; see `switchboard status`, or try again when a majority of the nodes runs",
            ErrorCode::Compacted => "; leave out --from to begin with now",
            _ if error.temporary => "; try again",
            _ => "",
        };
        Self::new(exit, format!("{what}: {}{advice}", error.message))
    }

    /// Writes the message to stderr.
    pub fn report(&self) {
        if !self.message.is_empty() {
            eprintln!("switchboard: {}", self.message);
        }
    }
}
