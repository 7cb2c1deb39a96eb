//! One process that is the whole directory: the real state machine without replication, sockets of its own, or a clock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use tokio::sync::watch;

use crate::api::{Backend, Feed, FeedItem, FeedRefused, FeedRequest, History, PassedOn, StateRefused, TopicsAsk};
use crate::directory::{
    Command, ConnectionId, Directory, Entry, Epoch, LiveConnection, OpenRefused, Outcome, Revision, Session, Topic,
};
use crate::push::{Order, PushRefused, Pushed, Spread, Target, TargetResult};
use crate::view::{At, Counts, Found, Stale, View};
use crate::wire::http::{Cluster, Info, Member};
use crate::wire::peer::{
    Answer, ChangeRefused, Failure, GatewayAnswer, GatewayAsk, GroupChange, RequestBody, TargetStatus,
};

/// What is told to behave otherwise.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Every request to the leader fails so.
    pub(super) failure: Option<Failure>,
    /// Reads can't be made fresh.
    pub(super) stale: Option<Stale>,
    /// Not everybody is in memory, and this is why nobody can be asked.
    pub(super) nobody_to_ask: Option<Stale>,
    /// How old cached reads may be.
    pub(super) staleness: Option<Duration>,
    /// Status of every target of a push.
    pub(super) status: Option<TargetStatus>,
    /// Every push is refused so.
    pub(super) refused: Option<PushRefused>,
    /// Feeds are refused so.
    pub(super) feed_refused: Option<FeedRefused>,
    /// Changes of the group that are refused, by what is asked; all others are done.
    pub(super) changes_refused: Vec<(GroupChange, ChangeRefused)>,
    /// Users with a line of their history.
    pub(super) history: Vec<(&'static str, &'static str)>,
    /// Users and when they were last connected.
    pub(super) last_seen: Vec<(&'static str, u64)>,
    /// The process is no directory node; what it passes on is answered so, or if that is empty by the path.
    pub(super) passed_on: Option<&'static str>,
    /// What gateways answer that are asked about their connections; otherwise they can't be asked.
    pub(super) of_gateways: Option<fn(&str, &GatewayAsk) -> Option<GatewayAnswer>>,
    /// The process must not answer for the cluster.
    pub(super) shut_out: Option<String>,
}

pub(super) struct Alone {
    pub(super) view: Memory,
    pub(super) told: Mutex<Told>,
    /// Everything that was pushed.
    pub(super) pushed: Mutex<Vec<Order>>,
    /// Every question to a gateway.
    pub(super) asked: Mutex<Vec<(String, GatewayAsk)>>,
    /// Every feed that was asked for.
    pub(super) feeds: Mutex<Vec<FeedRequest>>,
    /// Lines of every feed; feeds stay open after the last.
    pub(super) lines: Mutex<Vec<FeedItem>>,
    pub(super) ready: AtomicBool,
}

pub(super) struct Memory {
    directory: Mutex<Directory>,
    revision: watch::Sender<Revision>,
    told: Mutex<(Option<Stale>, Option<Duration>, Option<Stale>)>,
}

impl Alone {
    pub(super) fn new() -> Arc<Self> {
        let view = Memory {
            directory: Mutex::new(Directory::new()),
            revision: watch::channel(0).0,
            told: Mutex::new((None, Some(Duration::from_millis(7)), None)),
        };
        Arc::new(Self {
            view,
            told: Mutex::default(),
            pushed: Mutex::default(),
            asked: Mutex::default(),
            feeds: Mutex::default(),
            lines: Mutex::default(),
            ready: AtomicBool::new(true),
        })
    }

    /// Goes on with another state.
    pub(super) fn begin_with(&self, directory: Directory) {
        self.view.revision.send_replace(directory.revision());
        *self.view.directory.lock().unwrap() = directory;
        self.pushed.lock().unwrap().clear();
        self.feeds.lock().unwrap().clear();
    }

    /// The state as of now.
    pub(super) fn directory(&self) -> Directory {
        self.view.directory.lock().unwrap().clone()
    }

    /// Changes what is told.
    pub(super) fn tell(&self, change: impl FnOnce(&mut Told)) {
        let mut told = self.told.lock().unwrap();
        change(&mut told);
        *self.view.told.lock().unwrap() = (told.stale, told.staleness, told.nobody_to_ask);
    }

    pub(super) fn revision(&self) -> Revision {
        self.view.revision()
    }

    fn resolve(&self, order: &Order) -> Result<Pushed, PushRefused> {
        self.pushed.lock().unwrap().push(order.clone());
        let told = self.told.lock().unwrap();
        if let Some(refused) = &told.refused {
            return Err(refused.clone());
        }
        let At { value, revision } = match &order.target {
            Target::User(user) => self.view.look(user),
            Target::Connection(id) => {
                let At { value, revision } = self.view.look_for(*id);
                At { value: value.into_iter().collect(), revision }
            }
            // Whoever is there is subscribed to what its gateway has.
            Target::Topic(topic) => {
                let epochs: Vec<Epoch> = self.view.subscribed(topic).value.iter().map(|(epoch, _)| *epoch).collect();
                let At { mut value, revision } = self.view.scan(None, 1000);
                value.retain(|found| epochs.contains(&found.id.epoch));
                At { value, revision }
            }
            Target::All => self.view.scan(None, 1000),
        };
        if value.is_empty() {
            return Err(PushRefused::Offline { as_of: revision });
        }
        if let Some(epoch) = value.iter().map(|f| f.id.epoch).find(|e| order.if_match.is_some_and(|m| m != *e)) {
            return Err(PushRefused::Fenced { epoch });
        }
        let status = told.status.unwrap_or(TargetStatus::Written);
        let result = |found: &Found| TargetResult { id: found.id, gateway: found.session.gateway.clone(), status };
        let meant = value.iter().filter(|found| !order.except.contains(&found.id));
        let results: Vec<_> = meant.map(result).collect();
        let spread = order.target.is_many().then(|| Spread { delivered: results.len() as u64, ..Spread::default() });
        Ok(Pushed { revision, results, spread })
    }
}

impl Memory {
    fn look(&self, user: &str) -> At<Vec<Found>> {
        let directory = self.directory.lock().unwrap();
        let value = directory.connections_of(user).iter().map(found).collect();
        At { value, revision: directory.revision() }
    }

    fn look_for(&self, id: ConnectionId) -> At<Option<Found>> {
        let directory = self.directory.lock().unwrap();
        At { value: directory.connection(id).as_ref().map(found), revision: directory.revision() }
    }

    pub(super) fn apply(&self, command: Command) -> (Revision, Outcome) {
        let mut directory = self.directory.lock().unwrap();
        let revision = directory.revision() + 1;
        let mut applied = directory.apply(revision, &Entry { at_ms: 0, commands: vec![command] });
        self.revision.send_replace(revision);
        (revision, applied.outcomes.remove(0))
    }
}

impl Memory {
    fn renew(&self, epoch: Epoch) -> Answer {
        let directory = self.directory.lock().unwrap();
        let Some(live) = directory.session(epoch) else { return Answer::Gone };
        let release = directory.asked(epoch).map(|asked| (asked.id, asked.release.clone())).collect();
        Answer::Renewed { lease_ms: live.session.lease_ms, release, revision: directory.revision() }
    }
}

fn found(live: &LiveConnection<'_>) -> Found {
    Found { id: live.id, connection: Arc::clone(&live.connection), session: Arc::clone(live.session) }
}

impl View for Memory {
    async fn users(&self, users: &[&str]) -> Result<Vec<At<Vec<Found>>>, Stale> {
        let told = self.told.lock().unwrap();
        // A process that does not hold everybody has to ask.
        told.2.map_or(Ok(()), Err)?;
        Ok(users.iter().map(|user| self.look(user)).collect())
    }

    async fn connection(&self, id: ConnectionId) -> Result<At<Option<Found>>, Stale> {
        Ok(self.look_for(id))
    }

    fn holds_all(&self) -> bool {
        self.told.lock().unwrap().2.is_none()
    }

    fn scan(&self, after: Option<ConnectionId>, limit: usize) -> At<Vec<Found>> {
        let directory = self.directory.lock().unwrap();
        let value = directory.scan(after).take(limit).map(|live| found(&live)).collect();
        At { value, revision: directory.revision() }
    }

    fn sessions(&self) -> At<Vec<(Epoch, Arc<Session>, u64)>> {
        let directory = self.directory.lock().unwrap();
        let value = directory.sessions().map(|live| (live.epoch, Arc::clone(live.session), live.connections)).collect();
        At { value, revision: directory.revision() }
    }

    fn subscribed(&self, topic: &str) -> At<Vec<(Epoch, Arc<Session>)>> {
        let directory = self.directory.lock().unwrap();
        let session = |epoch| Some((epoch, Arc::clone(directory.session(epoch)?.session)));
        At {
            value: directory.sessions_of(topic).into_iter().filter_map(session).collect(),
            revision: directory.revision(),
        }
    }

    fn counts(&self) -> At<Counts> {
        let directory = self.directory.lock().unwrap();
        let stats = directory.stats();
        let value = Counts { connections: stats.connections, users: stats.users };
        At { value, revision: directory.revision() }
    }

    fn revision(&self) -> Revision {
        self.directory.lock().unwrap().revision()
    }

    fn staleness(&self) -> Option<Duration> {
        self.told.lock().unwrap().1
    }

    async fn linearize(&self) -> Result<(), Stale> {
        self.told.lock().unwrap().0.map_or(Ok(()), Err)
    }

    async fn reach(&self, revision: Revision, within: Duration) -> Result<(), Stale> {
        let mut now = self.revision.subscribe();
        let reached = tokio::time::timeout(within, now.wait_for(|now| *now >= revision)).await;
        reached.map(|_| ()).map_err(|_| Stale::Timeout)
    }
}

impl Alone {
    fn asked(&self, command: Command) -> Answer {
        match self.view.apply(command) {
            (revision, Outcome::Asked(connections) | Outcome::Banned(Ok(connections))) => {
                Answer::Asked { connections, revision }
            }
            other => panic!("{other:?}"),
        }
    }
}

impl Backend for Alone {
    type View = Memory;

    fn view(&self) -> &Memory {
        &self.view
    }

    fn info(&self) -> Info {
        Info {
            cluster_id: None,
            role: "directory".into(),
            id: "1".into(),
            cluster: "test".into(),
            version: "0".into(),
            nonce: "n".into(),
            uptime_ms: 1,
        }
    }

    fn ready(&self) -> Result<(), String> {
        if self.ready.load(Ordering::Relaxed) { Ok(()) } else { Err("it is still catching up".into()) }
    }

    fn shut_out(&self) -> Option<String> {
        self.told.lock().unwrap().shut_out.clone()
    }

    async fn ask(&self, request: RequestBody) -> Result<Answer, Failure> {
        if !matches!(request, RequestBody::Cluster)
            && let Some(failure) = self.told.lock().unwrap().failure.clone()
        {
            return Err(failure);
        }
        Ok(match request {
            RequestBody::OpenSession(open) => {
                let lease_ms = open.lease_ms;
                match self.view.apply(Command::OpenSession(open)).1 {
                    Outcome::Opened(Ok(epoch)) => Answer::Opened { epoch, lease_ms },
                    Outcome::Opened(Err(OpenRefused::Conflict { epoch, .. })) => Answer::Taken { epoch },
                    Outcome::Opened(Err(why)) => Answer::NotOpened { why: why.to_string() },
                    other => panic!("{other:?}"),
                }
            }
            RequestBody::Disconnect(disconnect) => self.asked(Command::Disconnect(disconnect)),
            RequestBody::Ban { user, ban } => self.asked(Command::Ban { user, ban }),
            RequestBody::Unban { user } => match self.view.apply(Command::Unban { user, made: None }) {
                (revision, Outcome::Unbanned(existed)) => Answer::Unbanned { existed, revision },
                other => panic!("{other:?}"),
            },
            RequestBody::EndSession { epoch, reason, fenced } => {
                match self.view.apply(Command::EndSession { epoch, reason, fenced }).1 {
                    Outcome::Ended(existed) => Answer::Ended { existed },
                    other => panic!("{other:?}"),
                }
            }
            RequestBody::Batch(batch) => match self.view.apply(Command::Batch(batch)).1 {
                Outcome::Batch(done) => Answer::Batch(done),
                other => panic!("{other:?}"),
            },
            RequestBody::Renew { epoch, .. } => self.view.renew(epoch),
            RequestBody::Leases => {
                Answer::Leases(self.view.sessions().value.iter().map(|(epoch, _, _)| (*epoch, 2411)).collect())
            }
            RequestBody::Find(_) | RequestBody::LastSeen { .. } => panic!("the API asks the view and the backend"),
            RequestBody::Change(change) => {
                let told = self.told.lock().unwrap();
                let refused = told.changes_refused.iter().find(|(of, _)| *of == change);
                Answer::Changed(refused.map_or(Ok(7), |(_, refused)| Err(refused.clone())))
            }
            RequestBody::Cluster | RequestBody::Members => Answer::Cluster(Cluster {
                cluster: "test".into(),
                leader: Some(1),
                members: vec![Member { id: 1, api: "127.0.0.1:7101".into(), ..Member::default() }],
                applied: self.revision(),
                ..Cluster::default()
            }),
        })
    }

    fn state(&self) -> Option<Directory> {
        let told = self.told.lock().unwrap();
        told.passed_on.is_none().then(|| self.view.directory.lock().unwrap().clone())
    }

    async fn ask_gateway(
        &self,
        _epoch: Epoch,
        session: &Session,
        ask: GatewayAsk,
        _within: Duration,
    ) -> Option<GatewayAnswer> {
        self.asked.lock().unwrap().push((session.gateway.to_string(), ask.clone()));
        self.told.lock().unwrap().of_gateways.and_then(|answer| answer(&session.gateway, &ask))
    }

    async fn topics(&self, ask: TopicsAsk) -> Result<At<Vec<Topic>>, StateRefused> {
        let directory = self.view.directory.lock().unwrap();
        let value = directory.topics(&ask.prefix).take(ask.limit).collect();
        Ok(At { value, revision: directory.revision() })
    }

    async fn push(&self, order: Order) -> Result<Pushed, PushRefused> {
        self.resolve(&order)
    }

    async fn push_many(&self, orders: Vec<Order>) -> Vec<Result<Pushed, PushRefused>> {
        orders.iter().map(|order| self.resolve(order)).collect()
    }

    async fn pass_on(&self, path: &str) -> Result<PassedOn, FeedRefused> {
        let told = self.told.lock().unwrap().passed_on;
        let headers = HeaderMap::from_iter([(HeaderName::from_static("x-revision"), HeaderValue::from_static("77"))]);
        let (status, body) = match told {
            Some("") => (StatusCode::OK, path),
            Some(body) => (StatusCode::OK, body),
            None => (StatusCode::IM_A_TEAPOT, path),
        };
        Ok(PassedOn { status, headers, body: Bytes::copy_from_slice(body.as_bytes()) })
    }

    async fn history(&self, user: &str, revision: Revision) -> Result<History, FeedRefused> {
        let told = self.told.lock().unwrap();
        if let Some(refused) = told.feed_refused.clone() {
            return Err(refused);
        }
        assert!(revision <= self.revision(), "it is asked for what the view shows");
        let lines =
            told.history.iter().filter(|(of, _)| *of == user).map(|(_, line)| Bytes::from_static(line.as_bytes()));
        Ok(History { lines: lines.collect(), oldest_revision: 3 })
    }

    async fn last_seen(&self, users: &[&str], _: Revision, _: bool) -> Vec<Option<u64>> {
        let told = self.told.lock().unwrap();
        let seen = |user: &&str| told.last_seen.iter().find(|(of, _)| of == user).map(|(_, at)| *at);
        users.iter().map(seen).collect()
    }

    async fn feed(&self, request: FeedRequest) -> Result<Feed, FeedRefused> {
        self.feeds.lock().unwrap().push(request);
        match self.told.lock().unwrap().feed_refused.clone() {
            Some(refused) => Err(refused),
            None => Ok(stream::iter(self.lines.lock().unwrap().clone()).chain(stream::pending()).boxed()),
        }
    }
}

/// A line of a feed.
pub(super) fn line(revision: Revision, n: Option<u32>, json: &'static str) -> FeedItem {
    FeedItem { mark: (revision, n), json: Bytes::from_static(json.as_bytes()) }
}
