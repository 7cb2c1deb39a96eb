//! What openraft sends to another member.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, Stream, StreamExt, stream};
use openraft::alias;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption, RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{LogIdOptionExt, OptionalSend};
use tokio::time::{Instant, Sleep, sleep_until};

use super::frame::{self, AppendAnswer, AppendAsk, Purpose, VoteAnswer, VoteAsk};
use super::link::{Lines, Link, LinkError, Local};
use super::transfer;
use crate::entry::{Group, Seat, Vote};
use crate::settings::NodeId;
use crate::snapshot::SnapshotFile;

/// Appends on the way to one member at once. The accepting side's openraft takes as many.
const PIPELINE_MAX: usize = 64;
/// Pauses between attempts to reach a member: short at first, so that a restarted one is back quickly.
const BACKOFF: [Duration; 4] =
    [Duration::from_millis(20), Duration::from_millis(50), Duration::from_millis(100), Duration::from_millis(200)];

type RpcResult<T> = Result<T, RPCError<Group>>;

/// Makes the senders.
pub(crate) struct Peers {
    local: Arc<Local>,
    lines: Arc<Lines>,
}

impl Peers {
    pub(crate) fn new(local: Arc<Local>, lines: Arc<Lines>) -> Peers {
        Peers { local, lines }
    }

    fn peer(&self, to: NodeId, seat: &Seat, purpose: Purpose) -> Peer {
        Peer {
            local: self.local.clone(),
            lines: self.lines.clone(),
            to,
            seat: seat.clone(),
            purpose,
            link: Mutex::new(None),
        }
    }
}

impl RaftNetworkFactory<Group> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, node: &Seat) -> Peer {
        self.peer(target, node, Purpose::Append)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &Seat) -> Peer {
        self.peer(target, node, Purpose::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &Seat) -> Peer {
        self.peer(target, node, Purpose::Snapshot)
    }
}

/// Sends to one member, for one purpose; votes go over kept lines whatever the purpose.
pub(crate) struct Peer {
    local: Arc<Local>,
    lines: Arc<Lines>,
    to: NodeId,
    seat: Seat,
    purpose: Purpose,
    /// Kept between sessions. Never contended: the lock only tells that streams need not be shareable.
    link: Mutex<Option<Link>>,
}

/// A member that can't be reached or refuses is tried again after a pause; a connection that broke, at once.
fn unreachable(e: &LinkError) -> Unreachable<Group> {
    tracing::debug!(error = %e, "no connection");
    Unreachable::from_string(e)
}

fn broken(to: NodeId, e: &io::Error) -> RPCError<Group> {
    tracing::debug!(to, error = %e, "a connection broke");
    RPCError::Network(NetworkError::from_string(format!("the connection to node {to} broke: {e}")))
}

impl Peer {
    /// Takes the kept link, or opens one.
    async fn take_link(&mut self, within: Duration) -> Result<Link, LinkError> {
        let kept = self.kept().take();
        match kept.and_then(|mut link| link.is_open(within).then_some(link)) {
            Some(link) => Ok(link),
            None => Link::open(&self.local, self.to, &self.seat, self.purpose).await,
        }
    }

    fn kept(&mut self) -> &mut Option<Link> {
        self.link.get_mut().expect("nothing panics while it holds a link")
    }

    async fn ask(&self, ask: VoteAsk, option: &RPCOption) -> RpcResult<VoteAnswer> {
        let to = (self.to, &self.seat);
        let asked = self.lines.call(&self.local, to, Purpose::Vote, &ask, option.soft_ttl()).await;
        asked.map_err(|e| RPCError::Unreachable(unreachable(&e)))
    }

    fn stopped(&self) -> RPCError<Group> {
        RPCError::Unreachable(Unreachable::from_string(format!("node {} is stopping", self.to)))
    }
}

impl NetBackoff<Group> for Peer {
    fn backoff(&self) -> Option<Backoff> {
        let last = BACKOFF[BACKOFF.len() - 1];
        Some(Backoff::new(BACKOFF.into_iter().chain(std::iter::repeat(last))))
    }
}

impl NetVote<Group> for Peer {
    async fn vote(&mut self, rpc: VoteRequest<Group>, option: RPCOption) -> RpcResult<VoteResponse<Group>> {
        match self.ask(VoteAsk::Vote(rpc), &option).await? {
            VoteAnswer::Vote(answer) => Ok(answer),
            VoteAnswer::Transfer(_) | VoteAnswer::Stopped => Err(self.stopped()),
        }
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<Group>, option: RPCOption) -> RpcResult<VoteResponse<Group>> {
        match self.ask(VoteAsk::PreVote(rpc), &option).await? {
            VoteAnswer::Vote(answer) => Ok(answer),
            VoteAnswer::Transfer(_) | VoteAnswer::Stopped => Err(self.stopped()),
        }
    }
}

impl NetTransferLeader<Group> for Peer {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Group>,
        option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<Group>> {
        match self.ask(VoteAsk::Transfer(req), &option).await? {
            VoteAnswer::Transfer(answer) => Ok(answer),
            VoteAnswer::Vote(_) | VoteAnswer::Stopped => Err(self.stopped()),
        }
    }
}

impl NetSnapshot<Group> for Peer {
    type SnapshotData = SnapshotFile;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: alias::SnapshotOf<Group, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Group>, StreamingError<Group>> {
        let send = async {
            let within = self.local.limits.idle_max;
            let mut link = self.take_link(within).await.map_err(|e| unreachable(&e))?;
            let _on_its_way = self.local.behind.sending();
            let sent = transfer::send(&mut link.wire, vote, snapshot.snapshot, &self.local.limits).await;
            let answer = sent.map_err(|e| {
                tracing::warn!(to = self.to, error = %e, "a snapshot could not be sent");
                // With a pause: at once, the whole file would travel again and again.
                Unreachable::from_string(format!("a snapshot for node {}: {e}", self.to))
            })?;
            Ok::<_, StreamingError<Group>>((answer, link))
        };
        let (answer, link) = tokio::select! {
            closed = cancel => return Err(StreamingError::Closed(closed)),
            sent = send => sent?,
        };
        *self.kept() = Some(link);
        Ok(answer)
    }
}

impl NetStreamAppend<Group> for Peer {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, RpcResult<BoxStream<'s, RpcResult<StreamAppendResult<Group>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<Group>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            // openraft's time to live is that of a heartbeat. A follower's disk may stall for longer, which is no
            // reason to send everything again; silence beyond this is.
            let within = match self.purpose {
                Purpose::Heartbeat => (self.local.heartbeat * 3).max(option.soft_ttl()),
                _ => self.local.limits.answer_within.max(option.soft_ttl()),
            };
            let link = self.take_link(within).await.map_err(|e| RPCError::Unreachable(unreachable(&e)))?;
            let session = Session::new(self, link, input, within);
            let answers = stream::unfold(session, |mut session| async move {
                let answer = std::future::poll_fn(|cx| session.poll_answer(cx)).await?;
                Some((answer, session))
            });
            Ok(answers.boxed())
        })
    }
}

/// One stream of appends. Reads and writes make progress independently; answers come in the order of the requests.
struct Session<'s, S> {
    peer: &'s mut Peer,
    link: Option<Link>,
    input: S,
    input_ended: bool,
    /// Numbers of the requests not yet answered.
    outstanding: VecDeque<u64>,
    unflushed: bool,
    within: Duration,
    /// When silence has lasted too long; or, with nothing outstanding, when to show that the connection is wanted.
    timer: Pin<Box<Sleep>>,
}

/// The link goes back for the next session, also when openraft drops this one half-way: what was handed to it is whole
/// frames, and answers that come late are known by their numbers.
impl<S> Drop for Session<'_, S> {
    fn drop(&mut self) {
        *self.peer.kept() = self.link.take();
    }
}

impl<'s, S> Session<'s, S>
where
    S: Stream<Item = AppendEntriesRequest<Group>> + Unpin,
{
    fn new(peer: &'s mut Peer, link: Link, input: S, within: Duration) -> Session<'s, S> {
        let timer = Box::pin(sleep_until(Instant::now() + peer.local.limits.idle_max / 3));
        Session {
            peer,
            link: Some(link),
            input,
            input_ended: false,
            outstanding: VecDeque::new(),
            unflushed: false,
            within,
            timer,
        }
    }

    /// Something was sent or received just now.
    fn restart_timer(&mut self) {
        let (now, waiting) = (Instant::now(), !self.outstanding.is_empty());
        if let Some(link) = &mut self.link {
            link.silent_since = waiting.then_some(now);
        }
        let pause = if waiting { self.within } else { self.peer.local.limits.idle_max / 3 };
        self.timer.as_mut().reset(now + pause);
    }

    /// The first request is on its way. A link that has been silent since a session before this one keeps that time.
    fn wait_for_answer(&mut self) {
        let since = self.link.as_ref().and_then(|link| link.silent_since);
        self.restart_timer();
        if let (Some(link), Some(since)) = (&mut self.link, since) {
            link.silent_since = Some(since);
        }
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<RpcResult<StreamAppendResult<Group>>>> {
        if self.link.is_none() {
            return Poll::Ready(None);
        }
        let answer = match self.poll_io(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(None)) => return Poll::Ready(None),
            Poll::Ready(Ok(Some(answer))) => answer,
            Poll::Ready(Err(e)) => {
                self.link = None;
                return Poll::Ready(Some(Err(broken(self.peer.to, &e))));
            }
        };
        if answer.is_err() {
            // After a conflict or a higher vote the other side reads no further on this stream.
            self.link = None;
        }
        Poll::Ready(Some(Ok(answer)))
    }

    fn poll_io(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<StreamAppendResult<Group>>>> {
        loop {
            if let Poll::Ready(answer) = self.poll_receive(cx)? {
                return Poll::Ready(Ok(Some(answer)));
            }
            self.poll_send(cx)?;
            if self.input_ended && self.outstanding.is_empty() && !self.unflushed {
                return Poll::Ready(Ok(None));
            }
            ready!(self.timer.as_mut().poll(cx));
            if !self.outstanding.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.ping(cx)?;
        }
    }

    fn wire(&mut self) -> Pin<&mut frame::Wire> {
        Pin::new(&mut self.link.as_mut().expect("checked before every poll").wire)
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<StreamAppendResult<Group>>> {
        loop {
            let frame = ready!(self.wire().poll_next(cx)).ok_or(io::ErrorKind::UnexpectedEof)??;
            let AppendAnswer { number, short, result: answer } = frame::decode(&frame)?;
            self.peer.local.shortage.told(self.peer.to, short);
            match self.outstanding.front() {
                Some(expected) if *expected == number => {
                    self.outstanding.pop_front();
                    self.restart_timer();
                    return Poll::Ready(Ok(answer));
                }
                Some(expected) if *expected < number => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "answers out of order")));
                }
                // Late, for a session before this one.
                _ if answer.is_err() => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                _ => {}
            }
        }
    }

    /// Sends what there is to send, as far as the pipeline and the stream take it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.input_ended && self.outstanding.len() < PIPELINE_MAX {
            match Sink::<Bytes>::poll_ready(self.wire(), cx)? {
                Poll::Pending => break,
                Poll::Ready(()) => {}
            }
            match self.input.poll_next_unpin(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => self.input_ended = true,
                Poll::Ready(Some(request)) => {
                    if !self.peer.local.behind.may_stream(request.prev_log_id.index()) {
                        let why = "the entries that it needs are given up; it gets a snapshot";
                        return Err(io::Error::new(io::ErrorKind::ConnectionAborted, why));
                    }
                    let link = self.link.as_mut().expect("checked before every poll");
                    let number = link.next;
                    link.next += 1;
                    let frame = frame::encode(&AppendAsk::Append(number, request))?;
                    Pin::new(&mut link.wire).start_send(frame)?;
                    self.outstanding.push_back(number);
                    self.unflushed = true;
                    if self.outstanding.len() == 1 {
                        self.wait_for_answer();
                    }
                }
            }
        }
        if self.unflushed && Sink::<Bytes>::poll_flush(self.wire(), cx)?.is_ready() {
            self.unflushed = false;
        }
        Ok(())
    }

    fn ping(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.restart_timer();
        if Sink::<Bytes>::poll_ready(self.wire(), cx)?.is_ready() {
            let ping = frame::encode(&AppendAsk::Ping)?;
            self.wire().start_send(ping)?;
            self.unflushed = true;
        }
        Ok(())
    }
}
