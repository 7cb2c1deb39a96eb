//! Asking the directory: the client of this process, or a directory in memory in tests.

use std::future::Future;

use crate::client::Directory;
use crate::wire::peer::{Answer, Failure, RequestBody};

/// Whoever answers the requests of a gateway. Implemented by the SDK, and by a directory in memory that loses answers.
pub(super) trait Ask: Clone + Send + Sync + 'static {
    /// One attempt. Requests leave in the order in which these calls are first polled.
    fn ask_once(&self, body: RequestBody) -> impl Future<Output = Result<Answer, Failure>> + Send;
}

impl Ask for Directory {
    fn ask_once(&self, body: RequestBody) -> impl Future<Output = Result<Answer, Failure>> + Send {
        Directory::ask_once(self, body)
    }
}
