//! The form of a snapshot file.
//!
//! ```text
//! "SWBSNAP" format(2)                               8 bytes
//! length(u32 LE)  crc32(u32 LE)  head (postcard)    what the state covers: last entry, membership, roster
//! length(u32 LE)  crc32(u32 LE)  bytes              blocks of 1 MiB, the last one shorter
//! 0(u32 LE)       crc32(u32 LE)  total(u64 LE)      the end: bytes in all blocks; the crc covers the total
//! ```
//! The same bytes lie on disk and travel to other members. A block can't be exchanged for another one: its checksum also
//! covers its position.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::entry::SnapshotMeta;
use crate::roster::Roster;

const MAGIC: &[u8; 8] = b"SWBSNAP\x02";
/// Bytes of one block. Its checksum is the finest grain at which damage is told.
const BLOCK_BYTES: usize = 1024 * 1024;
/// A membership of a thousand members is far below.
const HEAD_BYTES_MAX: usize = 1024 * 1024;

/// What a snapshot says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) meta: SnapshotMeta,
    pub(crate) roster: Roster,
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
}

impl<W: Write> BlockWriter<W> {
    /// Writes the head.
    pub(crate) fn new(mut to: W, head: &Head) -> io::Result<BlockWriter<W>> {
        let head = postcard::to_allocvec(head).map_err(io::Error::other)?;
        let length = u32::try_from(head.len()).ok().filter(|length| *length as usize <= HEAD_BYTES_MAX);
        let length =
            length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the membership is too large"))?;
        to.write_all(MAGIC)?;
        to.write_all(&length.to_le_bytes())?;
        to.write_all(&checksum(0, &head).to_le_bytes())?;
        to.write_all(&head)?;
        Ok(BlockWriter { to, block: Vec::with_capacity(BLOCK_BYTES), position: 0 })
    }

    fn write_block(&mut self) -> io::Result<()> {
        let length = u32::try_from(self.block.len()).expect("a block has at most a mebibyte");
        self.to.write_all(&length.to_le_bytes())?;
        self.to.write_all(&checksum(self.position, &self.block).to_le_bytes())?;
        self.to.write_all(&self.block)?;
        self.position += u64::from(length);
        self.block.clear();
        Ok(())
    }

    /// Writes what is left and the end, and gives back what was written to.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        if !self.block.is_empty() {
            self.write_block()?;
        }
        let total = self.position.to_le_bytes();
        self.to.write_all(&0u32.to_le_bytes())?;
        self.to.write_all(&checksum(u64::MAX, &total).to_le_bytes())?;
        self.to.write_all(&total)?;
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
    block: Vec<u8>,
    read: usize,
    position: u64,
    ended: bool,
}

impl<R: Read> BlockReader<R> {
    /// Reads the head.
    pub(crate) fn new(mut from: R) -> io::Result<(BlockReader<R>, Head)> {
        let mut magic = [0; 8];
        from.read_exact(&mut magic)?;
        if &magic != MAGIC {
            return Err(damaged("it is no snapshot of a format that this version reads"));
        }
        let (length, sum) = read_head(&mut from)?;
        if length > HEAD_BYTES_MAX {
            return Err(damaged("the head is damaged"));
        }
        let mut head = vec![0; length];
        from.read_exact(&mut head)?;
        if checksum(0, &head) != sum {
            return Err(damaged("the head is damaged"));
        }
        let head = postcard::from_bytes(&head).map_err(|e| damaged(format!("the head can't be read: {e}")))?;
        Ok((BlockReader { from, block: Vec::new(), read: 0, position: 0, ended: false }, head))
    }

    /// Reads on to the end, which also checks that nothing was left over by the reader and nothing is missing.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        if self.read < self.block.len() {
            return Err(damaged("the application left a part of it unread"));
        }
        while !self.ended {
            self.next_block()?;
            if !self.block.is_empty() {
                return Err(damaged("the application left a part of it unread"));
            }
        }
        Ok(())
    }

    /// Checks every block without using it.
    pub(crate) fn verify(mut self) -> io::Result<()> {
        while !self.ended {
            self.next_block()?;
        }
        Ok(())
    }

    fn next_block(&mut self) -> io::Result<()> {
        let (length, sum) = read_head(&mut self.from)?;
        self.read = 0;
        if length == 0 {
            let mut total = [0; 8];
            self.from.read_exact(&mut total)?;
            if checksum(u64::MAX, &total) != sum || u64::from_le_bytes(total) != self.position {
                return Err(damaged("the end does not fit the blocks"));
            }
            self.block.clear();
            self.ended = true;
            return Ok(());
        }
        if length > BLOCK_BYTES {
            return Err(damaged(format!("the block at {} is damaged", self.position)));
        }
        self.block.resize(length, 0);
        self.from.read_exact(&mut self.block)?;
        if checksum(self.position, &self.block) != sum {
            return Err(damaged(format!("the block at {} is damaged", self.position)));
        }
        self.position += length as u64;
        Ok(())
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
        if self.read == self.block.len() && !self.ended {
            self.next_block()?;
        }
        let rest = &self.block[self.read..];
        let taken = rest.len().min(into.len());
        into[..taken].copy_from_slice(&rest[..taken]);
        self.read += taken;
        Ok(taken)
    }
}
