//! What the HTTP surface needs of the process that it stands in.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;

use crate::directory::Revision;
use crate::push::{Order, PushRefused, Pushed};
use crate::view::View;
use crate::wire::http::Info;
use crate::wire::peer::{Answer, Failure, RequestBody};

/// What the HTTP surface needs. Implemented by directory nodes and gateways.
pub trait Backend: Send + Sync + 'static {
    /// What the process knows of the directory.
    type View: View;

    /// What the process knows of the directory.
    fn view(&self) -> &Self::View;

    /// About the process.
    fn info(&self) -> Info;

    /// Whether it should get traffic; otherwise why not, as a sentence.
    fn ready(&self) -> Result<(), String>;

    /// What somebody should look after, although it should get traffic; a sentence.
    fn warning(&self) -> Option<String> {
        None
    }

    /// Why it must not answer for the cluster at all, as a sentence.
    fn shut_out(&self) -> Option<String>;

    /// Asks the directory: this node if it leads, otherwise the leader, who is found and followed for as long as the
    /// request is worth waiting for.
    fn ask(&self, request: RequestBody) -> impl Future<Output = Result<Answer, Failure>> + Send;

    /// Pushes.
    fn push(&self, order: Order) -> impl Future<Output = Result<Pushed, PushRefused>> + Send;

    /// Pushes in order; one answer per order.
    fn push_many(&self, orders: Vec<Order>) -> impl Future<Output = Vec<Result<Pushed, PushRefused>>> + Send;

    /// Opens a feed of changes for people and services.
    fn feed(&self, request: FeedRequest) -> impl Future<Output = Result<Feed, FeedRefused>> + Send;
}

/// Which changes a feed shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeedRequest {
    /// What comes after this mark `(revision, n)`; without `n`, after the whole revision. `None`: from now on.
    pub from: Option<(Revision, Option<u32>)>,
    /// Only these types; empty: all.
    pub types: Vec<String>,
    /// Only of this user.
    pub user: Option<String>,
    /// Only of users that begin so.
    pub prefix: Option<String>,
}

/// Changes as JSON objects without line ends, each with its mark; marks of kind `progress` come at least every 5 s.
/// The stream ends when the process can't go on; the reader resumes with its last mark, anywhere.
pub type Feed = Pin<Box<dyn Stream<Item = FeedItem> + Send>>;

/// One line of a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedItem {
    /// The mark to resume after.
    pub mark: (Revision, Option<u32>),
    /// A JSON object without line ends.
    pub json: Bytes,
}

/// Why a feed can't be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedRefused {
    /// The changes after that mark are no longer held.
    #[error("changes are held only after revision {oldest}")]
    Compacted {
        /// The oldest revision after which a feed may begin.
        oldest: Revision,
    },
    /// No directory node can be reached, or this one can't confirm what it knows.
    #[error("{0}")]
    Unavailable(String),
}
