//! The resolve rule against a view that lags behind the directory, and sockets that note what they are sent.

mod spread;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::directory::{
    Batch, Command, ConnectionId, Directory, Entry, Epoch, GatewayAddresses, Op, OpenSession, Policy, Reason, Register,
    Revision, Session,
};
use crate::net::http::Client;
use crate::view::{At, Counts, Found, Stale, View};
use crate::wire::peer::{Ack, Deliver, Delivery, Message, Payload, Reached, TargetStatus, Targets};

/// What a process knows, and what is true.
#[derive(Default)]
struct Lagging {
    truth: Mutex<Directory>,
    known: Mutex<Directory>,
    no_quorum: Mutex<bool>,
    /// Not everybody is in memory, and this is why nobody can be asked.
    nobody_to_ask: Mutex<Option<Stale>>,
    linearized: Mutex<u32>,
}

impl Lagging {
    fn apply(&self, command: Command) {
        let mut truth = self.truth.lock().unwrap();
        let revision = truth.revision() + 1;
        truth.apply(revision, &Entry { at_ms: 0, commands: vec![command] });
    }

    fn catch_up(&self) {
        *self.known.lock().unwrap() = self.truth.lock().unwrap().clone();
    }

    fn open(&self, gateway: &str, peer: Option<&str>) -> Epoch {
        let addresses = GatewayAddresses { peer: peer.map(Into::into), ..GatewayAddresses::default() };
        let nonce = "n".into();
        self.apply(Command::OpenSession(OpenSession {
            gateway: gateway.into(),
            nonce,
            attempt: 1,
            lease_ms: 3000,
            addresses,
        }));
        self.truth.lock().unwrap().revision()
    }

    fn register(&self, epoch: Epoch, serial: u64, user: &str, device: &str) -> ConnectionId {
        let register = Register {
            serial,
            user: user.into(),
            device: device.into(),
            policy: Policy::multi(9),
            since: None,
            connected_at_ms: 0,
            remote: None,
            meta: None,
        };
        self.apply(Command::Batch(Batch { epoch, seq: None, ops: vec![Op::Register(register)] }));
        ConnectionId { epoch, serial }
    }

    fn unregister(&self, id: ConnectionId) {
        let ops = vec![Op::Unregister { serial: id.serial, reason: Reason::Closed }];
        self.apply(Command::Batch(Batch { epoch: id.epoch, seq: None, ops }));
    }
}

fn found(live: crate::directory::LiveConnection<'_>) -> Found {
    Found { id: live.id, connection: live.connection, session: Arc::clone(live.session) }
}

impl View for Lagging {
    async fn users(&self, users: &[&str]) -> Result<Vec<At<Vec<Found>>>, Stale> {
        if let Some(stale) = *self.nobody_to_ask.lock().unwrap() {
            return Err(stale);
        }
        let known = self.known.lock().unwrap();
        let look = |user: &&str| known.connections_of(user).into_iter().map(found).collect();
        Ok(users.iter().map(|user| At { value: look(user), revision: known.revision() }).collect())
    }

    async fn connection(&self, id: ConnectionId) -> Result<At<Option<Found>>, Stale> {
        let known = self.known.lock().unwrap();
        Ok(At { value: known.connection(id).map(found), revision: known.revision() })
    }

    fn scan(&self, _: Option<ConnectionId>, _: usize) -> At<Vec<Found>> {
        unreachable!("a push lists nothing")
    }

    fn sessions(&self) -> At<Vec<(Epoch, Arc<Session>, u64)>> {
        let known = self.known.lock().unwrap();
        let value = known.sessions().map(|live| (live.epoch, Arc::clone(live.session), live.connections)).collect();
        At { value, revision: known.revision() }
    }

    fn subscribed(&self, topic: &str) -> At<Vec<(Epoch, Arc<Session>)>> {
        let known = self.known.lock().unwrap();
        let session = |epoch| Some((epoch, Arc::clone(known.session(epoch)?.session)));
        At { value: known.sessions_of(topic).into_iter().filter_map(session).collect(), revision: known.revision() }
    }

    fn counts(&self) -> At<Counts> {
        unreachable!("a push counts nothing")
    }

    fn revision(&self) -> Revision {
        self.known.lock().unwrap().revision()
    }

    fn staleness(&self) -> Option<Duration> {
        None
    }

    async fn linearize(&self) -> Result<(), Stale> {
        *self.linearized.lock().unwrap() += 1;
        if *self.no_quorum.lock().unwrap() {
            return Err(Stale::NoQuorum);
        }
        self.catch_up();
        Ok(())
    }

    async fn reach(&self, _: Revision, _: Duration) -> Result<(), Stale> {
        Ok(())
    }
}

/// The sockets of one gateway.
#[derive(Default)]
struct Sockets {
    epoch: Mutex<Option<Epoch>>,
    open: Mutex<BTreeSet<u64>>,
    sent: Mutex<Vec<(u64, Arc<str>)>>,
    fenced: Mutex<bool>,
}

impl Local for Sockets {
    fn epoch(&self) -> Option<Epoch> {
        *self.epoch.lock().unwrap()
    }

    type Entered = Delivery;

    async fn enter(&self, delivery: Deliver) -> Delivery {
        let targets = match &delivery.targets {
            Targets::Each(targets) => targets,
            Targets::Many(_) => return self.spread(&delivery.message),
        };
        let status = |target: &ConnectionId| {
            if !self.open.lock().unwrap().contains(&target.serial) {
                return TargetStatus::Gone;
            }
            if *self.fenced.lock().unwrap() {
                return TargetStatus::Fenced;
            }
            self.sent.lock().unwrap().push((target.serial, Arc::clone(&delivery.message.id)));
            TargetStatus::Written
        };
        Delivery::Each(targets.iter().map(status).collect())
    }

    async fn outcome(&self, delivery: Delivery) -> Delivery {
        delivery
    }
}

struct Bench {
    view: Arc<Lagging>,
    sockets: Arc<Sockets>,
    router: Router<Lagging, Sockets>,
    here: Epoch,
}

impl Bench {
    fn new() -> Self {
        let (view, sockets) = (Arc::<Lagging>::default(), Arc::<Sockets>::default());
        let here = view.open("here", None);
        *sockets.epoch.lock().unwrap() = Some(here);
        let links = Links::new("test", "a test");
        let router = Router::new(Arc::clone(&view), Arc::clone(&sockets), links, Client::new(), "test".into());
        Self { view, sockets, router, here }
    }

    /// A client with an open socket here.
    fn client(&self, serial: u64, user: &str, device: &str) -> ConnectionId {
        self.sockets.open.lock().unwrap().insert(serial);
        self.view.register(self.here, serial, user, device)
    }

    fn leaves(&self, id: ConnectionId) {
        self.sockets.open.lock().unwrap().remove(&id.serial);
        self.view.unregister(id);
    }

    fn sent(&self) -> Vec<(u64, String)> {
        self.sockets.sent.lock().unwrap().iter().map(|(serial, id)| (*serial, id.to_string())).collect()
    }

    fn linearized(&self) -> u32 {
        *self.view.linearized.lock().unwrap()
    }
}

fn order(target: Target, id: &str) -> Order {
    let data = Payload::Json(Bytes::from_static(b"1"));
    let message = Message { id: id.into(), topic: None, event: None, data, ack: Ack::Written, timeout_ms: 200 };
    Order { target, message: Arc::new(message), devices: Vec::new(), except: Vec::new(), rate_per_s: 0, if_match: None }
}

fn to_user(user: &str, id: &str) -> Order {
    order(Target::User(user.into()), id)
}

fn statuses(pushed: &Pushed) -> Vec<(u64, TargetStatus)> {
    pushed.results.iter().map(|result| (result.id.serial, result.status)).collect()
}

#[tokio::test]
async fn what_is_known_is_used_without_asking() {
    let bench = Bench::new();
    bench.client(1, "a", "web");
    bench.client(2, "a", "ios");
    bench.view.catch_up();
    let pushed = bench.router.push(to_user("a", "m")).await.unwrap();
    assert_eq!(statuses(&pushed), [(1, TargetStatus::Written), (2, TargetStatus::Written)]);
    assert_eq!((pushed.revision, bench.linearized()), (3, 0));
}

#[tokio::test]
async fn who_has_moved_is_found_by_one_linearizable_read() {
    let bench = Bench::new();
    let old = bench.client(1, "a", "web");
    bench.client(2, "a", "ios");
    bench.view.catch_up();
    bench.leaves(old);
    bench.client(3, "a", "web");
    let pushed = bench.router.push(to_user("a", "m")).await.unwrap();
    // What was gone and is confirmed to be is no target; what took it is not sent it again.
    assert_eq!(statuses(&pushed), [(2, TargetStatus::Written), (3, TargetStatus::Written)]);
    assert_eq!((bench.sent().len(), bench.linearized()), (2, 1));
}

#[tokio::test]
async fn offline_is_said_after_a_linearizable_read_only() {
    let bench = Bench::new();
    let id = bench.client(1, "a", "web");
    bench.view.catch_up();
    bench.leaves(id);
    *bench.view.no_quorum.lock().unwrap() = true;
    for order in [to_user("a", "m"), to_user("nobody", "m"), order(Target::Connection(id), "m")] {
        assert_eq!(bench.router.push(order).await, Err(PushRefused::Unavailable(Stale::NoQuorum)));
    }
    *bench.view.no_quorum.lock().unwrap() = false;
    *bench.view.nobody_to_ask.lock().unwrap() = Some(Stale::NoQuorum);
    let unknown = bench.router.push(to_user("nobody", "m")).await;
    assert_eq!(unknown, Err(PushRefused::Unavailable(Stale::NoQuorum)), "who is not in memory is not offline");
    *bench.view.nobody_to_ask.lock().unwrap() = None;
    for order in [to_user("a", "m"), to_user("nobody", "m"), order(Target::Connection(id), "m")] {
        assert_eq!(bench.router.push(order).await, Err(PushRefused::Offline { as_of: 3 }));
    }
    assert_eq!(bench.sent(), []);
}

#[tokio::test]
async fn without_a_quorum_what_was_reached_is_told_with_what_was_not() {
    let bench = Bench::new();
    let gone = bench.client(1, "a", "web");
    bench.client(2, "a", "ios");
    bench.view.catch_up();
    bench.leaves(gone);
    *bench.view.no_quorum.lock().unwrap() = true;
    let pushed = bench.router.push(to_user("a", "m")).await.unwrap();
    assert_eq!(statuses(&pushed), [(1, TargetStatus::Gone), (2, TargetStatus::Written)]);
}

#[tokio::test]
async fn a_fenced_gateway_is_told_as_such_also_without_a_quorum() {
    let bench = Bench::new();
    bench.client(1, "a", "web");
    bench.view.catch_up();
    *bench.sockets.fenced.lock().unwrap() = true;
    for no_quorum in [false, true] {
        *bench.view.no_quorum.lock().unwrap() = no_quorum;
        let pushed = bench.router.push(to_user("a", "m")).await.unwrap();
        assert_eq!(statuses(&pushed), [(1, TargetStatus::Fenced)]);
    }
    assert_eq!((bench.linearized(), bench.sent()), (2, Vec::new()));
}

#[tokio::test]
async fn a_batch_keeps_its_order_also_when_its_target_has_to_be_found_again() {
    let bench = Bench::new();
    let old = bench.client(1, "a", "web");
    bench.client(2, "b", "web");
    bench.view.catch_up();
    bench.leaves(old);
    bench.client(3, "a", "web");
    let orders = (0..20).map(|n| to_user(if n % 4 == 0 { "b" } else { "a" }, &format!("m-{n:02}"))).collect();
    let pushed = bench.router.push_many(orders).await;
    let written = |pushed: &Result<Pushed, PushRefused>| {
        pushed.as_ref().is_ok_and(|p| p.results[0].status == TargetStatus::Written)
    };
    assert!(pushed.iter().all(written), "{pushed:?}");
    for serial in [2, 3] {
        let of_one: Vec<String> = bench.sent().into_iter().filter(|sent| sent.0 == serial).map(|sent| sent.1).collect();
        assert!(of_one.is_sorted() && of_one.len() == if serial == 3 { 15 } else { 5 }, "{of_one:?}");
    }
    assert_eq!(bench.linearized(), 1, "what waits for one target shares its read");
}

#[tokio::test]
async fn a_batch_keeps_its_order_for_a_connection_however_that_is_named() {
    for is_known in [true, false] {
        let bench = Bench::new();
        let id = bench.client(1, "a", "web");
        let gone = bench.client(2, "a", "web");
        if is_known {
            bench.view.catch_up();
        }
        bench.leaves(gone);
        let targets = [Target::Connection(id), Target::User("a".into()), Target::Connection(gone)];
        let orders = (0..20).map(|n| order(targets[n % 3].clone(), &format!("m-{n:02}"))).collect();
        let pushed = bench.router.push_many(orders).await;
        for (n, pushed) in pushed.into_iter().enumerate() {
            match pushed {
                Ok(pushed) => assert_eq!(statuses(&pushed), [(1, TargetStatus::Written)]),
                Err(refused) => assert_eq!((n % 3, refused), (2, PushRefused::Offline { as_of: 4 })),
            }
        }
        let sent: Vec<String> = bench.sent().into_iter().map(|sent| sent.1).collect();
        assert!(sent.is_sorted() && sent.len() == 14, "{sent:?}");
    }
}

#[tokio::test]
async fn a_gateway_that_refuses_is_unreachable_and_holds_nobody_up() {
    let bench = Bench::new();
    let dead = bench.view.open("dead", Some("127.0.0.1:1"));
    let nowhere = bench.view.open("nowhere", None);
    bench.view.register(dead, 1, "a", "");
    bench.view.register(nowhere, 1, "a", "");
    bench.client(2, "a", "");
    bench.view.catch_up();
    let pushed = bench.router.push(to_user("a", "m")).await.unwrap();
    let mut by_gateway: Vec<_> = pushed.results.iter().map(|r| (r.gateway.to_string(), r.status)).collect();
    by_gateway.sort_by(|a, b| a.0.cmp(&b.0));
    let unreachable = |name: &str| (name.to_owned(), TargetStatus::Unreachable);
    assert_eq!(by_gateway, [unreachable("dead"), ("here".to_owned(), TargetStatus::Written), unreachable("nowhere")]);
    assert_eq!(bench.linearized(), 1, "it may have moved meanwhile");
}

#[tokio::test]
async fn devices_exceptions_and_epochs_choose_among_the_connections() {
    let bench = Bench::new();
    let web = bench.client(1, "a", "web");
    bench.client(2, "a", "ios");
    bench.view.catch_up();
    let devices = |device: &str| Order { devices: vec![device.into()], ..to_user("a", "m") };
    assert_eq!(statuses(&bench.router.push(devices("ios")).await.unwrap()), [(2, TargetStatus::Written)]);
    assert_eq!(bench.router.push(devices("tv")).await, Err(PushRefused::Offline { as_of: 3 }));
    let except = |except: Vec<u64>| {
        let except = except.into_iter().map(|serial| ConnectionId { epoch: bench.here, serial }).collect();
        Order { except, ..to_user("a", "m") }
    };
    assert_eq!(statuses(&bench.router.push(except(vec![2])).await.unwrap()), [(1, TargetStatus::Written)]);
    assert_eq!(statuses(&bench.router.push(except(vec![1, 2])).await.unwrap()), [], "excepted is not offline");
    let if_match = |epoch| Order { if_match: Some(epoch), ..order(Target::Connection(web), "m") };
    assert!(bench.router.push(if_match(bench.here)).await.is_ok());
    assert_eq!(bench.router.push(if_match(77)).await, Err(PushRefused::Fenced { epoch: bench.here }));
}
