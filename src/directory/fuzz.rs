//! The form of a state around records that somebody made up.

use super::snapshot::{FORMAT, MAGIC};

/// Bytes of a block here, so that there are several.
const BLOCK_BYTES: usize = 512;

/// Puts records into blocks with checksums that fit.
pub(crate) fn in_blocks(records: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(FORMAT.to_le_bytes());
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&bytes);
    for block in records.chunks(BLOCK_BYTES) {
        let length = u32::try_from(block.len()).expect("a block is short").to_le_bytes();
        checksum.update(&length);
        checksum.update(block);
        bytes.extend(length);
        bytes.extend(checksum.clone().finalize().to_le_bytes());
        bytes.extend_from_slice(block);
    }
    bytes
}
