//! The feed of changes for people and services: single connections, one JSON object each.
//!
//! Events of one revision are numbered as they appear in the whole feed, so a mark means the same on every node and under
//! every filter. Where a session ended, its connections are listed from the copy that was frozen at that moment, slice by
//! slice, before anything later.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use super::view::NodeView;
use super::watch_hub::{Change, Position, WatchHub};
use crate::api::{Feed, FeedItem, FeedRefused, FeedRequest};
use crate::clock;
use crate::directory::{ConnectionId, Directory, Epoch, Event, Reason, Revision, Serial};
use crate::view::View;

/// A reader hears something at least this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Changes taken from what is held at a time.
const GATHER: usize = 64;

/// Connections of an ended session that are listed at a time.
const SLICE: usize = 256;

/// One line. Fields that a type does not have are left out.
#[derive(Debug, Serialize)]
struct Line<'a> {
    revision: Revision,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<u32>,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<Epoch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    granted: Option<Revision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<&'a serde_json::value::RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta_version: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<&'a str>,
}

/// One feed.
struct Reader {
    hub: Arc<WatchHub>,
    view: Arc<NodeView>,
    confirm_within: Duration,
    request: FeedRequest,
    /// Everything up to here has been read from the hub.
    cursor: Revision,
    /// Events up to this one are not shown again.
    skip: (Revision, Option<u32>),
    position: watch::Receiver<Position>,
    restarts: u64,
    changes: VecDeque<Arc<Change>>,
    expanding: Option<Expansion>,
    ready: VecDeque<FeedItem>,
    said: Instant,
}

/// A revision of which a part has been shown.
struct Expansion {
    change: Arc<Change>,
    /// The next of its events.
    event: usize,
    /// Number of the next event in the feed.
    n: u32,
    /// The session whose connections are being listed, and the last one that was.
    closing: Option<(Directory, Epoch, Option<Serial>)>,
}

/// Opens a feed.
pub(super) fn open(
    hub: &Arc<WatchHub>,
    view: &Arc<NodeView>,
    confirm_within: Duration,
    request: FeedRequest,
) -> Result<Feed, FeedRefused> {
    let position = hub.follow();
    let Position { applied, restarts } = *position.borrow();
    let skip = request.from.unwrap_or((applied, None));
    // What comes after (R, n) begins inside R.
    let cursor = if skip.1.is_some() { skip.0.saturating_sub(1) } else { skip.0 };
    let floor = hub.floor();
    if cursor < floor {
        return Err(FeedRefused::Compacted { oldest: floor });
    }
    let reader = Reader {
        hub: Arc::clone(hub),
        view: Arc::clone(view),
        confirm_within,
        request,
        cursor,
        skip,
        position,
        restarts,
        changes: VecDeque::new(),
        expanding: None,
        ready: VecDeque::new(),
        said: Instant::now(),
    };
    Ok(Box::pin(stream::unfold(reader, |mut reader| async move { reader.next().await.map(|item| (item, reader)) })))
}

impl Reader {
    /// The next line; `None` when this node can't go on.
    async fn next(&mut self) -> Option<FeedItem> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                self.said = Instant::now();
                return Some(item);
            }
            if self.expanding.is_some() {
                self.expand();
                tokio::task::yield_now().await;
                continue;
            }
            if let Some(change) = self.changes.pop_front() {
                self.cursor = change.revision;
                self.expanding = Some(Expansion { change, event: 0, n: 0, closing: None });
                continue;
            }
            let Position { applied, restarts } = *self.position.borrow_and_update();
            if restarts != self.restarts || self.view.staleness().is_none_or(|age| age > self.confirm_within) {
                return None;
            }
            // Fell behind what is held: the reader comes back with its mark and is told.
            self.changes = self.hub.after(self.cursor, GATHER).ok()?.into();
            if !self.changes.is_empty() {
                continue;
            }
            self.cursor = self.cursor.max(applied);
            let wait = PROGRESS_EVERY.saturating_sub(self.said.elapsed());
            match tokio::time::timeout(wait, self.position.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) => self.ready.push_back(progress(self.cursor)),
            }
        }
    }

    /// Shows the next event of the revision, or the next slice of the connections that it closed.
    fn expand(&mut self) {
        let mut expansion = self.expanding.take().expect("the caller has just seen it");
        let at = clock::rfc3339(expansion.change.at_ms);
        if let Some((frozen, epoch, after)) = expansion.closing.take() {
            let slice: Vec<Event> = frozen.closed_by(epoch, after).take(SLICE).collect();
            for event in &slice {
                self.show(&mut expansion, event, &at);
            }
            if let Some(last) = slice.last() {
                expansion.closing = Some((frozen, epoch, closed_serial(last)));
            }
        } else {
            let change = Arc::clone(&expansion.change);
            let Some(event) = change.events.get(expansion.event) else { return };
            self.show(&mut expansion, event, &at);
            let end = change.ends.iter().find(|end| end.n == expansion.event);
            expansion.closing = end.map(|end| (end.frozen.clone(), end.epoch, None));
            expansion.event += 1;
        }
        self.expanding = Some(expansion);
    }

    /// Adds the lines of one event.
    fn show(&mut self, expansion: &mut Expansion, event: &Event, at: &str) {
        let revision = expansion.change.revision;
        for line in lines(event, revision, at) {
            let n = expansion.n;
            expansion.n += 1;
            let shown_before = revision == self.skip.0 && self.skip.1.is_some_and(|last| n <= last);
            if !shown_before && wanted(&self.request, &line) {
                let json = serde_json::to_vec(&Line { n: Some(n), ..line }).expect("a line has a JSON form");
                self.ready.push_back(FeedItem { mark: (revision, Some(n)), json: json.into() });
            }
        }
    }
}

fn progress(revision: Revision) -> FeedItem {
    let json = serde_json::to_vec(&Line { kind: "progress", ..blank(revision) }).expect("a line has a JSON form");
    FeedItem { mark: (revision, None), json: json.into() }
}

fn closed_serial(event: &Event) -> Option<Serial> {
    match event {
        Event::Closed { id, .. } => Some(id.serial),
        _ => None,
    }
}

fn wanted(request: &FeedRequest, line: &Line<'_>) -> bool {
    (request.types.is_empty() || request.types.iter().any(|wanted| wanted == line.kind))
        && request.user.as_deref().is_none_or(|user| line.user == Some(user))
        && request.prefix.as_deref().is_none_or(|prefix| line.user.is_some_and(|user| user.starts_with(prefix)))
}

fn blank(revision: Revision) -> Line<'static> {
    Line {
        revision,
        n: None,
        kind: "",
        user: None,
        connection: None,
        gateway: None,
        epoch: None,
        granted: None,
        topic: None,
        device: None,
        meta: None,
        meta_version: None,
        reason: None,
        at: None,
    }
}

/// The lines of one event, in order. The end of a session has one of its own; its connections follow.
fn lines<'a>(event: &'a Event, revision: Revision, at: &'a str) -> Vec<Line<'a>> {
    let of = |kind, gateway: &'a str, epoch| Line {
        kind,
        gateway: Some(gateway),
        epoch: Some(epoch),
        at: Some(at),
        ..blank(revision)
    };
    let of_connection = |kind, id: &ConnectionId, user: &'a str, gateway: &'a str, granted| Line {
        user: Some(user),
        connection: Some(id.to_string()),
        granted: Some(granted),
        ..of(kind, gateway, id.epoch)
    };
    let of_user = |kind, user: &'a str| Line { kind, user: Some(user), at: Some(at), ..blank(revision) };
    match event {
        Event::SessionOpened { epoch, session } => vec![of("gateway.up", &session.gateway, *epoch)],
        Event::SessionEnded { epoch, gateway, reason } => {
            vec![Line { reason: Some(*reason), ..of("gateway.down", gateway, *epoch) }]
        }
        Event::Opened { id, connection, gateway, first } => {
            let user = &connection.user;
            let device = Some(&*connection.device).filter(|device| !device.is_empty());
            let opened = of_connection("connection.opened", id, user, gateway, connection.granted);
            let mut lines = vec![Line { device, ..opened }];
            lines.extend(first.then(|| of_user("user.online", user)));
            lines
        }
        Event::Closed { id, user, gateway, granted, reason, last } => {
            let closed = of_connection("connection.closed", id, user, gateway, *granted);
            let mut lines = vec![Line { reason: Some(*reason), ..closed }];
            lines.extend(last.then(|| of_user("user.offline", user)));
            lines
        }
        // Nothing has changed yet: what its gateway does about it is told.
        Event::ReleaseAsked { .. } => Vec::new(),
        Event::TopicJoined { topic, epoch, gateway } => {
            vec![Line { topic: Some(topic), ..of("topic.joined", gateway, *epoch) }]
        }
        Event::TopicLeft { topic, epoch, gateway } => {
            vec![Line { topic: Some(topic), ..of("topic.left", gateway, *epoch) }]
        }
        Event::MetaChanged { id, user, gateway, granted, meta, version } => {
            let changed = of_connection("meta.changed", id, user, gateway, *granted);
            vec![Line { meta: serde_json::from_str(meta).ok(), meta_version: Some(*version), ..changed }]
        }
    }
}
