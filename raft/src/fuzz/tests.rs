//! A short run of every target, and the seeds from which it starts.

use std::path::Path;

use super::TARGETS;
use crate::golden::fixture;

#[path = "../../../jepsen/fuzz/tests/smoke.rs"]
mod smoke;

/// The kinds of frames, in the order of `raft_frames`.
const FRAMES: [&str; 12] = [
    "hello-2",
    "greeting-2",
    "append-1",
    "append-answer-1",
    "vote-1",
    "vote-answer-1",
    "read-answer-1",
    "snapshot-head-1",
    "snapshot-answer-1",
    "founding-1",
    "founding-answer-1",
    "join-answer-1",
];

fn golden(name: &str) -> Vec<u8> {
    fixture::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex")))
}

/// A fixture is a row of messages: as one frame, whose first message is read, and from a few later places on.
fn frames() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (kind, name) in (0u8..).zip(FRAMES) {
        let messages = golden(name);
        for from in [0, 1, messages.len() / 3, messages.len() / 2] {
            let frame = &messages[from..];
            let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
            seeds.push([&[kind], &length[..], frame].concat());
        }
    }
    seeds
}

/// The fixture of records begins with the owner; what is a record of its own gets a kind and a length.
fn records() -> Vec<Vec<u8>> {
    let parts = golden("log-records-1");
    let (owner, rest) = parts.split_at(16);
    let (vote, entries) = rest.split_at(17);
    let record = |kind: u8, body: &[u8]| [&[kind, u8::try_from(body.len().min(255)).unwrap()], body].concat();
    let id = &entries[..24];
    let blank = &entries[..33];
    let normal = &entries[33..33 + 33 + "what is replicated".len()];
    let checkpoint = [&[1, 1][..], vote, &[1], id, &[1], id, &[0, 1], owner].concat();
    let log = [
        record(5, &checkpoint),
        record(0, vote),
        record(1, blank),
        record(1, normal),
        record(2, id),
        record(3, &[&[1], id].concat()),
        record(3, &[0]),
        record(4, id),
    ];
    let mut seeds = vec![parts.clone(), [&[1], log.concat().as_slice()].concat()];
    seeds.extend(log.iter().map(|record| [&[1], record.as_slice()].concat()));
    seeds
}

/// Bytes that a structure is drawn from, so that it has this and that in it.
fn drawn(rows: usize) -> Vec<Vec<u8>> {
    (0..rows).map(|row| (0..96 + 32 * row).map(|n| ((n * n + 7 * n * row + row) % 251) as u8).collect()).collect()
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "raft_frames" => frames(),
        "log_records" => records(),
        "log_recovery" | "log_files" => drawn(8),
        "snapshot_files" => [vec![golden("snapshot-2"), golden("snapshot-3")], drawn(6)].concat(),
        "member_files" => {
            let identity = golden("identity-2");
            let slot = crate::log::fuzz::slot(3, 4711);
            vec![golden("identity-1"), identity[..identity.len() - 4].to_vec(), identity, slot]
        }
        other => panic!("{other} has no seeds"),
    }
}

#[test]
fn no_target_fails_near_its_seeds() {
    smoke::run(&TARGETS, seeds);
}
