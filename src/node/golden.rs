//! Every form that nodes and gateways write to the log, to snapshots or to each other, compared with fixtures.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::replicated::{decode_entry, encode_entry};
use crate::directory::{
    Applied, Ban, Batch, BatchDone, BatchRefused, Command, Connection, ConnectionId, Directory, Disconnect, Entry,
    Event, GatewayAddresses, Handover, Op, OpOutcome, OpRefused, OpenSession, Owner, Per, Policy, Reason, Register,
    Release, Session, Whom,
};
use crate::wire::http;
use crate::wire::peer::{
    Ack, Answer, ChangeRefusal, ChangeRefused, ClusterMark, Deliver, Delivered, Delivery, Failure, FoundUser,
    FoundUsers, GatewayAnswer, GatewayAsk, GatewayRequest, GatewayResponse, GroupChange, Hello, HelloAnswer, Member,
    Message, Payload, Pick, Purpose, Reached, Request, RequestBody, Response, Stamp, Subscribed, TargetStatus, Targets,
    WatchFrame, WatchFrom, Who,
};

#[path = "../../tests/golden/fixture.rs"]
pub(crate) mod fixture;

fn at(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn check<T: Serialize + DeserializeOwned>(name: &str, messages: &[T]) {
    fixture::check_messages(&at(name), messages);
}

const EPOCH: u64 = 5;

fn addresses() -> GatewayAddresses {
    GatewayAddresses {
        url: Some("ws://gw-1/ws".into()),
        api: Some("gw-1:8100".into()),
        peer: Some("gw-1:8200".into()),
        deliver_url: Some("http://gw-1/deliver".into()),
    }
}

fn open(gateway: &str) -> OpenSession {
    OpenSession { gateway: gateway.into(), nonce: "n1".into(), attempt: 1, lease_ms: 3000, addresses: addresses() }
}

fn register(serial: u64, user: &str) -> Register {
    Register {
        serial,
        user: user.into(),
        device: "web".into(),
        policy: Policy::multi(16),
        since: None,
        connected_at_ms: 1_700_000_000_123,
        remote: Some("203.0.113.7:4711".into()),
        meta: Some("{\"a\":1}".into()),
    }
}

fn ban() -> Ban {
    Ban { until_ms: Some(1_700_000_000_789), reason: Some("spam".into()) }
}

fn disconnect() -> Disconnect {
    let except = vec![ConnectionId { epoch: 4, serial: 3 }];
    Disconnect {
        whom: Whom::User { user: "alice".into(), devices: vec!["ios".into()], except },
        release: Release { code: 4003, reason: Some("moved".into()) },
    }
}

/// A registration of which others depend.
fn exclusive(serial: u64, policy: Policy, since: Option<u64>) -> Op {
    Op::Register(Register { policy, since, ..register(serial, "dora") })
}

/// Entries with every command and operation, in an order in which all of them do something.
fn entries() -> Vec<Entry> {
    let ops = vec![
        Op::Register(register(1, "alice")),
        Op::Register(register(2, "bob")),
        Op::Meta { serial: 1, meta: "{\"b\":2}".into(), if_version: Some(1) },
        Op::Unregister { serial: 2, reason: Reason::Closed },
    ];
    const NEWEST: Policy = Policy::NewestWins { per: Per::Device, handover: Handover::Wait };
    let exclusives = vec![
        exclusive(1, Policy::OldestWins { per: Per::User }, None),
        exclusive(2, Policy::NewestWins { per: Per::User, handover: Handover::Immediate }, None),
        exclusive(3, NEWEST, None),
        Op::Join { topics: vec!["room:7".into(), "room:8".into()] },
        Op::Leave { topics: vec!["room:8".into()] },
    ];
    let commands = [
        vec![Command::OpenSession(open("gw-1"))],
        vec![Command::Batch(Batch { epoch: EPOCH, seq: Some(1), ops })],
        vec![Command::OpenSession(open("gw-2"))],
        vec![Command::Batch(Batch { epoch: 7, seq: None, ops: vec![Op::Register(register(9, "carol"))] })],
        vec![Command::EndSession { epoch: 7, reason: Reason::Expired, fenced: true }],
        vec![Command::Reclaim { epoch: 7, limit: 0 }],
        vec![Command::OpenSession(open("gw-3"))],
        vec![Command::Batch(Batch { epoch: 11, seq: Some(1), ops: exclusives })],
        vec![Command::Disconnect(disconnect())],
        vec![Command::Disconnect(Disconnect {
            whom: Whom::Connection(ConnectionId { epoch: EPOCH, serial: 1 }),
            release: Release { code: 4500, reason: None },
        })],
        vec![Command::Ban { user: "bob".into(), ban: ban() }, Command::Ban { user: "eve".into(), ban: ban() }],
        vec![Command::Unban { user: "eve".into(), made: Some(15) }],
        vec![Command::OpenSession(open("gw-4"))],
        vec![Command::Batch(Batch { epoch: 17, seq: None, ops: vec![exclusive(1, NEWEST, Some(3))] })],
        vec![Command::EndSession { epoch: 17, reason: Reason::Died, fenced: false }],
        vec![Command::ReleaseClaims { epoch: 17 }],
    ];
    commands.into_iter().map(|commands| Entry { at_ms: 1_700_000_000_456, commands }).collect()
}

/// The state after them, and what each gave.
fn applied() -> (Directory, Vec<Applied>) {
    let mut directory = Directory::default();
    let applied = (EPOCH..).zip(entries()).map(|(index, entry)| directory.apply(index, &entry)).collect();
    (directory, applied)
}

#[test]
fn log_entries_keep_their_form() {
    let mut all = Vec::new();
    for entry in entries() {
        let bytes = encode_entry(&entry);
        assert_eq!(decode_entry(&bytes).unwrap(), entry);
        all.extend(bytes);
    }
    fixture::check(&at("entry-2.hex"), &all);
}

#[test]
fn a_state_keeps_its_form() {
    let (directory, _) = applied();
    let mut bytes = Vec::new();
    directory.write_to(&mut bytes).unwrap();
    let read = Directory::read_from(&mut bytes.as_slice()).unwrap();
    assert_eq!(read.digest(), directory.digest());
    fixture::check(&at("state-2.hex"), &bytes);
}

#[test]
fn greetings_keep_their_form() {
    let purposes = [
        Purpose::Control,
        Purpose::Watch(WatchFrom::Snapshot),
        Purpose::Watch(WatchFrom::After(900)),
        Purpose::Watch(WatchFrom::Sessions),
        Purpose::Link,
        Purpose::Identify,
        Purpose::Ask,
    ];
    check("hello-3.hex", &purposes.map(|purpose| Hello::new("prod", "gateway gw-1", purpose)));
    let answers = [
        HelloAnswer::Accepted {
            name: "node 1".to_owned(),
            nonce: "n1".into(),
            version: 2,
            cluster: Some(ClusterMark { id: 1001, revision: 300 }),
        },
        HelloAnswer::Refused { why: "another cluster".to_owned() },
    ];
    check("hello-answer-3.hex", &answers);
}

#[test]
fn requests_of_version_3_keep_their_form() {
    let Some(Command::Batch(batch)) = entries()[1].commands.first().cloned() else { unreachable!("it is a batch") };
    let bodies = [
        RequestBody::OpenSession(open("gw-1")),
        RequestBody::EndSession { epoch: EPOCH, reason: Reason::Drained, fenced: true },
        RequestBody::Batch(batch),
        RequestBody::Renew { epoch: EPOCH, handled: 900 },
        RequestBody::Disconnect(disconnect()),
        RequestBody::Ban { user: "bob".into(), ban: ban() },
        RequestBody::Unban { user: "bob".into() },
        RequestBody::Leases,
        RequestBody::Cluster,
        RequestBody::Members,
        RequestBody::Change(GroupChange::Add { id: 4, peer: "node-4:7200".to_owned() }),
        RequestBody::Change(GroupChange::Promote { id: 4 }),
        RequestBody::Change(GroupChange::Remove { id: 4 }),
        RequestBody::Change(GroupChange::TransferLeader { to: 2 }),
        RequestBody::Find(vec![Who::User("alice".into()), Who::Holder(ConnectionId { epoch: EPOCH, serial: 1 })]),
        RequestBody::LastSeen { users: vec!["alice".into()], revision: 900 },
    ];
    check("request-3.hex", &(1..).zip(bodies).map(|(id, body)| Request { id, body }).collect::<Vec<_>>());
    let ops = [
        OpOutcome::Registered { granted: 6, superseded: Box::new([ConnectionId { epoch: 4, serial: 3 }]) },
        OpOutcome::Pending,
        OpOutcome::Topics { changed: 1 },
        OpOutcome::Unregistered { existed: true },
        OpOutcome::MetaSet { version: 2 },
        OpOutcome::Refused(OpRefused::ConnectionLimit { max: 16 }),
        OpOutcome::Refused(OpRefused::Conflict {
            owner: Box::new(Owner {
                id: ConnectionId { epoch: 4, serial: 3 },
                gateway: "gw-1".into(),
                device: "web".into(),
                granted: 5,
                live: true,
            }),
        }),
        OpOutcome::Refused(OpRefused::Superseded { by: ConnectionId { epoch: 4, serial: 3 } }),
        OpOutcome::Refused(OpRefused::Banned(Box::new(ban()))),
    ];
    let done = BatchDone { revision: 6, ops: Arc::from(ops) };
    let refused = |kind| ChangeRefused { kind, why: "no such node".to_owned() };
    let answers = [
        Answer::Opened { epoch: EPOCH, lease_ms: 3000 },
        Answer::Taken { epoch: EPOCH },
        Answer::NotOpened { why: "the lease is too short".to_owned() },
        Answer::Ended { existed: true },
        Answer::Batch(Ok(done)),
        Answer::Batch(Err(BatchRefused::Gap { expected: 3 })),
        Answer::Renewed {
            lease_ms: 3000,
            release: vec![(ConnectionId { epoch: EPOCH, serial: 1 }, Release::superseded())],
            revision: 9,
        },
        Answer::Gone,
        Answer::Asked { connections: vec![ConnectionId { epoch: EPOCH, serial: 1 }], revision: 9 },
        Answer::Unbanned { existed: true, revision: 9 },
        Answer::Leases(vec![(EPOCH, 2411)]),
        Answer::Cluster(http::Cluster { members: vec![http::Member::default()], ..http::Cluster::default() }),
        Answer::Changed(Ok(7)),
        Answer::Changed(Err(refused(ChangeRefusal::NoMember))),
        Answer::Changed(Err(refused(ChangeRefusal::Conflict))),
        Answer::Found(found()),
        Answer::LastSeen(vec![Some(1_700_000_000_123), None]),
    ];
    let results = answers.into_iter().map(Ok).chain(failures().into_iter().map(Err));
    check("response-3.hex", &(1..).zip(results).map(|(id, result)| Response { id, result }).collect::<Vec<_>>());
}

fn failures() -> [Failure; 8] {
    [
        Failure::NotLeader { leader: Some((2, "node-2:7200".to_owned())) },
        Failure::NoQuorum,
        Failure::Overloaded,
        Failure::NoSpace { node: 1, dir: "/data".to_owned(), free_bytes: 1 << 20, reserve_bytes: 1 << 26 },
        Failure::Refused { why: "a batch has at most 4,096 operations".to_owned() },
        Failure::Ignored { since: 9 },
        Failure::Unknown,
        Failure::ShutOut { why: "this node was removed".to_owned() },
    ]
}

fn session() -> Session {
    let OpenSession { gateway, nonce, attempt, lease_ms, addresses } = open("gw-1");
    Session { gateway, nonce, attempt, lease_ms, addresses }
}

fn connection() -> Connection {
    Connection {
        user: "alice".into(),
        device: "web".into(),
        granted: 6,
        connected_at_ms: 1_700_000_000_123,
        remote: None,
        meta: None,
        meta_version: 2,
        claim: Some(Per::Device),
    }
}

fn found() -> FoundUsers {
    let connections = vec![(ConnectionId { epoch: EPOCH, serial: 1 }, Arc::new(connection()))];
    let users =
        vec![FoundUser { user: Some("alice".into()), connections }, FoundUser { user: None, connections: Vec::new() }];
    FoundUsers { revision: 900, sessions: vec![(EPOCH, Arc::new(session()))], users }
}

#[test]
fn the_watch_of_version_3_keeps_its_form() {
    let (_, applied) = applied();
    let events: Vec<Event> = applied.into_iter().flat_map(|applied| applied.events).collect();
    let id = ConnectionId { epoch: EPOCH, serial: 1 };
    let frames = [
        WatchFrame::SnapshotChunk {
            sessions: vec![(EPOCH, Arc::new(session()))],
            connections: vec![(id, Arc::new(connection()))],
        },
        WatchFrame::SnapshotEnd { revision: 900 },
        WatchFrame::Events { revision: 901, at_ms: 1_700_000_000_456, events },
        WatchFrame::Progress { revision: 902, stamp: Some(7) },
        WatchFrame::Compacted { oldest: 800 },
        WatchFrame::Ended { why: "this node stops".to_owned() },
        WatchFrame::SnapshotTopics(vec![("room:7".into(), vec![4, EPOCH])]),
    ];
    check("watch-3.hex", &frames);
    check("stamp-3.hex", &[Stamp(7)]);
}

#[test]
fn deliveries_of_version_3_keep_their_form() {
    let message = |data, ack| Message {
        id: "m-1".into(),
        topic: Some("room:7".into()),
        event: Some("chat.message".into()),
        data,
        ack,
        timeout_ms: 2000,
    };
    let target = ConnectionId { epoch: EPOCH, serial: 1 };
    let to = |message, targets| Deliver { id: 1, message: Arc::new(message), targets, resolved: 900 };
    let deliver = |message| to(message, Targets::Each(vec![target]));
    let pick = Pick { devices: vec!["web".into()], except: vec![target], rate_per_s: 500 };
    let messages = [
        deliver(message(Payload::Json(Bytes::from_static(b"{}")), Ack::Written)),
        deliver(message(Payload::Base64(Bytes::from_static(b"AAEC")), Ack::Client)),
        deliver(message(Payload::Json(Bytes::from_static(b"1")), Ack::None)),
        to(message(Payload::Json(Bytes::from_static(b"1")), Ack::None), Targets::Many(pick)),
    ];
    check("deliver-3.hex", &messages);
    use TargetStatus::{Acked, Fenced, Gone, Slow, Timeout, Unreachable, Written};
    let statuses = vec![Acked, Written, Gone, Fenced, Slow, Unreachable, Timeout];
    let reached = Reached { delivered: 1000, failed: 1, excepted: 2, results: vec![(target, Slow)] };
    let deliveries = [Delivery::Each(statuses), Delivery::Many(reached), Delivery::Busy];
    check("delivered-3.hex", &deliveries.map(|delivery| Delivered { id: 1, delivery }));
}

#[test]
fn questions_to_gateways_of_version_3_keep_their_form() {
    let (topic, id): (Arc<str>, _) = ("room:7".into(), ConnectionId { epoch: EPOCH, serial: 1 });
    let asks = [
        GatewayAsk::Most { prefix: "room:".to_owned(), limit: 100 },
        GatewayAsk::Counts(vec![Arc::clone(&topic)]),
        GatewayAsk::Members { topic: Arc::clone(&topic), after: Some(7), limit: 100 },
        GatewayAsk::Subscribe {
            connections: vec![id],
            topics: vec![Arc::clone(&topic)],
            begins: true,
            timeout_ms: 2000,
        },
        GatewayAsk::Presence { topic: Arc::clone(&topic), known: Some(7), timeout_ms: 10_000 },
    ];
    check("gateway-request-3.hex", &asks.map(|ask| GatewayRequest { id: 1, ask }));
    let refused = Subscribed::Refused { code: "limit".to_owned(), why: "too many".to_owned(), temporary: false };
    let member = Member { id, user: "alice".into(), device: "web".into() };
    let answers = [
        GatewayAnswer::Most(vec![(topic, 3)]),
        GatewayAnswer::Counts(vec![3]),
        GatewayAnswer::Members { members: vec![member.clone()], more: true },
        GatewayAnswer::Subscribed(vec![Subscribed::At(900), Subscribed::Gone, refused]),
        GatewayAnswer::Presence { version: 8, count: 1, members: Some(vec![member]) },
    ];
    check("gateway-response-3.hex", &answers.map(|answer| GatewayResponse { id: 1, answer }));
}
