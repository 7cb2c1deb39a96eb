//! Proposals: what many gateways ask at the same time shares log entries.
//!
//! There is no artificial wait. A few entries are under way at once; what arrives meanwhile goes into the next one. So a
//! lone proposal leaves at once, and the entries grow with the load.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use metrics::Histogram;
use switchboard_raft::{ProposeError, Proposed, Raft, Space};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::replicated::{decode_reply, encode_entry};
use crate::clock;
use crate::directory::{Command, Entry, Op, Outcome, Revision};
use crate::wire::peer::Failure;

/// Proposals that wait for an entry. More are refused at once, as overload, before they cost anything.
const WAITING_MAX: usize = 8192;

/// Entries under way. Few, because the log shares flushes anyway and larger entries are cheaper than more of them.
const ENTRIES_IN_FLIGHT_MAX: usize = 8;

/// Operations in one entry: bounds the time for which applying it holds readers up.
const ENTRY_OPS_MAX: usize = 1024;

/// Bytes of one entry, by estimate: well below what the log takes, so that sharing an entry never makes it too large.
const ENTRY_BYTES_MAX: usize = 256 << 10;

/// What became of a proposal.
pub(super) type Decided = Result<(Revision, Outcome), Failure>;

/// Where proposals are handed in. Those that one task hands in are decided in that order.
#[derive(Debug, Clone)]
pub(super) struct Proposals {
    raft: Raft,
    queue: mpsc::Sender<Waiting>,
}

/// A proposal that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    command: Command,
    decided: oneshot::Sender<Decided>,
}

/// A proposal that was handed in.
#[derive(Debug)]
pub(super) struct Pending(oneshot::Receiver<Decided>);

impl Pending {
    pub(super) async fn decided(self) -> Decided {
        // The task that decides is gone only when the process stops; what it had handed on may still be committed.
        self.0.await.unwrap_or(Err(Failure::Unknown))
    }
}

impl Proposals {
    /// The place to hand in, and the task's end of the queue.
    pub(super) fn new(raft: Raft) -> (Self, mpsc::Receiver<Waiting>) {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        (Self { raft, queue }, waiting)
    }

    /// Hands in a command. One that adds something is refused here while there is no space, so that it never shares an
    /// entry with one that frees something.
    pub(super) fn submit(&self, command: Command) -> Result<Pending, Failure> {
        if !is_essential(&command)
            && let Some((node, space)) = self.raft.refuses()
        {
            return Err(no_space(node, &space));
        }
        let (decided, pending) = oneshot::channel();
        self.queue.try_send(Waiting { command, decided }).map_err(|_| Failure::Overloaded)?;
        Ok(Pending(pending))
    }

    /// Hands in a command and waits for what becomes of it.
    pub(super) async fn propose(&self, command: Command) -> Decided {
        self.submit(command)?.decided().await
    }
}

type UnderWay = Pin<Box<dyn Future<Output = (Vec<oneshot::Sender<Decided>>, Result<Proposed, ProposeError>)> + Send>>;

/// Takes what waits, makes entries of it and proposes them in order, until nobody can hand in any more.
pub(super) async fn run(raft: Raft, mut queue: mpsc::Receiver<Waiting>, process: Arc<str>) {
    let commands = metrics::histogram!("switchboard_raft_batch_commands", "process" => Arc::clone(&process));
    let duration = metrics::histogram!("switchboard_raft_proposal_duration_seconds", "process" => process);
    let mut under_way: FuturesUnordered<UnderWay> = FuturesUnordered::new();
    let mut waiting = VecDeque::new();
    let mut arrived = Vec::new();
    loop {
        while under_way.len() < ENTRIES_IN_FLIGHT_MAX && !waiting.is_empty() {
            let (entry, deciders) = take_entry(&mut waiting);
            commands.record(entry.commands.len() as f64);
            let mut proposal = propose(raft.clone(), entry, deciders, duration.clone());
            // Polled once now: entries reach the log in the order in which they were made.
            match futures_util::poll!(&mut proposal) {
                Poll::Ready((deciders, result)) => decide(deciders, result),
                Poll::Pending => under_way.push(proposal),
            }
        }
        tokio::select! {
            Some((deciders, result)) = under_way.next() => decide(deciders, result),
            count = queue.recv_many(&mut arrived, WAITING_MAX), if waiting.len() < WAITING_MAX => {
                if count == 0 {
                    return;
                }
                waiting.extend(arrived.drain(..));
            }
        }
    }
}

/// Takes as many commands as go into one entry. A command about a session goes alone: its revision is then the epoch, and
/// whoever lists what the end of a session closed finds the state right after it.
fn take_entry(waiting: &mut VecDeque<Waiting>) -> (Entry, Vec<oneshot::Sender<Decided>>) {
    let mut entry = Entry { at_ms: clock::wall_ms(), commands: Vec::new() };
    let mut deciders = Vec::new();
    let (mut ops, mut bytes) = (0, 0);
    while let Some(next) = waiting.front() {
        let (alone, more_ops, more_bytes) = match &next.command {
            Command::OpenSession(_) | Command::EndSession { .. } => (true, 1, 0),
            Command::Batch(batch) => (false, batch.size(), batch.ops.iter().map(op_bytes).sum()),
            Command::Reclaim { limit, .. } => (false, *limit as usize, 0),
            // What they cost is bounded by the connections of one user.
            Command::ReleaseClaims { .. } | Command::Disconnect(_) | Command::Unban { .. } => (false, 1, 0),
            Command::Ban { ban, .. } => (false, 1, ban.reason.as_ref().map_or(0, |reason| reason.len())),
        };
        let full = ops + more_ops > ENTRY_OPS_MAX || bytes + more_bytes > ENTRY_BYTES_MAX;
        if !entry.commands.is_empty() && (alone || full) {
            break;
        }
        let next = waiting.pop_front().expect("it was just seen");
        ops += more_ops;
        bytes += more_bytes;
        entry.commands.push(next.command);
        deciders.push(next.decided);
        if alone {
            break;
        }
    }
    (entry, deciders)
}

/// Whether a command ends or frees something. It may use up space that is kept free.
fn is_essential(command: &Command) -> bool {
    match command {
        Command::EndSession { .. }
        | Command::ReleaseClaims { .. }
        | Command::Reclaim { .. }
        | Command::Disconnect(_)
        | Command::Unban { .. } => true,
        Command::Batch(batch) => batch.ops.iter().all(|op| matches!(op, Op::Unregister { .. } | Op::Leave { .. })),
        Command::OpenSession(_) | Command::Ban { .. } => false,
    }
}

/// Bytes of an operation in an entry, rounded up.
fn op_bytes(op: &Op) -> usize {
    const NUMBERS: usize = 40;
    let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
    NUMBERS
        + match op {
            Op::Register(r) => r.user.len() + r.device.len() + text(&r.remote) + text(&r.meta),
            Op::Unregister { .. } => 0,
            Op::Meta { meta, .. } => meta.len(),
            Op::Join { topics } | Op::Leave { topics } => topics.iter().map(|topic| topic.len() + 2).sum(),
        }
}

fn propose(raft: Raft, entry: Entry, deciders: Vec<oneshot::Sender<Decided>>, duration: Histogram) -> UnderWay {
    Box::pin(async move {
        let began = Instant::now();
        let bytes = encode_entry(&entry).into();
        let essential = entry.commands.iter().all(is_essential);
        let result = if essential { raft.propose_essential(bytes).await } else { raft.propose(bytes).await };
        duration.record(began.elapsed());
        (deciders, result)
    })
}

fn decide(deciders: Vec<oneshot::Sender<Decided>>, result: Result<Proposed, ProposeError>) {
    match result {
        Ok(Proposed { index, reply }) => {
            for (decider, outcome) in deciders.into_iter().zip(decode_reply(&reply)) {
                // Whoever asked may have stopped waiting.
                let _ = decider.send(Ok((index, outcome)));
            }
        }
        Err(error) => {
            let failure = failure_of(error);
            for decider in deciders {
                let _ = decider.send(Err(failure.clone()));
            }
        }
    }
}

/// What a proposal that failed means to whoever asked. Only what is certainly not applied is called so.
pub(super) fn failure_of(error: ProposeError) -> Failure {
    match error {
        ProposeError::NotLeader { leader } => {
            Failure::NotLeader { leader: leader.map(|(id, addresses)| (id, addresses.peer)) }
        }
        ProposeError::NoQuorum => Failure::NoQuorum,
        ProposeError::Overloaded => Failure::Overloaded,
        ProposeError::NoSpace { node, space } => no_space(node, &space),
        ProposeError::TooLarge { .. } => Failure::Refused { why: error.to_string() },
        ProposeError::Stopped => Failure::NotLeader { leader: None },
        ProposeError::Unknown => Failure::Unknown,
    }
}

fn no_space(node: u64, space: &Space) -> Failure {
    let dir = space.dir.display().to_string();
    Failure::NoSpace { node, dir, free_bytes: space.free, reserve_bytes: space.reserve }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::{Batch, Reason};

    fn waiting(command: Command) -> Waiting {
        Waiting { command, decided: oneshot::channel().0 }
    }

    fn batch(ops: usize) -> Command {
        let ops = (0..ops as u64).map(|serial| Op::Unregister { serial, reason: Reason::Closed }).collect();
        Command::Batch(Batch { epoch: 1, seq: None, ops })
    }

    #[test]
    fn batches_share_an_entry_up_to_its_limit_and_session_commands_stand_alone() {
        let end = Command::EndSession { epoch: 1, reason: Reason::Closed, fenced: true };
        let commands = [batch(2), batch(3), end, batch(1), batch(ENTRY_OPS_MAX), batch(ENTRY_OPS_MAX + 1)];
        let mut queue: VecDeque<_> = commands.into_iter().map(waiting).collect();
        let sizes: Vec<usize> =
            std::iter::from_fn(|| (!queue.is_empty()).then(|| take_entry(&mut queue).0.commands.len())).collect();
        assert_eq!(sizes, [2, 1, 1, 1, 1]);
    }

    #[test]
    fn topics_take_room_like_operations() {
        let join = |count: usize| Op::Join { topics: vec!["t".into(); count] };
        let batch = |ops| Command::Batch(Batch { epoch: 1, seq: None, ops });
        let half = ENTRY_OPS_MAX / 2;
        let commands = [batch(vec![join(half), join(half)]), batch(vec![join(1)]), batch(vec![join(half)])];
        let mut queue: VecDeque<_> = commands.into_iter().map(waiting).collect();
        assert_eq!((take_entry(&mut queue).0.commands.len(), take_entry(&mut queue).0.commands.len()), (1, 2));
    }
}
