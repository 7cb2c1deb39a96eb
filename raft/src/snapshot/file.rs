//! The form of a snapshot file.
//!
//! ```text
//! "SWBSNAP" format(3)                               8 bytes
//! length(u32 LE)  crc32(u32 LE)  head (postcard)    whose state it is, and what it covers: last entry, membership, roster
//! length(u32 LE)  crc32(u32 LE)  bytes              blocks of 1 MiB, the last one shorter
//! 0(u32 LE)       crc32(u32 LE)  total(u64 LE) sha  the end: bytes in all blocks and their SHA-256; the crc covers both
//! ```
//! The same bytes lie on disk, travel to other members, and are a backup. A block can't be exchanged for another one: its
//! checksum also covers its position. The SHA-256 is that of the state: members with equal states have equal ones.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::entry::SnapshotMeta;
use crate::roster::Roster;

const MAGIC: &[u8; 7] = b"SWBSNAP";
/// The form that is written. The one before is read, too; it had neither the cluster's name nor the SHA-256.
pub(crate) const FORMAT: u8 = 3;
const FORMER: u8 = 2;
/// Bytes of one block. Its checksum is the finest grain at which damage is told.
const BLOCK_BYTES: usize = 1024 * 1024;
/// A membership of a thousand members is far below.
const HEAD_BYTES_MAX: usize = 1024 * 1024;

/// What a snapshot says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// The cluster's name, as people chose it.
    pub(crate) cluster: String,
    pub(crate) meta: SnapshotMeta,
    pub(crate) roster: Roster,
}

/// The head of the former form.
#[derive(Deserialize)]
struct FormerHead {
    meta: SnapshotMeta,
    roster: Roster,
}

impl Head {
    fn decode(format: u8, bytes: &[u8]) -> postcard::Result<Head> {
        if format == FORMAT {
            return postcard::from_bytes(bytes);
        }
        let FormerHead { meta, roster } = postcard::from_bytes(bytes)?;
        Ok(Head { cluster: String::new(), meta, roster })
    }
}

fn damaged(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn checksum(position: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&position.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// Writes the body of a snapshot in blocks.
pub(crate) struct BlockWriter<W> {
    to: W,
    block: Vec<u8>,
    position: u64,
    sha: Sha256,
}

impl<W: Write> BlockWriter<W> {
    /// Writes the head.
    pub(crate) fn new(mut to: W, head: &Head) -> io::Result<BlockWriter<W>> {
        let head = postcard::to_allocvec(head).map_err(io::Error::other)?;
        let length = u32::try_from(head.len()).ok().filter(|length| *length as usize <= HEAD_BYTES_MAX);
        let length =
            length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the membership is too large"))?;
        to.write_all(MAGIC)?;
        to.write_all(&[FORMAT])?;
        to.write_all(&length.to_le_bytes())?;
        to.write_all(&checksum(0, &head).to_le_bytes())?;
        to.write_all(&head)?;
        Ok(BlockWriter { to, block: Vec::with_capacity(BLOCK_BYTES), position: 0, sha: Sha256::new() })
    }

    fn write_block(&mut self) -> io::Result<()> {
        let length = u32::try_from(self.block.len()).expect("a block has at most a mebibyte");
        self.to.write_all(&length.to_le_bytes())?;
        self.to.write_all(&checksum(self.position, &self.block).to_le_bytes())?;
        self.to.write_all(&self.block)?;
        self.sha.update(&self.block);
        self.position += u64::from(length);
        self.block.clear();
        Ok(())
    }

    /// Writes what is left and the end, and gives back what was written to.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        if !self.block.is_empty() {
            self.write_block()?;
        }
        let mut end = self.position.to_le_bytes().to_vec();
        end.extend_from_slice(&self.sha.finalize());
        self.to.write_all(&0u32.to_le_bytes())?;
        self.to.write_all(&checksum(u64::MAX, &end).to_le_bytes())?;
        self.to.write_all(&end)?;
        self.to.flush()?;
        Ok(self.to)
    }
}

impl<W: Write> Write for BlockWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK_BYTES - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == BLOCK_BYTES {
            self.write_block()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the body of a snapshot and checks every block before it passes anything on.
pub(crate) struct BlockReader<R> {
    from: R,
    format: u8,
    block: Vec<u8>,
    read: usize,
    position: u64,
    sha: Sha256,
    /// The SHA-256 of all blocks, once the end was read.
    ended: Option<[u8; 32]>,
}

impl<R: Read> BlockReader<R> {
    /// Reads the head.
    pub(crate) fn new(mut from: R) -> io::Result<(BlockReader<R>, Head)> {
        let mut magic = [0; 8];
        from.read_exact(&mut magic).map_err(|e| ends_early(&e, "its first bytes"))?;
        let format = match magic.strip_prefix(MAGIC) {
            Some([format @ (FORMER | FORMAT)]) => *format,
            Some([format]) => {
                let why = format!("it is a snapshot of format {format}; this version reads {FORMER} and {FORMAT}");
                return Err(damaged(why));
            }
            _ => return Err(damaged("it is no snapshot")),
        };
        let (length, sum) = read_head(&mut from).map_err(|e| ends_early(&e, "its head"))?;
        if length > HEAD_BYTES_MAX {
            return Err(damaged("the head is damaged"));
        }
        let mut head = vec![0; length];
        from.read_exact(&mut head).map_err(|e| ends_early(&e, "its head"))?;
        if checksum(0, &head) != sum {
            return Err(damaged("the head is damaged"));
        }
        let head = Head::decode(format, &head).map_err(|e| damaged(format!("the head can't be read: {e}")))?;
        let (block, sha) = (Vec::new(), Sha256::new());
        Ok((BlockReader { from, format, block, read: 0, position: 0, sha, ended: None }, head))
    }

    /// Reads on to the end, which also checks that nothing was left over by the reader and nothing is missing. Returns the
    /// SHA-256 of the state.
    pub(crate) fn finish(mut self) -> io::Result<[u8; 32]> {
        let unread = || damaged("the application left a part of it unread");
        if self.read < self.block.len() {
            return Err(unread());
        }
        loop {
            match self.ended {
                Some(sha) => return Ok(sha),
                None => self.next_block()?,
            }
            if !self.block.is_empty() {
                return Err(unread());
            }
        }
    }

    /// Checks every block without using it.
    pub(crate) fn verify(mut self) -> io::Result<()> {
        while self.ended.is_none() {
            self.next_block()?;
        }
        Ok(())
    }

    fn next_block(&mut self) -> io::Result<()> {
        let position = self.position;
        let cut = |e: io::Error| ends_early(&e, &format!("the block at {position}"));
        let (length, sum) = read_head(&mut self.from).map_err(cut)?;
        self.read = 0;
        if length == 0 {
            let mut end = vec![0; if self.format == FORMAT { 8 + 32 } else { 8 }];
            self.from.read_exact(&mut end).map_err(cut)?;
            let sha = self.sha.finalize_reset();
            let (total, stored) = end.split_at(8);
            let same = stored.is_empty() || stored == &sha[..];
            if checksum(u64::MAX, &end) != sum || total != self.position.to_le_bytes() || !same {
                return Err(damaged(format!("the end, after {position} bytes of state, does not fit the blocks")));
            }
            self.block.clear();
            self.ended = Some(sha.into());
            return Ok(());
        }
        if length > BLOCK_BYTES {
            return Err(damaged(format!("the block at {} is damaged", self.position)));
        }
        self.block.resize(length, 0);
        self.from.read_exact(&mut self.block).map_err(cut)?;
        if checksum(self.position, &self.block) != sum {
            return Err(damaged(format!("the block at {} is damaged", self.position)));
        }
        self.sha.update(&self.block);
        self.position += length as u64;
        Ok(())
    }
}

/// Names the place where bytes are missing.
fn ends_early(e: &io::Error, at: &str) -> io::Error {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(e.kind(), format!("it ends early, in {at}")),
        kind => io::Error::new(kind, format!("reading {at}: {e}")),
    }
}

fn read_head(from: &mut impl Read) -> io::Result<(usize, u32)> {
    let mut head = [0; 8];
    from.read_exact(&mut head)?;
    let (length, sum) = head.split_at(4);
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("a head is two words"));
    Ok((word(length) as usize, word(sum)))
}

impl<R: Read> Read for BlockReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.read == self.block.len() && self.ended.is_none() {
            self.next_block()?;
        }
        let rest = &self.block[self.read..];
        let taken = rest.len().min(into.len());
        into[..taken].copy_from_slice(&rest[..taken]);
        self.read += taken;
        Ok(taken)
    }
}
