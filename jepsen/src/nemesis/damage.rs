//! Damaged logs: torn writes, which a node must survive, and flipped bits, which it must notice.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::disk::END_WITHIN;
use super::members::{REPLACED, regroup};
use super::{Fault, Need, NotNow, choice};
use crate::cluster::{Cluster, HarnessError, NotStarted};

const TORN: &str = "torn-write";
const TAIL: &str = "torn-tail";
const COLOUR: &str = "#99F2E2";

/// Half a record.
pub(super) const TORN_WRITE: Fault = Fault {
    name: TORN,
    about: "lets a node die in the middle of a write to its log: it must cut that off and come back",
    colour: COLOUR,
    family: TORN,
    needs: &[Need::Shim],
    start: |cluster, rng| Box::pin(torn_write(cluster, rng)),
    stop: |cluster| Box::pin(end_torn_write(cluster)),
};

/// What a power cut may leave behind the last record.
pub(super) const TORN_TAIL: Fault = Fault {
    name: TAIL,
    about: "kills a node and leaves zeros or the beginning of a record behind the end of its log: it must come back",
    colour: COLOUR,
    family: TAIL,
    needs: &[],
    start: |cluster, rng| Box::pin(torn_tail(cluster, rng)),
    stop: |cluster| Box::pin(cluster.revive(TAIL)),
};

/// A bit that flips.
pub(super) const CORRUPT: Fault = Fault {
    name: "corrupt",
    about: "flips a bit in the log of a node that is down: it must refuse to start, and is replaced by a new one",
    colour: COLOUR,
    family: "members",
    needs: &[],
    start: |cluster, rng| Box::pin(corrupt(cluster, rng)),
    stop: |cluster| Box::pin(replace_damaged(cluster)),
};

/// Bytes of a record that are never a whole one.
const FRAGMENT_BYTES: std::ops::Range<usize> = 1..8;

/// Zeros behind the end of a log, bytes.
const ZEROS: std::ops::Range<usize> = 1..5_000;

/// A log is damaged in its first half, which must be longer than this, bytes: its last record, and what is not synced, are not in it.
const HALF_BYTES_MIN: u64 = 2_000;

async fn torn_write(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let name = choice::node(cluster, rng).await?;
    cluster.claims.take(TORN, [name.clone()]);
    cluster.shim(&name)?.obey(TORN, "write torn in .wal")?;
    let ended = cluster.process(&name).ended(END_WITHIN).await;
    cluster.shim(&name)?.obey(TORN, "")?;
    if ended.is_none() {
        cluster.claims.release(TORN);
        return Err(NotNow::Skipped(format!("{name} wrote nothing within {END_WITHIN:?}, so nothing was torn")));
    }
    Ok(json!(name))
}

fn end_torn_write(cluster: &mut Cluster) -> BoxFuture<'_, Result<(), HarnessError>> {
    Box::pin(async {
        for name in cluster.claims.of(TORN) {
            cluster.shim(&name)?.obey(TORN, "")?;
        }
        cluster.revive(TORN).await
    })
}

/// The files of a log, the newest one last.
fn files(data: &Path) -> io::Result<Vec<PathBuf>> {
    let found = fs::read_dir(data.join("log"))?.collect::<io::Result<Vec<_>>>()?;
    let mut files: Vec<PathBuf> = found.iter().map(fs::DirEntry::path).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "wal"));
    // The names carry zero-padded offsets, so they sort as the offsets do.
    files.sort();
    Ok(files)
}

/// Leaves something behind the end of a log; what it was.
fn tear(data: &Path, rng: &mut Rng) -> io::Result<String> {
    let files = files(data)?;
    let newest = files.last().ok_or_else(|| io::Error::other("there is no log"))?;
    let (left, what) = if rng.bool() {
        let zeros = rng.usize(ZEROS);
        (vec![0; zeros], format!("{zeros} zeros"))
    } else {
        let mut beginning = vec![0; rng.usize(FRAGMENT_BYTES)];
        File::open(newest)?.read_exact(&mut beginning)?;
        let what = format!("{} bytes of a record", beginning.len());
        (beginning, what)
    };
    OpenOptions::new().append(true).open(newest)?.write_all(&left)?;
    Ok(what)
}

async fn torn_tail(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    let name = choice::node(cluster, rng).await?;
    cluster.claims.take(TAIL, [name.clone()]);
    cluster.process(&name).kill().await?;
    let left = tear(&cluster.data_dir(&name), rng).map_err(|error| HarnessError(format!("tearing a log: {error}")))?;
    Ok(json!({ "of": name, "left": left }))
}

/// Flips a bit in the first half of a log's longest file; where. `None` if the log is too short.
fn flip(data: &Path, rng: &mut Rng) -> io::Result<Option<Value>> {
    let lengths = files(data)?.into_iter().map(|file| Ok((file.metadata()?.len(), file)));
    let Some((length, file)) = lengths.collect::<io::Result<Vec<_>>>()?.into_iter().max() else { return Ok(None) };
    if length / 2 < HALF_BYTES_MIN {
        return Ok(None);
    }
    let (at, bit) = (rng.u64(..length / 2), rng.u8(..8));
    let opened = OpenOptions::new().read(true).write(true).open(&file)?;
    let mut byte = [0];
    opened.read_exact_at(&mut byte, at)?;
    opened.write_all_at(&[byte[0] ^ (1 << bit)], at)?;
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(Some(json!({ "file": name, "at": at, "bit": bit })))
}

async fn corrupt(cluster: &mut Cluster, rng: &mut Rng) -> Result<Value, NotNow> {
    if !cluster.is_regrouped() {
        return Err(NotNow::Skipped("an earlier change of the members is not done yet".to_owned()));
    }
    let name = choice::node(cluster, rng).await?;
    cluster.claims.take(REPLACED, [name.clone()]);
    cluster.process(&name).kill().await?;
    let flipped =
        flip(&cluster.data_dir(&name), rng).map_err(|error| HarnessError(format!("damaging a log: {error}")))?;
    let Some(flipped) = flipped else {
        cluster.bring_back(&name).await?;
        cluster.claims.release(REPLACED);
        return Err(NotNow::Skipped(format!("the log of {name} is too short yet")));
    };
    let said = match cluster.process(&name).restart().await {
        Err(NotStarted::Ended(_)) => cluster.process(&name).last_words(),
        Err(NotStarted::Failed(error)) => return Err(error.into()),
        Ok(()) => {
            cluster.process(&name).kill().await?;
            cluster.violation(format!("{name} started although its log is damaged: {flipped}"));
            String::new()
        }
    };
    // It says in which file, and what to do.
    if !said.contains(".wal") || !said.contains("new id") {
        cluster.violation(format!("{name} refused to start for its damaged log without saying so: {said}"));
    }
    cluster.want_new(&name);
    Ok(json!({ "of": name, "flipped": flipped, "said": said }))
}

/// A new node takes the place of the one whose log is damaged; later, if something else is in the way.
async fn replace_damaged(cluster: &mut Cluster) -> Result<(), HarnessError> {
    if !cluster.is_regrouped() {
        let _ = regroup(cluster).await;
    }
    Ok(())
}
