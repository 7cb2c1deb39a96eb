//! The peer listener of a node: control streams, watches, and the streams of `raft/`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use switchboard_raft::Raft;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::deaths::{Kept, Suspects};
use super::requests::Requests;
use super::watch::Watches;
use crate::net::framed::{self, FrameReader};
use crate::net::{self, Listener, ReadHalf, WriteHalf};
use crate::peer::{Greeted, Identity, greet};
use crate::wire::peer::{ClusterMark, Hello, Purpose, Request, Response};

/// Streams at once: each gateway holds three, each node a handful.
const STREAMS_MAX: usize = 8192;

/// Requests of one stream that are under way. The stream is read on when some are answered.
const REQUESTS_IN_FLIGHT_MAX: usize = 1024;

/// Answers that wait to be written.
const ANSWERS_MAX: usize = 256;

/// A write that takes longer means that the caller does not read.
const WRITE_STALL: Duration = Duration::from_secs(5);

/// Serves the peer listener.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    pub(super) raft: Raft,
    /// Where the log's own streams are served, and those of leases.
    pub(super) threads: Handle,
    pub(super) identity: Arc<Identity>,
    pub(super) requests: Requests,
    pub(super) watches: Watches,
    pub(super) suspects: Suspects,
}

impl Streams {
    /// Accepts until `stop`, then closes every stream.
    pub(super) async fn serve(self, listener: Listener, stop: CancellationToken) {
        let mut streams = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = streams.join_next() => {}
                (stream, from) = listener.accept(), if streams.len() < STREAMS_MAX => {
                    let this = self.clone();
                    streams.spawn(async move {
                        let greeted = match greet(stream, &this.identity, this.cluster()).await {
                            Ok(greeted) => greeted,
                            Err(error) => return tracing::info!(%from, %error, "a peer stream was refused"),
                        };
                        if let Err(error) = this.serve_stream(greeted).await {
                            tracing::debug!(%from, %error, "a peer stream ended");
                        }
                    });
                }
            }
        }
    }

    /// Whose state this node has, and how far it is.
    fn cluster(&self) -> Option<ClusterMark> {
        let status = self.raft.status();
        status.cluster_id.map(|id| ClusterMark { id, revision: status.applied })
    }

    async fn serve_stream(&self, greeted: Greeted) -> io::Result<()> {
        let (hello, reader, writer) = match greeted {
            Greeted::Raft(stream) => {
                let _on_them = self.threads.enter();
                self.raft.accept(Box::new(net::moved_here(stream)?));
                return Ok(());
            }
            Greeted::Peer { hello, reader, writer } => (hello, reader, writer),
        };
        let Hello { from, purpose, .. } = hello;
        tracing::debug!(%from, ?purpose, "a peer stream begins");
        match purpose {
            Purpose::Control => self.keep(reader, writer).await,
            Purpose::Leases => {
                let this = self.clone();
                let kept = async move {
                    let (reader, writer) = moved_here(reader, writer)?;
                    this.keep(reader, writer).await
                };
                AbortOnDropHandle::new(self.threads.spawn(kept)).await.map_err(io::Error::other)?
            }
            Purpose::Watch(start) => self.watches.serve(start, reader, writer).await,
            Purpose::Identify => Ok(()),
            Purpose::Link | Purpose::Ask => {
                Err(io::Error::new(io::ErrorKind::Unsupported, "a directory node has no clients to push to"))
            }
        }
    }

    /// Serves requests, and notices when the process that kept sessions by them may be gone.
    async fn keep(&self, reader: FrameReader<ReadHalf>, writer: WriteHalf) -> io::Result<()> {
        let mut kept = Kept::default();
        let ended = self.control(reader, writer, &mut kept).await;
        self.suspects.tell(kept);
        ended
    }

    /// Reads requests, begins them in order, and writes answers as they come. `kept` are the sessions that the caller
    /// keeps.
    async fn control(&self, mut reader: FrameReader<ReadHalf>, writer: WriteHalf, kept: &mut Kept) -> io::Result<()> {
        let (answers, mut queue) = mpsc::channel::<Bytes>(ANSWERS_MAX);
        let mut under_way = JoinSet::new();
        let writing = framed::write_all(writer, &mut queue, WRITE_STALL);
        tokio::pin!(writing);
        loop {
            tokio::select! {
                written = &mut writing => return written,
                Some(_) = under_way.join_next() => {}
                request = reader.next::<Request>(), if under_way.len() < REQUESTS_IN_FLIGHT_MAX => {
                    let Some(Request { id, body }) = request? else { return Ok(()) };
                    kept.note(&body);
                    let begun = self.requests.begin(body);
                    let (requests, answers) = (self.requests.clone(), answers.clone());
                    under_way.spawn(async move {
                        let result = match begun {
                            Ok(begun) => requests.finish(begun).await,
                            Err(failure) => Err(failure),
                        };
                        // The stream may have ended.
                        let _ = answers.send(framed::encode(&Response { id, result })).await;
                    });
                }
            }
        }
    }
}

/// Both halves of a stream that was greeted by another runtime, from now on in the hands of the current one.
fn moved_here(reader: FrameReader<ReadHalf>, writer: WriteHalf) -> io::Result<(FrameReader<ReadHalf>, WriteHalf)> {
    let mut moved = None;
    let reader = reader.replaced(|read| {
        let stream = read.reunite(writer).map_err(io::Error::other)?;
        let (read, writer) = net::moved_here(stream)?.into_split();
        moved = Some(writer);
        Ok(read)
    })?;
    Ok((reader, moved.expect("it was just set")))
}
