//! Every form that this crate writes to disk or to another member, compared with fixtures.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::{EntryPayload, Membership};
use raft_log::codeq::{Decode, Encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::entry::{Data, Entry, LeaderId, LogId, Seat, SnapshotMeta, StoredMembership, Vote};
use crate::identity::{Identity, IdentityError};
use crate::net::frame::{
    AppendAnswer, AppendAsk, FoundingAnswer, FoundingAsk, Greeting, Hello, JoinAnswer, Purpose, ReadAnswer, Refusal,
    SnapshotAnswer, SnapshotHead, VoteAnswer, VoteAsk,
};
use crate::roster::Roster;
use crate::settings::{Addresses, Formats, LogEngine};
use crate::snapshot::{BlockReader, BlockWriter, Head};
use crate::space::Space;

#[path = "../../tests/golden/fixture.rs"]
pub(crate) mod fixture;

fn at(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn check<T: Serialize + DeserializeOwned>(name: &str, messages: &[T]) {
    fixture::check_messages(&at(name), messages);
}

fn log_id(index: u64) -> LogId {
    LogId { leader_id: LeaderId { term: 7, node_id: 2 }, index }
}

fn space() -> Space {
    Space { dir: "/data".into(), free: 1 << 20, reserve: 1 << 26, short: true }
}

fn seat(id: u64) -> Seat {
    let addresses = Addresses { peer: format!("node-{id}:7200"), api: format!("node-{id}:7100") };
    Seat { addresses, nonce: 1000 + id }
}

/// Two voters that are being replaced by three, and a learner.
fn membership() -> Membership<u64, Seat> {
    let voters = vec![BTreeSet::from([1, 2]), BTreeSet::from([1, 2, 3])];
    Membership::new(voters, (1..=4).map(|id| (id, seat(id))).collect::<BTreeMap<_, _>>()).unwrap()
}

fn entries() -> Vec<Entry> {
    let payloads = [
        EntryPayload::Blank,
        EntryPayload::Normal(Data(Bytes::from_static(b"what is replicated"))),
        EntryPayload::Membership(membership()),
    ];
    payloads.into_iter().zip(300..).map(|(payload, index)| Entry { log_id: log_id(index), payload }).collect()
}

fn head() -> Head {
    let last_membership = StoredMembership::new(Some(log_id(302)), membership());
    let mut roster = Roster::default();
    roster.note([(1, seat(1)), (9, seat(9))].iter().map(|(id, seat)| (id, seat)));
    Head { cluster: "prod".to_owned(), meta: SnapshotMeta { last_log_id: Some(log_id(400)), last_membership }, roster }
}

#[test]
fn greetings_keep_their_form() {
    let purposes = [
        Purpose::Append,
        Purpose::Heartbeat,
        Purpose::Vote,
        Purpose::Read,
        Purpose::Snapshot,
        Purpose::Founding,
        Purpose::Join,
    ];
    let hello = |purpose| Hello {
        cluster: "prod".to_owned(),
        from: 1,
        from_nonce: 1001,
        to: 2,
        to_nonce: 1002,
        purpose,
        speaks: (1, 1),
        formats: Formats { oldest: 1, newest: 2, writes: 1 },
    };
    let hellos: Vec<u8> = purposes.iter().flat_map(|purpose| hello(*purpose).encode()).collect();
    fixture::check(&at("hello-2.hex"), &hellos);
    let refusals = [
        Refusal::Garbage,
        Refusal::HelloForm { theirs: 9, ours: 2 },
        Refusal::Version { theirs: (2, 3), ours: (1, 1) },
        Refusal::Format { writes: 3, oldest: 1, newest: 2 },
        Refusal::Cluster { theirs: "dev".to_owned(), ours: "prod".to_owned() },
        Refusal::WrongNode { wanted: 1, here: 2 },
        Refusal::OtherDirectory(2),
        Refusal::Impostor(3),
        Refusal::Busy,
        Refusal::NoSpace(3),
        Refusal::Removed(4),
    ];
    let greetings = std::iter::once(Greeting::Welcome { version: 1 }).chain(refusals.map(Greeting::Refused));
    check("greeting-2.hex", &greetings.collect::<Vec<_>>());
}

#[test]
fn messages_of_version_1_keep_their_form() {
    let vote = Vote { leader_id: LeaderId { term: 7, node_id: 2 }, committed: true };
    let append = AppendEntriesRequest {
        vote,
        prev_log_id: Some(log_id(299)),
        entries: entries(),
        leader_commit: Some(log_id(298)),
    };
    check("append-1.hex", &[AppendAsk::Ping, AppendAsk::Append(5, append)]);
    let answer = |number, short, result| AppendAnswer { number, short, result };
    let answers = [
        answer(5, None, Ok(Some(log_id(302)))),
        answer(6, Some(space()), Err(StreamAppendError::Conflict(log_id(300)))),
        answer(7, None, Err(StreamAppendError::HigherVote(vote))),
    ];
    check("append-answer-1.hex", &answers);
    let request = VoteRequest { vote, last_log_id: Some(log_id(302)), leadership_transfer: true };
    let transfer = TransferLeaderRequest::new(vote, 3, Some(log_id(302)));
    check("vote-1.hex", &[VoteAsk::Vote(request.clone()), VoteAsk::PreVote(request), VoteAsk::Transfer(transfer)]);
    let granted = VoteResponse { vote, vote_granted: true, last_log_id: Some(log_id(302)) };
    let answers = [VoteAnswer::Vote(granted), VoteAnswer::Transfer(Ok(())), VoteAnswer::Stopped];
    check("vote-answer-1.hex", &answers);
    check("read-answer-1.hex", &[ReadAnswer::Index(300), ReadAnswer::NotLeader, ReadAnswer::NoQuorum]);
    check("snapshot-head-1.hex", &[SnapshotHead { vote, meta: head().meta, bytes: 1 << 20 }]);
    let answers =
        [SnapshotAnswer::Installed(SnapshotResponse { vote }), SnapshotAnswer::Failed("the disk is full".to_owned())];
    check("snapshot-answer-1.hex", &answers);
    check("founding-1.hex", &[FoundingAsk { founders: BTreeSet::from([1, 2, 3]) }]);
    let answers = [
        FoundingAnswer::Empty { nonce: 1001, addresses: seat(1).addresses },
        FoundingAnswer::Founded { seated: true },
        FoundingAnswer::Underway,
        FoundingAnswer::OtherFounders { founders: BTreeSet::from([1, 2]) },
    ];
    check("founding-answer-1.hex", &answers);
    let answers = [
        JoinAnswer::Waiting { nonce: 1004, addresses: seat(4).addresses },
        JoinAnswer::Founder,
        JoinAnswer::Stored { nonce: 1004, process: 77, cluster_id: 1001, addresses: seat(4).addresses },
    ];
    check("join-answer-1.hex", &answers);
}

#[test]
fn log_records_keep_their_form() {
    use crate::log::{DiskLogId, DiskPayload, DiskVote, Owner};
    let mut bytes = Vec::new();
    Owner { id: 1, nonce: 1001 }.encode(&mut bytes).unwrap();
    DiskVote::from(&Vote { leader_id: LeaderId { term: 7, node_id: 2 }, committed: true }).encode(&mut bytes).unwrap();
    for entry in entries() {
        let from = bytes.len();
        DiskLogId::from(&entry.log_id).encode(&mut bytes).unwrap();
        let payload = DiskPayload::of(&entry);
        payload.encode(&mut bytes).unwrap();
        let mut rest = &bytes[from..];
        assert_eq!(DiskLogId::decode(&mut rest).unwrap(), DiskLogId::from(&entry.log_id));
        assert_eq!(DiskPayload::decode(&mut rest).unwrap(), payload);
    }
    fixture::check(&at("log-records-1.hex"), &bytes);
}

#[test]
fn an_identity_keeps_its_form() {
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity { cluster: "prod".to_owned(), id: 1, nonce: 1001, engine: LogEngine::RaftLog };
    identity.store(dir.path()).unwrap();
    assert_eq!(Identity::load(dir.path()).unwrap(), Some(identity));
    let file = dir.path().join("identity");
    fixture::check(&at("identity-2.hex"), &std::fs::read(&file).unwrap());
    // Form 1, which no release wrote, is told apart.
    std::fs::write(&file, fixture::read(&at("identity-1.hex"))).unwrap();
    assert!(matches!(Identity::load(dir.path()), Err(IdentityError::Format { format: 1, .. })));
}

#[test]
fn a_snapshot_file_keeps_its_form() {
    let mut writer = BlockWriter::new(Vec::new(), &head()).unwrap();
    writer.write_all(b"the state of the application").unwrap();
    let bytes = writer.finish().unwrap();
    assert_eq!(read_snapshot(&bytes), head());
    fixture::check(&at("snapshot-3.hex"), &bytes);
    // The former form is read, but no longer written.
    let former = fixture::read(&at("snapshot-2.hex"));
    assert_eq!(read_snapshot(&former), Head { cluster: String::new(), ..head() });
}

fn read_snapshot(bytes: &[u8]) -> Head {
    let (mut reader, head) = BlockReader::new(bytes).unwrap();
    let mut state = String::new();
    reader.read_to_string(&mut state).unwrap();
    assert_eq!(state, "the state of the application");
    reader.finish().unwrap();
    head
}
