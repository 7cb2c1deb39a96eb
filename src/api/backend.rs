//! What the HTTP surface needs of the process that it stands in.

use std::future::{Future, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use futures_util::Stream;

use crate::directory::{Directory, Epoch, Revision, Session, Topic};
use crate::push::{Order, PushRefused, Pushed};
use crate::view::{At, View};
use crate::wire::http::{Info, SnapshotTaken, StateHash};
use crate::wire::peer::{Answer, Failure, GatewayAnswer, GatewayAsk, RequestBody};

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

    /// What is retained of a user, up to `revision` at least, which [`Backend::view`] shows already.
    fn history(&self, user: &str, revision: Revision) -> impl Future<Output = Result<History, FeedRefused>> + Send;

    /// When each of these users was last connected, milliseconds since 1970, as far as that is retained up to `revision`; they
    /// are not connected now. `None` where it is not known, or would have to be asked of another process although the
    /// answer shall not depend on others (`alone`).
    fn last_seen(
        &self,
        users: &[&str],
        revision: Revision,
        alone: bool,
    ) -> impl Future<Output = Vec<Option<u64>>> + Send;

    /// Has a read answered by a directory node, as it came: asked where this process does not hold what it needs, which a
    /// node always does.
    fn pass_on(&self, _path: &str) -> impl Future<Output = Result<PassedOn, FeedRefused>> + Send {
        ready(Err(FeedRefused::Unavailable("this process answers itself".to_owned())))
    }

    /// A copy of the state as it is now, with topics and bans. Only a directory node has one.
    fn state(&self) -> Option<Directory> {
        None
    }

    /// Asks a gateway about its own connections. `None` when it can't be reached or gives no answer in time; it may have done what
    /// it was asked for.
    fn ask_gateway(
        &self,
        epoch: Epoch,
        session: &Session,
        ask: GatewayAsk,
        within: Duration,
    ) -> impl Future<Output = Option<GatewayAnswer>> + Send;

    /// The topics that most gateways have subscribers of. Only a directory node knows them all.
    fn topics(&self, _ask: TopicsAsk) -> impl Future<Output = Result<At<Vec<Topic>>, StateRefused>> + Send {
        ready(Err(StateRefused::NotHere))
    }

    /// Hashes the state of this process. Only a directory node has one.
    fn hash(&self, _ask: HashAsk) -> impl Future<Output = Result<StateHash, StateRefused>> + Send {
        ready(Err(StateRefused::NotHere))
    }

    /// Takes a snapshot of the state of this process now, so that its log can be cut.
    fn snapshot(&self) -> impl Future<Output = Result<SnapshotTaken, StateRefused>> + Send {
        ready(Err(StateRefused::NotHere))
    }

    /// Opens a backup: a copy of the state at one revision that covers everything acknowledged before.
    fn backup(&self) -> impl Future<Output = Result<Backup, StateRefused>> + Send {
        ready(Err(StateRefused::NotHere))
    }
}

/// Which state is to be hashed, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashAsk {
    /// Exactly this one; `None`: as it is now.
    pub revision: Option<Revision>,
    /// Whether its invariants are checked, too.
    pub check: bool,
    /// Longest wait for the revision.
    pub within: Duration,
}

/// Which topics are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicsAsk {
    /// Those that begin so.
    pub prefix: String,
    /// So many at most.
    pub limit: usize,
    /// And these, where they are known.
    pub also: Vec<Arc<str>>,
}

/// A backup on its way out.
pub struct Backup {
    /// The state that it holds.
    pub revision: Revision,
    /// Its length.
    pub bytes: u64,
    /// Its bytes, in parts of bounded size.
    pub parts: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>,
}

/// Why the state as a whole can't be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateRefused {
    /// This process is no directory node.
    #[error("a gateway holds no state of its own; ask a directory node: GET /v1/cluster names their APIs")]
    NotHere,
    /// The state has moved on.
    #[error("the state is at revision {now} already; what it was before is not kept")]
    Passed {
        /// Where it is now.
        now: Revision,
    },
    /// The revision did not come in time.
    #[error("the state did not get that far in time; it is at revision {now}")]
    Later {
        /// Where it is now.
        now: Revision,
    },
    /// Others are served already.
    #[error("as many of these requests are being answered as this node takes at once")]
    Busy,
    /// Not possible now.
    #[error("{0}")]
    Unavailable(String),
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

/// The answer of another process.
#[derive(Debug, Clone)]
pub struct PassedOn {
    /// Its status; an error is passed on, too.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// What is retained of a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// The changes that are about the user as JSON objects, the oldest first, as a feed of the user shows them.
    pub lines: Vec<Bytes>,
    /// Nothing is missing that happened after this revision; of what happened up to it nothing is told.
    pub oldest_revision: Revision,
}

/// Why a feed can't be opened, or a history or another read can't be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedRefused {
    /// The changes after that mark are no longer held.
    #[error("changes are held only after revision {oldest}")]
    Compacted {
        /// The oldest revision after which a feed may begin.
        oldest: Revision,
    },
    /// There is no such mark: it was given by another cluster, or by this one before all its data was removed.
    #[error(
        "revision {asked} is none of this cluster, which is at {now}: it was founded anew, or the mark is of another one"
    )]
    Ahead {
        /// The mark.
        asked: Revision,
        /// Where the cluster is.
        now: Revision,
        /// The oldest revision after which a feed may begin.
        oldest: Revision,
    },
    /// No directory node can be reached, or this one can't confirm what it knows.
    #[error("{0}")]
    Unavailable(String),
}
