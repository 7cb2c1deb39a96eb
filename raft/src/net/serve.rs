//! The accepting side of connections between members.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, Stream, StreamExt, stream};
use openraft::alias;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, SnapshotResponse};
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::frame::{
    self, AppendAnswer, AppendAsk, FoundingAsk, Greeting, Hello, Purpose, ReadAnswer, Refusal, SnapshotAnswer,
    SnapshotHead, VoteAnswer, VoteAsk, Wire,
};
use super::heartbeat::Heartbeats;
use super::link::Local;
use super::transfer;
use crate::apply::{self, Applier, Progress};
use crate::counters::{Counting, count};
use crate::entry::Group;
use crate::founding::Founders;
use crate::log::LogReader;
use crate::reads::{LocalRounds, RoundError};
use crate::settings::NodeId;
use crate::snapshot::Snapshots;
use crate::stream::Stream as PeerStream;

type OpenRaft = openraft::Raft<Group, Applier>;

/// Refusals that are logged; each is logged once, and a peer that tries for ever must not fill the log.
const REFUSALS_LOGGED_MAX: usize = 256;
/// Snapshots received at once. A new leader's need not wait for the one of a leader that is gone.
const SNAPSHOTS_AT_ONCE: usize = 2;

/// Serves accepted streams.
pub(crate) struct Server {
    local: Arc<Local>,
    raft: OpenRaft,
    log: LogReader,
    progress: Arc<Progress>,
    snapshots: Arc<Snapshots>,
    founders: Arc<Founders>,
    rounds: LocalRounds,
    counting: Arc<Counting>,
    streams: Arc<Semaphore>,
    transfers: Semaphore,
    refusals: Mutex<HashSet<String>>,
}

impl Server {
    pub(crate) fn new(
        local: Arc<Local>,
        (raft, log): (OpenRaft, LogReader),
        progress: Arc<Progress>,
        snapshots: Arc<Snapshots>,
        founders: Arc<Founders>,
        rounds: LocalRounds,
        counting: Arc<Counting>,
    ) -> Server {
        let streams = Arc::new(Semaphore::new(local.limits.accepted_streams_max));
        let transfers = Semaphore::new(SNAPSHOTS_AT_ONCE);
        let refusals = Mutex::default();
        Server { local, raft, log, progress, snapshots, founders, rounds, counting, streams, transfers, refusals }
    }

    /// Serves one stream in a task of its own. Above the limit of streams it is closed unread.
    pub(crate) fn accept(
        self: &Arc<Server>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
        stream: Box<dyn PeerStream>,
    ) {
        let Ok(permit) = self.streams.clone().try_acquire_owned() else {
            return self.note_refusal("too many streams are open".to_owned());
        };
        let (server, stop) = (self.clone(), stop.clone());
        tasks.spawn(async move {
            let served = stop.run_until_cancelled(server.serve(frame::framed(stream)));
            if let Some(Err(e)) = served.await {
                debug!(error = %e, "a peer's connection ended");
            }
            drop(permit);
        });
    }

    fn note_refusal(&self, what: String) {
        count(&self.counting.peers_refused);
        let mut noted = self.refusals.lock().expect("nothing panics while it holds the refusals");
        if noted.len() < REFUSALS_LOGGED_MAX && !noted.contains(&what) {
            warn!(reason = %what, "refused a peer's connection; this is logged once");
            noted.insert(what);
        }
    }

    async fn serve(&self, mut wire: Wire) -> io::Result<()> {
        let first = timeout(self.local.limits.hello_within, wire.next()).await?;
        let hello = match first {
            None => return Ok(()),
            Some(Err(e)) if e.kind() == io::ErrorKind::InvalidData => Err(Refusal::Garbage),
            Some(frame) => Hello::decode(&frame?),
        };
        let (hello, version) = match hello.and_then(|hello| self.check(&hello).map(|version| (hello, version))) {
            Ok(greeted) => greeted,
            Err(refusal) => return self.refuse(&mut wire, refusal).await,
        };
        timeout(self.local.limits.hello_within, wire.send(frame::encode(&Greeting::Welcome { version })?)).await??;
        frame::allow_large(&mut wire, &self.local.limits);
        match hello.purpose {
            Purpose::Append => self.serve_appends(wire).await,
            Purpose::Heartbeat => Heartbeats::new(&self.raft, &self.log, &self.local).serve(wire).await,
            Purpose::Vote => self.serve_votes(wire, hello.from).await,
            Purpose::Read => self.serve_reads(wire, hello.from).await,
            Purpose::Snapshot => self.serve_snapshots(wire).await,
            Purpose::Founding => self.serve_founding(wire, &hello).await,
            Purpose::Join => self.serve_join(wire).await,
        }
    }

    async fn refuse(&self, wire: &mut Wire, refusal: Refusal) -> io::Result<()> {
        self.note_refusal(refusal.to_string());
        let greeting = frame::encode(&Greeting::Refused(refusal))?;
        timeout(self.local.limits.hello_within, wire.send(greeting)).await??;
        Ok(())
    }

    /// Whether this is a member of the same group that looks for this very node and data directory, and is understood.
    /// Returns the version to speak.
    fn check(&self, hello: &Hello) -> Result<u8, Refusal> {
        let local = &self.local;
        let version = frame::common_version(hello.speaks)?;
        if hello.cluster != local.cluster {
            return Err(Refusal::Cluster { theirs: hello.cluster.clone(), ours: local.cluster.clone() });
        }
        if hello.to != local.id {
            return Err(Refusal::WrongNode { wanted: hello.to, here: local.id });
        }
        if matches!(hello.purpose, Purpose::Founding | Purpose::Join) {
            return Ok(version);
        }
        let (reads, writes) = (local.formats, hello.formats.writes);
        if !reads.read(writes) {
            // Neither its entries nor its snapshots could be applied here, so it must not lead this member.
            return Err(Refusal::Format { writes, oldest: reads.oldest, newest: reads.newest });
        }
        if hello.to_nonce != local.nonce {
            self.founders.sought_otherwise(hello.from);
            return Err(Refusal::OtherDirectory(local.id));
        }
        if hello.purpose == Purpose::Append && local.shortage.exhausted().is_some() {
            return Err(Refusal::NoSpace(local.id));
        }
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let known = metrics.membership_config.get_node(&hello.from);
        if known.is_some_and(|seat| seat.nonce != hello.from_nonce) {
            return Err(Refusal::Impostor(hello.from));
        }
        if self.progress.was_removed(hello.from) {
            return Err(Refusal::Removed(hello.from));
        }
        Ok(version)
    }

    async fn serve_appends(&self, wire: Wire) -> io::Result<()> {
        let (mut sink, stream) = wire.split();
        let (asked, mut numbers) = mpsc::unbounded_channel();
        let requests = requests(stream, asked, self.local.clone());
        let mut answers = std::pin::pin!(self.raft.stream_append(requests));
        while let Some(answer) = answers.next().await {
            let answer = answer.map_err(io::Error::other)?;
            let number = numbers.recv().await.ok_or(io::ErrorKind::UnexpectedEof)?;
            let last = answer.is_err();
            let answer = AppendAnswer { number, short: self.local.shortage.tell(), result: answer };
            let sent = sink.send(frame::encode(&answer)?);
            timeout(self.local.limits.idle_max, sent).await??;
            if last {
                break;
            }
        }
        Ok(())
    }

    async fn serve_votes(&self, mut wire: Wire, from: NodeId) -> io::Result<()> {
        while let Some((number, ask)) = self.next_ask::<VoteAsk>(&mut wire).await? {
            if self.progress.was_removed(from) {
                // It is told why when it connects again.
                return Ok(());
            }
            let answer = match ask {
                VoteAsk::Vote(request) => self.raft.vote(request).await.map(VoteAnswer::Vote),
                VoteAsk::PreVote(request) => self.raft.pre_vote(request).await.map(VoteAnswer::Vote),
                VoteAsk::Transfer(request) => {
                    let transferred = self.raft.handle_transfer_leader(request).await;
                    transferred.map(VoteAnswer::Transfer).map_err(openraft::errors::RaftError::Fatal)
                }
            };
            self.answer(&mut wire, number, &answer.unwrap_or(VoteAnswer::Stopped)).await?;
        }
        Ok(())
    }

    async fn serve_reads(&self, mut wire: Wire, from: NodeId) -> io::Result<()> {
        while let Some((number, ())) = self.next_ask::<()>(&mut wire).await? {
            if self.progress.was_removed(from) {
                return Ok(());
            }
            let answer = match self.rounds.confirm().await {
                Ok(index) => ReadAnswer::Index(index),
                Err(RoundError::NotLeader) => ReadAnswer::NotLeader,
                Err(RoundError::NoQuorum) => ReadAnswer::NoQuorum,
                Err(RoundError::Stopped) => return Ok(()),
            };
            self.answer(&mut wire, number, &answer).await?;
        }
        Ok(())
    }

    async fn serve_founding(&self, mut wire: Wire, hello: &Hello) -> io::Result<()> {
        while let Some((number, ask)) = self.next_ask::<FoundingAsk>(&mut wire).await? {
            let answer = self.founders.answer(&self.raft, hello, &ask).await?;
            self.answer(&mut wire, number, &answer).await?;
        }
        Ok(())
    }

    async fn serve_join(&self, mut wire: Wire) -> io::Result<()> {
        while let Some((number, ())) = self.next_ask::<()>(&mut wire).await? {
            let answer = self.founders.introduce(&self.raft, self.progress.roster().cluster_id).await?;
            self.answer(&mut wire, number, &answer).await?;
        }
        Ok(())
    }

    async fn serve_snapshots(&self, mut wire: Wire) -> io::Result<()> {
        while let Some(frame) = timeout(self.local.limits.idle_max, wire.next()).await? {
            let head: SnapshotHead = frame::decode(&frame?)?;
            let answer = self.take_snapshot(&mut wire, head).await;
            let failed = answer.is_err();
            let answer = match answer {
                Ok(response) => SnapshotAnswer::Installed(response),
                Err(e) => {
                    warn!(error = %e, "a snapshot could not be received");
                    SnapshotAnswer::Failed(e.to_string())
                }
            };
            timeout(self.local.limits.idle_max, wire.send(frame::encode(&answer)?)).await??;
            if failed {
                break;
            }
        }
        Ok(())
    }

    async fn take_snapshot(&self, wire: &mut Wire, head: SnapshotHead) -> io::Result<SnapshotResponse<Group>> {
        let began = Instant::now();
        let _one_of_few = self.transfers.try_acquire().map_err(|_| io::Error::other(Refusal::Busy))?;
        let blame = |error: io::Error| match error.kind() {
            // It is refused, and comes again.
            io::ErrorKind::StorageFull => error,
            _ => apply::failed(&self.counting, &self.snapshots, error),
        };
        let file = transfer::receive(wire, &head, &self.snapshots, &self.local.limits, blame).await?;
        let snapshot = alias::SnapshotOf::<Group, _> { meta: head.meta, snapshot: file };
        let installed = self.raft.install_full_snapshot(head.vote, snapshot).await.map_err(io::Error::other)?;
        self.counting.snapshots_installed.add(began.elapsed());
        Ok(installed)
    }

    async fn next_ask<T: DeserializeOwned>(&self, wire: &mut Wire) -> io::Result<Option<(u64, T)>> {
        match timeout(self.local.limits.idle_max, wire.next()).await? {
            None => Ok(None),
            Some(frame) => frame::decode(&frame?).map(Some),
        }
    }

    async fn answer(&self, wire: &mut Wire, number: u64, answer: &impl serde::Serialize) -> io::Result<()> {
        timeout(self.local.limits.idle_max, wire.send(frame::encode(&(number, answer))?)).await??;
        Ok(())
    }
}

/// The requests of a stream, for openraft; their numbers are noted on the way. Ends with the stream, on garbage, when the
/// other side has been silent for too long, and when there is no space for entries.
fn requests(
    stream: impl Stream<Item = io::Result<bytes::BytesMut>> + Send + Unpin + 'static,
    asked: mpsc::UnboundedSender<u64>,
    local: Arc<Local>,
) -> impl Stream<Item = AppendEntriesRequest<Group>> + Send + 'static {
    stream::unfold((stream, asked, local), move |(mut stream, asked, local)| async move {
        loop {
            let frame = timeout(local.limits.idle_max, stream.next()).await.ok()??.ok()?;
            match frame::decode(&frame) {
                Ok(AppendAsk::Ping) => {}
                Ok(AppendAsk::Append(..)) if local.shortage.exhausted().is_some() => return None,
                Ok(AppendAsk::Append(number, request)) => {
                    asked.send(number).ok()?;
                    return Some((request, (stream, asked, local)));
                }
                Err(e) => {
                    warn!(error = %e, "a peer sent an append that can't be read");
                    return None;
                }
            }
        }
    })
}
