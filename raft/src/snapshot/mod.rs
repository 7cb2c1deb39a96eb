//! Snapshots of the state as files: written aside, synced, renamed, and only then counted on.
//!
//! There is one current snapshot. A newer one replaces it only when its own name is durable, because openraft purges the
//! log right after. Whoever still sends the older one keeps its open file. What an interrupted write or transfer left
//! behind is removed at the next start.

mod file;

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::file::fuzz;
pub(crate) use self::file::{BlockReader, BlockWriter, FORMAT, Head};
use crate::entry::LogId;
use crate::machine::{Frozen, StateMachine};
use crate::space::Headroom;

const BUFFER_BYTES: usize = 256 * 1024;

/// A snapshot file, open. It can be read until it is dropped, also when a newer one has replaced it.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFile {
    pub(crate) head: Head,
    file: Arc<File>,
    path: PathBuf,
    /// Removes the file if it was never installed.
    temporary: Option<Arc<Temporary>>,
}

#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Renamed away when it was installed; a leftover is removed at the next start anyway.
        drop(std::fs::remove_file(&self.0));
    }
}

impl SnapshotFile {
    /// Reads the file's bytes as they travel: as many as fit at `offset`, none at the end. Blocks.
    pub(crate) fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut from = Positioned { file: self.file.clone(), at: offset };
        let mut read = 0;
        while read < into.len() {
            match io::Read::read(&mut from, &mut into[read..])? {
                0 => break,
                some => read += some,
            }
        }
        Ok(read)
    }

    pub(crate) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The entries up to this one are in it.
    pub(crate) fn index(&self) -> u64 {
        self.head.meta.last_log_id.map_or(0, |id| id.index)
    }

    /// Feeds the state to the machine. Returns its SHA-256. Blocks.
    pub(crate) fn restore(&self, machine: &dyn StateMachine) -> io::Result<[u8; 32]> {
        let mut reader = self.reader()?;
        machine.restore(self.index(), &mut reader)?;
        reader.finish()
    }

    /// Copies the state, as it was written, and checks it on the way. Blocks.
    pub(crate) fn copy_state(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut reader = self.reader()?;
        io::copy(&mut reader, to)?;
        reader.finish().map(|_| ())
    }

    /// Checks every block. Blocks.
    pub(crate) fn verify(&self) -> io::Result<()> {
        self.reader()?.verify()
    }

    fn reader(&self) -> io::Result<BlockReader<BufReader<Positioned>>> {
        let from = BufReader::with_capacity(BUFFER_BYTES, Positioned { file: self.file.clone(), at: 0 });
        Ok(BlockReader::new(from)?.0)
    }
}

/// Reads a shared file without moving its position.
struct Positioned {
    file: Arc<File>,
    at: u64,
}

impl io::Read for Positioned {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = std::os::unix::fs::FileExt::read_at(&*self.file, into, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// The snapshots of one data directory.
pub(crate) struct Snapshots {
    pub(crate) dir: PathBuf,
    /// Snapshots stop before they use up what is kept free.
    pub(crate) space: Arc<Headroom>,
    current: Mutex<Option<SnapshotFile>>,
    names: AtomicU64,
}

/// A snapshot being received.
pub(crate) struct Incoming {
    space: Arc<Headroom>,
    file: File,
    path: PathBuf,
    temporary: Temporary,
}

impl Snapshots {
    /// Opens the directory, which must exist: removes leftovers, and finds the newest snapshot.
    ///
    /// The newest one counts or nothing does: the log behind an older one is purged. Every block of it is checked, so
    /// that damage is told apart from an application that can't read its own state.
    pub(crate) fn open(dir: &Path, space: Arc<Headroom>) -> io::Result<Snapshots> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("tmp") => std::fs::remove_file(&path)?,
                Some("snapshot") => found.push(path),
                _ => {}
            }
        }
        // The names carry zero-padded indices, so they sort as the indices do.
        found.sort();
        let newest = found.pop();
        for older in found {
            std::fs::remove_file(older)?;
        }
        let current = newest.map(|path| open_file(&path)).transpose()?;
        if let Some(snapshot) = &current {
            snapshot.verify().map_err(|e| named(&snapshot.path, &e))?;
        }
        Ok(Snapshots { dir: dir.to_owned(), space, current: Mutex::new(current), names: AtomicU64::new(0) })
    }

    /// The newest snapshot.
    pub(crate) fn current(&self) -> Option<SnapshotFile> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<SnapshotFile>> {
        self.current.lock().expect("nothing panics while it holds the current snapshot")
    }

    fn temporary(&self) -> PathBuf {
        self.dir.join(format!("{}.tmp", self.names.fetch_add(1, Relaxed)))
    }

    /// Writes a frozen state to a file and makes it the current snapshot. Blocks until it is durable.
    pub(crate) fn write(&self, head: Head, frozen: &dyn Frozen) -> io::Result<SnapshotFile> {
        let temporary = Temporary(self.temporary());
        let file = write_file(&temporary.0, &head, frozen, &self.space)?;
        let path = temporary.0.clone();
        let written = SnapshotFile { head, file: Arc::new(file), path, temporary: Some(Arc::new(temporary)) };
        self.install(&written)
    }

    /// Makes a file the current snapshot, unless a newer one is. Returns the one that is current then. Blocks until its
    /// name is durable.
    pub(crate) fn install(&self, snapshot: &SnapshotFile) -> io::Result<SnapshotFile> {
        let mut current = self.lock();
        if let Some(current) = current.as_ref()
            && current.head.meta.last_log_id >= snapshot.head.meta.last_log_id
        {
            return Ok(current.clone());
        }
        let path = self.dir.join(name(snapshot.head.meta.last_log_id));
        std::fs::rename(&snapshot.path, &path)?;
        File::open(&self.dir)?.sync_all()?;
        let installed =
            SnapshotFile { head: snapshot.head.clone(), file: snapshot.file.clone(), path, temporary: None };
        let older = current.replace(installed.clone());
        if let Some(older) = older.filter(|older| older.path != installed.path) {
            std::fs::remove_file(older.path)?;
        }
        Ok(installed)
    }

    /// A file for a snapshot of so many bytes that another member sends.
    pub(crate) fn receive(&self, bytes: u64) -> io::Result<Incoming> {
        if !self.space.spares(bytes) {
            let (free, dir) = (self.space.seen().free, self.dir.display());
            let what = format!("no space for a snapshot of {bytes} bytes in {dir}: {free} are free; free some there");
            return Err(io::Error::new(io::ErrorKind::StorageFull, what));
        }
        let path = self.temporary();
        let file = create(&path)?;
        Ok(Incoming { space: self.space.clone(), file, temporary: Temporary(path.clone()), path })
    }
}

impl Incoming {
    /// Appends a chunk. Blocks.
    pub(crate) fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.space.careful(&mut self.file).write_all(chunk)
    }

    /// Syncs the file and checks every block of it. Blocks.
    pub(crate) fn finish(mut self) -> io::Result<SnapshotFile> {
        self.file.sync_all()?;
        self.file.rewind()?;
        let mut snapshot = open_file(&self.path)?;
        snapshot.verify()?;
        snapshot.temporary = Some(Arc::new(self.temporary));
        Ok(snapshot)
    }
}

/// Writes a snapshot to a new file. Blocks until it is durable; its name is the caller's.
pub(crate) fn write_file(path: &Path, head: &Head, frozen: &dyn Frozen, space: &Headroom) -> io::Result<File> {
    let file = BufWriter::with_capacity(BUFFER_BYTES, space.careful(create(path)?));
    let mut writer = BlockWriter::new(file, head)?;
    frozen.write_to(&mut writer)?;
    let file = writer.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?.into_inner();
    file.sync_all()?;
    Ok(file)
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(path)
}

/// Opens a snapshot and reads its head. Blocks.
pub(crate) fn open_file(path: &Path) -> io::Result<SnapshotFile> {
    let file = File::open(path)?;
    let (_, head) = BlockReader::new(BufReader::new(&file)).map_err(|e| named(path, &e))?;
    Ok(SnapshotFile { head, file: Arc::new(file), path: path.to_owned(), temporary: None })
}

fn named(path: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

fn name(last: Option<LogId>) -> String {
    let (index, term) = last.map_or((0, 0), |id| (id.index, id.leader_id.term));
    format!("{index:020}-{term:020}.snapshot")
}

/// Where the snapshots of a data directory live.
pub(crate) fn dir_in(data_dir: &Path) -> PathBuf {
    data_dir.join("snapshots")
}
