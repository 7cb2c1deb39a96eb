//! A snapshot on its way, from the sender's file to the receiver's, one chunk in memory at a time.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{FutureExt, SinkExt, StreamExt};
use openraft::raft::SnapshotResponse;
use tokio::time::timeout;

use super::frame::{self, SnapshotAnswer, SnapshotHead, Wire};
use crate::blocking;
use crate::entry::{Group, SnapshotMeta, Vote};
use crate::settings::Limits;
use crate::snapshot::{SnapshotFile, Snapshots};

const CHECKSUM_BYTES: usize = 4;

/// Sends a snapshot and waits until it is installed, or refused. An early answer ends the sending.
pub(super) async fn send(
    wire: &mut Wire,
    vote: Vote,
    snapshot: SnapshotFile,
    limits: &Limits,
) -> io::Result<SnapshotResponse<Group>> {
    let bytes = snapshot.len()?;
    let head = SnapshotHead { vote, meta: snapshot.head.meta.clone(), bytes };
    let timed_out = |_| io::Error::from(io::ErrorKind::TimedOut);
    timeout(limits.idle_max, wire.send(frame::encode(&head)?)).await.map_err(timed_out)??;
    let mut sent = 0;
    while sent < bytes {
        let chunk = read_chunk(&snapshot, sent, limits.snapshot_chunk_bytes).await?;
        sent += (chunk.len() - CHECKSUM_BYTES) as u64;
        if let Some(early) = wire_next(wire).now_or_never() {
            return answered(early?);
        }
        timeout(limits.idle_max, wire.send(chunk)).await.map_err(timed_out)??;
    }
    let answer = timeout(limits.snapshot_install_within, wire_next(wire)).await.map_err(timed_out)??;
    answered(answer)
}

async fn wire_next(wire: &mut Wire) -> io::Result<SnapshotAnswer> {
    let frame = wire.next().await.ok_or(io::ErrorKind::UnexpectedEof)??;
    frame::decode(&frame)
}

fn answered(answer: SnapshotAnswer) -> io::Result<SnapshotResponse<Group>> {
    match answer {
        SnapshotAnswer::Installed(response) => Ok(response),
        SnapshotAnswer::Failed(why) => Err(io::Error::other(format!("the receiver says: {why}"))),
    }
}

async fn read_chunk(snapshot: &SnapshotFile, at: u64, bytes_max: usize) -> io::Result<Bytes> {
    let snapshot = snapshot.clone();
    let read = blocking::run(move || {
        let mut chunk = BytesMut::zeroed(CHECKSUM_BYTES + bytes_max);
        let read = snapshot.read_at(&mut chunk[CHECKSUM_BYTES..], at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        chunk.truncate(CHECKSUM_BYTES + read);
        let sum = crc32fast::hash(&chunk[CHECKSUM_BYTES..]);
        (&mut chunk[..CHECKSUM_BYTES]).put_u32_le(sum);
        Ok(chunk.freeze())
    });
    read.await.map_err(io::Error::other)?
}

/// Receives a snapshot into a file of its own, synced and checked, but not yet installed. `blame` sees the errors of the
/// own disk, and no other.
pub(super) async fn receive(
    wire: &mut Wire,
    head: &SnapshotHead,
    snapshots: &Snapshots,
    limits: &Limits,
    blame: impl Fn(io::Error) -> io::Error,
) -> io::Result<SnapshotFile> {
    let mut incoming = snapshots.receive(head.bytes).map_err(&blame)?;
    let mut received = 0;
    while received < head.bytes {
        let frame = timeout(limits.idle_max, wire.next()).await.map_err(|_| io::ErrorKind::TimedOut)?;
        let mut chunk = frame.ok_or(io::ErrorKind::UnexpectedEof)??;
        if chunk.len() <= CHECKSUM_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an empty chunk"));
        }
        let sum = chunk.get_u32_le();
        if crc32fast::hash(&chunk) != sum {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk was damaged on the way"));
        }
        received += chunk.len() as u64;
        let written = blocking::run(move || incoming.write(&chunk).map(|()| incoming));
        incoming = written.await.map_err(io::Error::other)?.map_err(&blame)?;
    }
    let finished = blocking::run(move || incoming.finish()).await;
    let finished = finished.map_err(io::Error::other)?.map_err(&blame)?;
    same(&finished.head.meta, &head.meta)?;
    Ok(finished)
}

fn same(found: &SnapshotMeta, announced: &SnapshotMeta) -> io::Result<()> {
    if found == announced {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the file is another snapshot than was announced"))
}
