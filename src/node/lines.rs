//! One change as the JSON objects that people and services read: in feeds, and in the history of a user.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::api::FeedItem;
use crate::directory::{ConnectionId, Epoch, Event, Reason, Revision};

/// One line. Fields that a type does not have are left out.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    revision: Revision,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<u32>,
    #[serde(rename = "type")]
    pub(super) kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<&'a str>,
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
    meta: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta_version: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<&'a str>,
}

impl Line<'_> {
    /// The line with its number among all lines of the revision.
    pub(super) fn json(mut self, n: u32) -> Bytes {
        self.n = Some(n);
        self.encode()
    }

    fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("a line has a JSON form").into()
    }
}

/// The mark that everything up to `revision` was looked at.
pub(super) fn progress(revision: Revision) -> FeedItem {
    FeedItem { mark: (revision, None), json: Line { kind: "progress", ..blank(revision) }.encode() }
}

/// Whether a connection was closed.
pub(super) fn is_close(event: &Event) -> bool {
    matches!(event, Event::Closed { .. })
}

/// How many lines [`lines`] gives, for much less.
pub(super) fn count(event: &Event) -> u32 {
    match event {
        Event::Opened { first: both, .. } | Event::Closed { last: both, .. } => 1 + u32::from(*both),
        Event::ReleaseAsked { .. } => 0,
        _ => 1,
    }
}

/// The lines of one event, in order. The end of a session has one of its own; its connections follow.
pub(super) fn lines<'a>(event: &'a Event, revision: Revision, at: &'a str) -> Vec<Line<'a>> {
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
