//! Damaged snapshots are refused, whatever the damage; nothing panics and nothing is allocated on a claim.

use std::io::ErrorKind;

use switchboard::directory::{Directory, SnapshotError};

use super::generate::Generator;
use super::model::Model;

/// A state with everything in it, in several blocks.
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
    bytes[8] = 2;
    assert_eq!(kind_of(&bytes), Some(SnapshotError::UnknownFormat { found: 2 }));
    assert_eq!(kind_of(b"SQLite format 3\0"), Some(SnapshotError::NotASnapshot));
}

#[test]
fn a_claimed_length_allocates_nothing() {
    let mut bytes = snapshot()[..12].to_vec();
    bytes.extend(u32::MAX.to_le_bytes());
    bytes.extend([0; 100]);
    assert_eq!(read(&bytes).unwrap_err(), ErrorKind::UnexpectedEof);
}
