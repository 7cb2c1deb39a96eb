//! Entries of the log, as a node reads and applies them.

use super::replicated::{decode_entry, decode_reply, encode_entry};
use crate::directory::Directory;

/// An entry that can be read is written as bytes that are read as the same, and whatever it says leaves a state in order.
pub(crate) fn entries(data: &[u8], mut directory: Directory) {
    let Ok(entry) = decode_entry(data) else { return };
    assert_eq!(decode_entry(&encode_entry(&entry)).as_ref(), Ok(&entry), "an entry reads back as itself");
    let applied = directory.apply(directory.revision() + 1, &entry);
    assert_eq!(directory.check_invariants(), Ok(()), "after {entry:?}");
    let reply = postcard::to_allocvec(&applied.outcomes).expect("outcomes have a binary form");
    assert_eq!(decode_reply(&reply), applied.outcomes, "a reply reads back as itself");
}
