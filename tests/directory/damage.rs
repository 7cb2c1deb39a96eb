//! Damaged snapshots are refused, whatever the damage; nothing panics and nothing is allocated on a claim.

use std::io::ErrorKind;

use switchboard::directory::{
    Batch, Command, Directory, Entry, GatewayAddresses, Op, OpenSession, Register, SnapshotError,
};

use super::generate::Generator;
use super::model::Model;

/// A state with everything in it; it fits into one block.
fn snapshot() -> Vec<u8> {
    let (mut generator, mut model, mut directory) = (Generator::new(5), Model::default(), Directory::new());
    let mut bytes = Vec::new();
    for revision in 1..1500 {
        let entry = generator.entry(&model);
        model.apply(revision, &entry);
        directory.apply(revision, &entry);
        let has_all = directory.stats().connections > 5 && directory.ended_sessions().count() > 0;
        if revision > 1000 && has_all {
            break;
        }
    }
    directory.write_to(&mut bytes).unwrap();
    assert!(directory.stats().connections > 5 && directory.ended_sessions().count() > 0);
    bytes
}

fn read(bytes: &[u8]) -> Result<Directory, ErrorKind> {
    let mut rest = bytes;
    Directory::read_from(&mut rest).map_err(|error| error.kind())
}

#[test]
fn one_flipped_bit_anywhere_is_an_error() {
    let bytes = snapshot();
    read(&bytes).unwrap();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(read(&damaged).is_err(), "byte {at} of {}", bytes.len());
    }
}

#[test]
fn a_snapshot_that_ends_early_is_an_error() {
    let bytes = snapshot();
    for length in 0..bytes.len() {
        assert_eq!(read(&bytes[..length]).unwrap_err(), ErrorKind::UnexpectedEof, "{length} of {}", bytes.len());
    }
}

/// The blocks of a state that needs several: each with its length and checksum, and what is before the first.
fn blocks() -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut directory = Directory::new();
    let mut generator = Generator::new(5);
    let ops = (1..=9000).map(|serial| Op::Register(generator.register(serial))).map(with_name_of_its_own).collect();
    let open = Command::OpenSession(OpenSession {
        gateway: "gw-1".into(),
        nonce: "n".into(),
        attempt: 1,
        lease_ms: 3000,
        addresses: GatewayAddresses::default(),
    });
    let batch = Command::Batch(Batch { epoch: 1, seq: Some(1), ops });
    directory.apply(1, &Entry { at_ms: 0, commands: vec![open, batch] });
    let mut bytes = Vec::new();
    directory.write_to(&mut bytes).unwrap();
    let mut rest = bytes.split_off(12);
    let mut blocks = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
        let after = rest.split_off(8 + length);
        blocks.push(rest);
        rest = after;
    }
    (bytes, blocks)
}

fn with_name_of_its_own(op: Op) -> Op {
    let Op::Register(register) = op else { return op };
    Op::Register(Register { user: format!("{} {}", register.user, register.serial).into(), ..register })
}

#[test]
fn a_block_that_is_missing_repeated_or_displaced_is_an_error() {
    let (head, blocks) = blocks();
    assert!(blocks.len() > 3);
    let put_together = |blocks: &[Vec<u8>]| [head.clone(), blocks.concat()].concat();
    let whole = Directory::read_from(&mut put_together(&blocks).as_slice()).unwrap();
    assert!(whole.stats().connections > 5000);
    whole.check_invariants().unwrap();
    for at in 0..blocks.len() {
        let (mut missing, mut repeated, mut displaced) = (blocks.clone(), blocks.clone(), blocks.clone());
        missing.remove(at);
        repeated.insert(at, blocks[at].clone());
        displaced.swap(at, (at + 1) % blocks.len());
        let is_last = at + 1 == blocks.len();
        let missing = read(&put_together(&missing)).unwrap_err();
        assert_eq!(missing, if is_last { ErrorKind::UnexpectedEof } else { ErrorKind::InvalidData }, "block {at}");
        assert_eq!(read(&put_together(&displaced)).unwrap_err(), ErrorKind::InvalidData, "block {at}");
        // What follows the last block is not read at all.
        let repeated = read(&put_together(&repeated)).map(|_| ());
        assert_eq!(repeated, if is_last { Ok(()) } else { Err(ErrorKind::InvalidData) }, "block {at}");
    }
}

#[test]
fn what_follows_a_snapshot_is_left_alone() {
    let mut bytes = snapshot();
    bytes.extend(b"more");
    let mut rest = bytes.as_slice();
    Directory::read_from(&mut rest).unwrap();
    assert_eq!(rest, b"more");
}

#[test]
fn other_formats_are_told_apart() {
    let kind_of = |bytes: &[u8]| {
        let mut rest = bytes;
        let error = Directory::read_from(&mut rest).unwrap_err();
        error.get_ref().and_then(|inner| inner.downcast_ref::<SnapshotError>()).cloned()
    };
    let mut bytes = snapshot();
    bytes[8] = 9;
    assert_eq!(kind_of(&bytes), Some(SnapshotError::UnknownFormat { found: 9 }));
    assert_eq!(kind_of(b"SQLite format 3\0"), Some(SnapshotError::NotASnapshot));
}

#[test]
fn a_claimed_length_allocates_nothing() {
    let mut bytes = snapshot()[..12].to_vec();
    bytes.extend(u32::MAX.to_le_bytes());
    bytes.extend([0; 100]);
    assert_eq!(read(&bytes).unwrap_err(), ErrorKind::UnexpectedEof);
}
