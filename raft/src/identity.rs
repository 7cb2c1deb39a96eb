//! Whose data directory it is: a small file with a checksum, written when the directory is created and never changed.
//!
//! The nonce is drawn at creation. The membership records it for every member, and every connection names it, so that a
//! directory that was lost and created anew can't pass for the one that the group knows.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::settings::{LogEngine, NodeId, Settings};

const NAME: &str = "identity";
const MAGIC: &[u8; 4] = b"SWBI";
const FORMAT: u8 = 2;
/// Far above any identity; a longer file is not one.
const BYTES_MAX: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) cluster: String,
    pub(crate) id: NodeId,
    pub(crate) nonce: u64,
    /// What the log was written with.
    pub(crate) engine: LogEngine,
}

/// Why a data directory is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{file} is damaged: {what}")]
    Damaged { file: PathBuf, what: &'static str },
    #[error("{file} was written by another version: format {format}, this version reads {FORMAT}")]
    Format { file: PathBuf, format: u8 },
    #[error("{dir} belongs to {found}, not to {expected}")]
    Foreign { dir: PathBuf, found: String, expected: String },
    #[error("{dir} was written with the log engine {found}, not with {asked}")]
    Engine { dir: PathBuf, found: LogEngine, asked: LogEngine },
}

impl Identity {
    /// The identity of a new data directory.
    pub(crate) fn draw(settings: &Settings) -> Identity {
        // 0 stands for "unknown" on the wire.
        Identity {
            cluster: settings.cluster.clone(),
            id: settings.id,
            nonce: settings.nonce.max(1),
            engine: settings.engine,
        }
    }

    /// Reads the identity of a data directory; `None` if it has none yet.
    pub(crate) fn load(dir: &Path) -> Result<Option<Identity>, IdentityError> {
        let file = dir.join(NAME);
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::Io { path: file, source }),
        };
        Identity::decode(&file, &bytes).map(Some)
    }

    /// Reads the identity that `file` holds.
    pub(crate) fn decode(file: &Path, bytes: &[u8]) -> Result<Identity, IdentityError> {
        let damaged = |what| IdentityError::Damaged { file: file.to_owned(), what };
        if bytes.len() > BYTES_MAX || bytes.len() < MAGIC.len() + 1 + 4 {
            return Err(damaged("it has the wrong size"));
        }
        let (covered, sum) = bytes.split_at(bytes.len() - 4);
        if crc32fast::hash(covered).to_le_bytes() != sum {
            return Err(damaged("its checksum does not fit"));
        }
        match covered.strip_prefix(MAGIC) {
            None => Err(damaged("it does not begin as an identity does")),
            Some([FORMAT, body @ ..]) => postcard::from_bytes(body).map_err(|_| damaged("its fields can't be read")),
            Some([format, ..]) => Err(IdentityError::Format { file: file.to_owned(), format: *format }),
            Some([]) => Err(damaged("it has the wrong size")),
        }
    }

    /// What a file holds.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(FORMAT);
        let mut bytes = postcard::to_extend(self, bytes).expect("an identity is plain data");
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    /// Writes the identity so that it is there as a whole, or not at all.
    pub(crate) fn store(&self, dir: &Path) -> Result<(), IdentityError> {
        let path = dir.join(NAME);
        let bytes = self.encode();
        let aside = dir.join("identity.tmp");
        let write = || {
            let mut file = File::create(&aside)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&aside, &path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(|source| IdentityError::Io { path: path.clone(), source })
    }

    /// Refuses a directory of another node or cluster, or of another engine.
    pub(crate) fn check(&self, dir: &Path, settings: &Settings) -> Result<(), IdentityError> {
        let ours = self.cluster == settings.cluster && self.id == settings.id;
        if ours && self.engine == settings.engine {
            return Ok(());
        }
        if ours {
            return Err(IdentityError::Engine { dir: dir.to_owned(), found: self.engine, asked: settings.engine });
        }
        let name = |id: NodeId, cluster: &str| format!("node {id} of cluster {cluster:?}");
        Err(IdentityError::Foreign {
            dir: dir.to_owned(),
            found: name(self.id, &self.cluster),
            expected: name(settings.id, &settings.cluster),
        })
    }
}
