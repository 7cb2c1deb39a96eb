//! Snapshot files, whatever happened to them.

use std::io::{Read, Write};

use arbitrary::{Arbitrary, Unstructured};

use super::{BlockReader, BlockWriter, Head};
use crate::entry::{SnapshotMeta, StoredMembership};
use crate::fuzz::{Damage, log_id};
use crate::roster::Roster;

#[derive(Debug, Arbitrary)]
struct Written {
    cluster: String,
    blocks: Vec<Vec<u8>>,
    change: Change,
    damage: Damage,
}

/// What is done to whole blocks.
#[derive(Debug, Arbitrary)]
enum Change {
    Nothing,
    /// A block is missing.
    Drop(u8),
    /// A block is there twice.
    Repeat(u8),
    /// A block and the next have changed places.
    Swap(u8),
}

/// A file that was written is read as it was; whatever else is there is refused, or the state is the same all the same.
pub(crate) fn files(data: &[u8]) {
    // Never a panic, and never more memory than there are bytes.
    drop(read(data));
    let Ok(Written { cluster, blocks, change, damage }) = Written::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let head = head(cluster);
    let Ok(mut writer) = BlockWriter::new(Vec::new(), &head) else { return };
    let mut pieces = Vec::new();
    for block in blocks.iter().filter(|block| !block.is_empty()) {
        writer.write_all(block).expect("memory takes all bytes");
        let from = writer.to.len();
        writer.write_block().expect("memory takes all bytes");
        pieces.push(from..writer.to.len());
    }
    let written = writer.finish().expect("memory takes all bytes");
    let state = blocks.concat();
    assert_eq!(read(&written).expect("what was written is read"), (head.clone(), state.clone()));

    let mut damaged = changed(&written, &pieces, &change);
    damage.apply(&mut damaged);
    if let Ok(found) = read(&damaged) {
        assert_eq!(found, (head, state), "damage was passed over: {change:?}, {damage:?}");
    }
}

fn changed(written: &[u8], pieces: &[std::ops::Range<usize>], change: &Change) -> Vec<u8> {
    let mut order: Vec<_> = (0..pieces.len()).collect();
    let place = |nth: u8| usize::from(nth) % pieces.len().max(1);
    match *change {
        _ if pieces.is_empty() => {}
        Change::Nothing => {}
        Change::Drop(nth) => drop(order.remove(place(nth))),
        Change::Repeat(nth) => order.insert(place(nth), place(nth)),
        Change::Swap(nth) => order.swap(place(nth), (place(nth) + 1) % pieces.len()),
    }
    let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return written.to_vec() };
    let mut bytes = written[..first.start].to_vec();
    order.iter().for_each(|nth| bytes.extend_from_slice(&written[pieces[*nth].clone()]));
    bytes.extend_from_slice(&written[last.end..]);
    bytes
}

fn head(cluster: String) -> Head {
    let meta = SnapshotMeta { last_log_id: Some(log_id(3, 400)), last_membership: StoredMembership::default() };
    Head { cluster, meta, roster: Roster::default() }
}

/// Reads a file to its end, as an installation does.
fn read(bytes: &[u8]) -> std::io::Result<(Head, Vec<u8>)> {
    let (mut reader, head) = BlockReader::new(bytes)?;
    let mut state = Vec::new();
    reader.read_to_end(&mut state)?;
    reader.finish()?;
    Ok((head, state))
}
