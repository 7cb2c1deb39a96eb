//! The state as a stream of bytes: equal states give equal bytes, and what was damaged is refused.
//!
//! ```text
//! "SWBDSNAP"  format u32  { length u32  checksum u32  payload }...
//! ```
//! Numbers are little-endian. The payloads, put together, are records in postcard: a head, the gateways by name, the bans by
//! user, the live sessions by epoch, each followed by the outcomes of its latest batches, the ended sessions by epoch, the
//! connections by id, the contests by user, those involved in them by id, the topics, and an end that counts the records. A record is never divided between blocks. The checksum (CRC-32) of a block is of
//! the whole stream up to its end, so a block that is missing, repeated or displaced is noticed like one that is damaged.
//! The index of users and the counts are not written; they follow from the connections.

use std::io::{self, Read, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::bans::Banned;
use super::command::Reason;
use super::contest::{Contest, Involved};
use super::ids::{ConnectionId, Epoch, Revision, Serial};
use super::limits::{NAME_BYTES_MAX, TEXT_BYTES_MAX};
use super::outcome::{BatchDone, Connection, Session};
use super::packed::Packed;
use super::pages::Place;
use super::sessions::{Alive, Ended, Incumbent, Window};
use super::state::Directory;
use super::users::hash_of;

pub(super) const MAGIC: &[u8; 8] = b"SWBDSNAP";

/// Changes whenever a record does.
pub(super) const FORMAT: u32 = 2;

/// A block is closed once it has this many bytes; the last record may exceed it.
const BLOCK_BYTES: usize = 64 * 1024;

/// Why bytes are not a state. Arrives inside an [`io::Error`] of kind `InvalidData`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Something else altogether.
    #[error("this is not a snapshot of a directory")]
    NotASnapshot,
    /// Written by another version.
    #[error("the snapshot has format {found}, this version reads format {FORMAT}")]
    UnknownFormat {
        /// Its format.
        found: u32,
    },
    /// What was written is not what is read.
    #[error("the snapshot is damaged: {0}")]
    Damaged(&'static str),
}

impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// A connection is written from where it lies, and read as a whole.
#[derive(Serialize, Deserialize)]
enum Record<C> {
    Head { revision: Revision },
    Gateway { name: Arc<str>, incumbent: Incumbent },
    Ban { user: Arc<str>, banned: Banned },
    Session { epoch: Epoch, session: Arc<Session>, last_serial: Option<Serial>, last_batch: u64 },
    Batch(BatchDone),
    Ended { epoch: Epoch, session: Arc<Session>, reason: Reason, claims: bool },
    Connection { id: ConnectionId, connection: C },
    Contest { user: Arc<str>, contest: Arc<Contest> },
    Involved { id: ConnectionId, involved: Involved },
    Topic { topic: Arc<str>, epoch: Epoch },
    End { records: u64 },
}

impl Directory {
    /// Writes the state, in blocks. Call it on a clone, off the path of `apply`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut blocks = BlockWriter::begin(out)?;
        blocks.put(&Record::Head { revision: self.revision })?;
        for (name, incumbent) in &self.gateways {
            blocks.put(&Record::Gateway { name: Arc::clone(name), incumbent: incumbent.clone() })?;
        }
        for (user, banned) in self.bans.after(None) {
            blocks.put(&Record::Ban { user: Arc::clone(user), banned: banned.clone() })?;
        }
        for (epoch, alive) in &self.sessions {
            let (session, last_batch) = (Arc::clone(&alive.session), alive.window.last());
            blocks.put(&Record::Session { epoch: *epoch, session, last_serial: alive.last_serial, last_batch })?;
            for done in alive.window.done() {
                blocks.put(&Record::Batch(done.clone()))?;
            }
        }
        for (epoch, ended) in &self.ended {
            let (session, reason, claims) = (Arc::clone(&ended.session), ended.reason, ended.claims);
            blocks.put(&Record::Ended { epoch: *epoch, session, reason, claims })?;
        }
        for (id, connection) in self.pages.iter() {
            blocks.put(&Record::Connection { id, connection })?;
        }
        for (user, contest) in &self.contests {
            blocks.put(&Record::Contest { user: Arc::clone(user), contest: Arc::clone(contest) })?;
        }
        for (id, involved) in &self.involved {
            blocks.put(&Record::Involved { id: *id, involved: involved.clone() })?;
        }
        for (topic, epoch) in self.topics.iter() {
            blocks.put(&Record::Topic { topic: Arc::clone(topic), epoch: *epoch })?;
        }
        blocks.end()
    }

    /// Reads what [`Self::write_to`] wrote, and nothing beyond its end.
    ///
    /// # Errors
    /// Those of `input`, `UnexpectedEof` if it ends early, and [`SnapshotError`].
    pub fn read_from(input: &mut dyn Read) -> io::Result<Self> {
        let mut blocks = BlockReader::begin(input)?;
        let mut loading = Loading::default();
        loop {
            let payload = blocks.next()?;
            let mut rest = payload.as_slice();
            while !rest.is_empty() {
                let (record, after) =
                    postcard::take_from_bytes(rest).map_err(|_| SnapshotError::Damaged("a record can't be read"))?;
                rest = after;
                let at_end = loading.take(record).map_err(SnapshotError::Damaged)?;
                if at_end {
                    let is_last = rest.is_empty();
                    return if is_last { Ok(loading.state) } else { Err(damaged("records follow the end")) };
                }
            }
        }
    }

    /// SHA-256 of the snapshot: equal for equal states, so nodes compare it at equal revisions. Takes as long as
    /// writing one.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        self.write_to(&mut hasher).expect("a hash takes all bytes");
        hasher.finalize().into()
    }
}

fn damaged(what: &'static str) -> io::Error {
    SnapshotError::Damaged(what).into()
}

/// A state while it is read.
#[derive(Default)]
struct Loading {
    state: Directory,
    records: u64,
    stage: u8,
    last_id: Option<ConnectionId>,
    /// Hash of the user and place of every connection. The index is made of them at the end and in order, because to look
    /// for the place of each in turn would be what takes longest.
    index: Vec<(u64, Place)>,
}

impl Loading {
    /// Takes the next record and says whether it was the end. Records come in the order of `Record`, so that a state can be
    /// written in one way only.
    fn take(&mut self, record: Record<Arc<Connection>>) -> Result<bool, &'static str> {
        let stage = match &record {
            Record::Head { .. } => 0,
            Record::Gateway { .. } => 1,
            Record::Ban { .. } => 2,
            Record::Session { .. } | Record::Batch(_) => 3,
            Record::Ended { .. } => 4,
            Record::Connection { .. } => 5,
            Record::Contest { .. } => 6,
            Record::Involved { .. } => 7,
            Record::Topic { .. } => 8,
            Record::End { .. } => 9,
        };
        if stage < self.stage || (stage == 0) != (self.records == 0) {
            return Err("records are out of order");
        }
        self.stage = stage;
        let state = &mut self.state;
        match record {
            Record::Head { revision } => state.revision = revision,
            Record::Gateway { name, incumbent } => {
                ascends(state.gateways.get_max().map(|(last, _)| last), &name)?;
                state.gateways.insert(name, incumbent);
            }
            Record::Session { epoch, session, last_serial, last_batch } => {
                ascends(state.sessions.get_max().map(|(last, _)| last), &epoch)?;
                let alive = Alive { last_serial, window: Window::ending_at(last_batch), ..Alive::new(session) };
                state.sessions.insert(epoch, Arc::new(alive));
            }
            Record::Batch(done) => {
                let epoch = state.sessions.get_max().map(|(epoch, _)| *epoch);
                let alive = epoch.and_then(|epoch| state.sessions.get_mut(&epoch)).ok_or("a batch has no session")?;
                Arc::make_mut(alive).window.restore(done);
            }
            Record::Ban { user, banned } => {
                ascends(state.bans.last(), &user)?;
                state.bans.insert(user, banned);
            }
            Record::Ended { epoch, session, reason, claims } => {
                ascends(state.ended.get_max().map(|(last, _)| last), &epoch)?;
                state.ended.insert(epoch, Ended { session, reason, held: 0, claims });
            }
            Record::Connection { id, connection } => self.take_connection(id, &connection)?,
            Record::Contest { user, contest } => {
                ascends(state.contests.get_max().map(|(last, _)| last), &user)?;
                state.contests.insert(user, contest);
            }
            Record::Involved { id, involved } => {
                ascends(state.involved.get_max().map(|(last, _)| last), &id)?;
                state.involved.insert(id, involved);
            }
            Record::Topic { topic, epoch } => self.take_topic(&topic, epoch)?,
            Record::End { records } => return self.take_end(records).map(|()| true),
        }
        self.records += 1;
        Ok(false)
    }

    fn take_connection(&mut self, id: ConnectionId, connection: &Connection) -> Result<(), &'static str> {
        ascends(self.last_id.as_ref(), &id)?;
        self.last_id = Some(id);
        if !is_within_limits(connection) {
            return Err("a text of a connection exceeds its limit");
        }
        let state = &mut self.state;
        if let Some(alive) = state.sessions.get_mut(&id.epoch) {
            if Some(id.serial) > alive.last_serial {
                return Err("a connection is newer than its session says");
            }
            let alive = Arc::make_mut(alive);
            alive.connections += 1;
            alive.exclusive += u64::from(connection.claim.is_some());
            state.live += 1;
        } else {
            state.ended.get_mut(&id.epoch).ok_or("a connection has no session")?.held += 1;
        }
        self.index.push((hash_of(&connection.user), state.pages.put(id, connection)));
        Ok(())
    }

    fn take_topic(&mut self, topic: &Arc<str>, epoch: Epoch) -> Result<(), &'static str> {
        let state = &mut self.state;
        ascends(state.topics.last(), &(Arc::clone(topic), epoch))?;
        if let Some(alive) = state.sessions.get_mut(&epoch) {
            Arc::make_mut(alive).topics += 1;
        } else if !state.ended.contains_key(&epoch) {
            return Err("a topic has no session");
        }
        state.topics.insert(topic, epoch);
        Ok(())
    }

    /// Makes the index of users.
    fn index(&mut self) {
        self.index.sort_unstable();
        for (hash, place) in &self.index {
            self.state.users.insert(*hash, *place, &self.state.pages);
        }
    }

    fn take_end(&mut self, records: u64) -> Result<(), &'static str> {
        let state = &self.state;
        if records != self.records {
            return Err("records are missing");
        }
        if state.ended.keys().any(|epoch| state.sessions.contains_key(epoch)) {
            return Err("a session is both alive and ended");
        }
        if state.sessions.values().any(|alive| !alive.window.is_plausible()) {
            return Err("batches are missing");
        }
        self.index();
        Ok(())
    }
}

/// Pages rely on it.
fn is_within_limits(connection: &Connection) -> bool {
    let Connection { user, device, remote, meta, .. } = connection;
    user.len().max(device.len()) <= NAME_BYTES_MAX
        && [remote, meta].into_iter().flatten().all(|text| text.len() <= TEXT_BYTES_MAX)
}

fn ascends<T: Ord>(last: Option<&T>, next: &T) -> Result<(), &'static str> {
    if last < Some(next) { Ok(()) } else { Err("records are out of order") }
}

/// Gathers records into blocks.
struct BlockWriter<'a> {
    out: &'a mut dyn Write,
    block: Vec<u8>,
    checksum: crc32fast::Hasher,
    records: u64,
}

impl<'a> BlockWriter<'a> {
    fn begin(out: &'a mut dyn Write) -> io::Result<Self> {
        let mut head = MAGIC.to_vec();
        head.extend(FORMAT.to_le_bytes());
        out.write_all(&head)?;
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&head);
        Ok(Self { out, block: Vec::with_capacity(2 * BLOCK_BYTES), checksum, records: 0 })
    }

    fn put(&mut self, record: &Record<Packed<'_>>) -> io::Result<()> {
        postcard::to_io(record, &mut self.block).map_err(io::Error::other)?;
        self.records += 1;
        if self.block.len() >= BLOCK_BYTES { self.flush() } else { Ok(()) }
    }

    fn end(mut self) -> io::Result<()> {
        self.put(&Record::End { records: self.records })?;
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let length = u32::try_from(self.block.len()).map_err(|_| io::Error::other("a record exceeds 4 GiB"))?;
        self.checksum.update(&length.to_le_bytes());
        self.checksum.update(&self.block);
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&self.checksum.clone().finalize().to_le_bytes())?;
        self.out.write_all(&self.block)?;
        self.block.clear();
        Ok(())
    }
}

/// Reads blocks and verifies them.
struct BlockReader<'a> {
    input: &'a mut dyn Read,
    checksum: crc32fast::Hasher,
}

impl<'a> BlockReader<'a> {
    fn begin(input: &'a mut dyn Read) -> io::Result<Self> {
        let (magic, format): ([u8; 8], [u8; 4]) = (read_array(input)?, read_array(input)?);
        if magic != *MAGIC {
            return Err(SnapshotError::NotASnapshot.into());
        }
        let found = u32::from_le_bytes(format);
        if found != FORMAT {
            return Err(SnapshotError::UnknownFormat { found }.into());
        }
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&magic);
        checksum.update(&format);
        Ok(Self { input, checksum })
    }

    fn next(&mut self) -> io::Result<Vec<u8>> {
        let (length, checksum): ([u8; 4], [u8; 4]) = (read_array(self.input)?, read_array(self.input)?);
        let claimed = u64::from(u32::from_le_bytes(length));
        // Grows with what is there, not with what is claimed.
        let mut payload = Vec::new();
        let mut taken = (&mut *self.input).take(claimed);
        if taken.read_to_end(&mut payload)? as u64 != claimed {
            return Err(ends_early());
        }
        self.checksum.update(&length);
        self.checksum.update(&payload);
        if self.checksum.clone().finalize() != u32::from_le_bytes(checksum) {
            return Err(damaged("a checksum does not match"));
        }
        if payload.is_empty() { Err(damaged("a block is empty")) } else { Ok(payload) }
    }
}

fn read_array<const N: usize>(input: &mut dyn Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    match input.read_exact(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(ends_early()),
        read => read.map(|()| bytes),
    }
}

fn ends_early() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the snapshot ends early")
}

#[cfg(test)]
mod tests {
    use super::super::command::GatewayAddresses;
    use super::*;

    #[test]
    fn texts_beyond_their_limits_are_damage() {
        let read = |user: usize, device: usize, remote: usize, meta: usize| {
            let text = |bytes: usize| Arc::<str>::from("t".repeat(bytes));
            let session = Session {
                gateway: "gw-1".into(),
                nonce: "n".into(),
                attempt: 1,
                lease_ms: 3000,
                addresses: GatewayAddresses::default(),
            };
            let connection = Connection {
                user: text(user),
                device: text(device),
                granted: 1,
                connected_at_ms: 5,
                remote: Some(text(remote)),
                meta: Some(text(meta)),
                meta_version: 1,
                claim: None,
            };
            let mut state = Directory::new();
            state.advance(1);
            state.ended.insert(1, Ended { session: Arc::new(session), reason: Reason::Died, held: 1, claims: false });
            state.add(ConnectionId { epoch: 1, serial: 1 }, &connection, hash_of(&connection.user));
            let mut bytes = Vec::new();
            state.write_to(&mut bytes).unwrap();
            Directory::read_from(&mut bytes.as_slice()).map(|read| read.digest() == state.digest()).ok()
        };
        let (name, text) = (NAME_BYTES_MAX, TEXT_BYTES_MAX);
        assert_eq!(read(name, name, text, text), Some(true));
        assert_eq!(read(name + 1, name, text, text), None);
        assert_eq!(read(name, name + 1, text, text), None);
        assert_eq!(read(name, name, text + 1, text), None);
        assert_eq!(read(name, name, text, text + 1), None);
    }
}
