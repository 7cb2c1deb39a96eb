//! Tells gateways of one's own by HTTP which connections they are to release, as soon as that is decided.
//!
//! The leader does it, once for each request and as well as it can: what is lost when leadership moves, when a gateway does not
//! answer or when too much waits, the gateway learns by its next renewal, which goes on asking until the connection is
//! unregistered. So nothing depends on this but the speed of a handover.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, Method};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::leases::Leases;
use super::replicated::Replicated;
use super::watch_hub::WatchHub;
use crate::directory::{ConnectionId, Epoch, Event, Release, Revision};
use crate::net::http::Client;
use crate::wire::http::{ReleaseBody, ReleaseRequest};

/// Gateways that are told something at the same time, one thing each: what one is told keeps its order.
const GATEWAYS_AT_ONCE_MAX: usize = 64;

/// Requests that wait for their turn, of all gateways together; more are left to renewals.
const WAITING_MAX: usize = 8192;

/// Longest wait for an answer. Of one that takes longer the next renewal comes first.
const WITHIN: Duration = Duration::from_secs(2);

/// Changes taken from what is held at a time.
const GATHER: usize = 64;

/// Bytes of an answer; nothing in it is looked at.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Tells gateways of one's own what they are to release.
pub(super) struct Callbacks {
    state: Arc<Replicated>,
    hub: Arc<WatchHub>,
    leases: Leases,
    http: Client,
    process: Arc<str>,
}

impl Callbacks {
    pub(super) fn new(state: Arc<Replicated>, hub: Arc<WatchHub>, leases: Leases, process: Arc<str>) -> Self {
        Self { state, hub, leases, http: Client::new().answer_bytes_max(ANSWER_BYTES_MAX), process }
    }

    /// Follows what is decided, and tells it while this node leads.
    pub(super) async fn run(self) {
        let mut position = self.hub.follow();
        let mut cursor = position.borrow_and_update().applied;
        let (mut waiting, mut under_way) = (Waiting::default(), FuturesUnordered::new());
        loop {
            while under_way.len() < GATEWAYS_AT_ONCE_MAX
                && let Some(next) = waiting.next()
            {
                under_way.push(self.tell(next));
            }
            tokio::select! {
                changed = position.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let applied = position.borrow_and_update().applied;
                    cursor = self.gather(cursor, &mut waiting).max(applied);
                }
                Some((epoch, answered)) = under_way.next() => {
                    let dropped = waiting.told(epoch, answered);
                    self.count("dropped", dropped);
                }
            }
        }
    }

    /// Takes over what was asked after `cursor`, and says up to where.
    fn gather(&self, mut cursor: Revision, waiting: &mut Waiting) -> Revision {
        // Who does not lead passes over it. Who fell behind leaves it to renewals, too.
        while self.leads()
            && let Ok(changes) = self.hub.after(cursor, GATHER)
            && let Some(last) = changes.last()
        {
            cursor = last.revision;
            for event in changes.iter().flat_map(|change| &change.events) {
                if let Event::ReleaseAsked { id, release, .. } = event
                    && let Some(url) = self.deliver_url(id.epoch)
                    && !waiting.add(*id, url, release)
                {
                    self.count("dropped", 1);
                }
            }
        }
        cursor
    }

    /// By itself, so that the table is let go before the state is looked at: who locks both locks the state first.
    fn leads(&self) -> bool {
        self.leases.table().leadership.is_some()
    }

    /// Where a gateway of one's own is told.
    fn deliver_url(&self, epoch: Epoch) -> Option<Arc<str>> {
        self.state.read().session(epoch)?.session.addresses.deliver_url.clone()
    }

    /// Whether there was an answer.
    async fn tell(&self, next: Next) -> (Epoch, bool) {
        let Next { epoch, url, request } = next;
        let connection = request.connection.clone();
        let body = ReleaseBody { kind: "release".to_owned(), request };
        let body = serde_json::to_vec(&body).expect("a body of ours has a JSON form");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        match self.http.request(Method::POST, &url, headers, body.into(), WITHIN).await {
            Ok(answer) if answer.status.is_success() => self.count("told", 1),
            Ok(answer) => {
                tracing::debug!(%url, connection, status = %answer.status, "a deliver_url refused to hear of a release");
                self.count("refused", 1);
            }
            Err(error) => {
                tracing::debug!(%url, connection, %error, "a deliver_url did not hear of a release; its renewal tells it");
                self.count("unreachable", 1);
                return (epoch, false);
            }
        }
        (epoch, true)
    }

    fn count(&self, result: &'static str, count: usize) {
        metrics::counter!("switchboard_release_posts_total", "process" => Arc::clone(&self.process), "result" => result)
            .increment(count as u64);
    }
}

/// What a gateway is to be told next.
#[derive(Debug)]
struct Next {
    epoch: Epoch,
    url: Arc<str>,
    request: ReleaseRequest,
}

/// What waits to be told, by session.
#[derive(Debug, Default)]
struct Waiting {
    /// Of sessions that are being told something, or have something to be told.
    sessions: HashMap<Epoch, Session>,
    /// Those that can be told something now, each once, in turn.
    ready: VecDeque<Epoch>,
    count: usize,
}

#[derive(Debug)]
struct Session {
    url: Arc<str>,
    requests: VecDeque<ReleaseRequest>,
}

impl Waiting {
    /// Takes over a request; whether there was room for it.
    fn add(&mut self, id: ConnectionId, url: Arc<str>, release: &Release) -> bool {
        if self.count >= WAITING_MAX {
            return false;
        }
        self.count += 1;
        let session = self.sessions.entry(id.epoch).or_insert_with(|| {
            self.ready.push_back(id.epoch);
            Session { url, requests: VecDeque::new() }
        });
        session.requests.push_back(ReleaseRequest::new(id, release));
        true
    }

    /// What is told next: [`Self::told`] says what became of it.
    fn next(&mut self) -> Option<Next> {
        let epoch = self.ready.pop_front()?;
        let session = self.sessions.get_mut(&epoch)?;
        let (url, request) = (Arc::clone(&session.url), session.requests.pop_front()?);
        self.count -= 1;
        Some(Next { epoch, url, request })
    }

    /// A session was told something. One that did not answer is told nothing more of what waits; says how much that was.
    fn told(&mut self, epoch: Epoch, answered: bool) -> usize {
        let Some(session) = self.sessions.get(&epoch) else { return 0 };
        let left = session.requests.len();
        if answered && left > 0 {
            self.ready.push_back(epoch);
            return 0;
        }
        self.sessions.remove(&epoch);
        self.count -= left;
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(waiting: &mut Waiting, epoch: Epoch, serial: u64) -> bool {
        waiting.add(ConnectionId { epoch, serial }, "http://x/".into(), &Release::superseded())
    }

    fn next(waiting: &mut Waiting) -> Option<String> {
        waiting.next().map(|next| next.request.connection)
    }

    #[test]
    fn each_gateway_is_told_in_order_and_none_waits_for_another() {
        let mut waiting = Waiting::default();
        for (epoch, serial) in [(1, 1), (1, 2), (2, 1), (1, 3)] {
            assert!(add(&mut waiting, epoch, serial));
        }
        assert_eq!((next(&mut waiting).unwrap(), next(&mut waiting).unwrap()), ("c-1-1".into(), "c-2-1".into()));
        assert_eq!(next(&mut waiting), None, "both are being told something");
        assert_eq!(waiting.told(1, true), 0);
        assert_eq!(next(&mut waiting).unwrap(), "c-1-2");
        assert_eq!(waiting.told(1, false), 1, "who does not answer is told no more");
        assert_eq!(waiting.told(2, true), 0);
        assert_eq!((next(&mut waiting), waiting.count, waiting.sessions.len()), (None, 0, 0));
        assert!(add(&mut waiting, 1, 4));
        assert_eq!(next(&mut waiting).unwrap(), "c-1-4");
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut waiting = Waiting::default();
        assert!((0..WAITING_MAX as u64).all(|serial| add(&mut waiting, serial % 7, serial)));
        assert!(!add(&mut waiting, 8, 1));
        assert!(next(&mut waiting).is_some());
        assert!(add(&mut waiting, 8, 1));
    }
}
