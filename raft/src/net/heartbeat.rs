//! Heartbeats on the accepting side: openraft hears every one of them, and none waits for the disk.
//!
//! openraft answers an append, also one without entries, once everything that it accepted before is on disk. A leader
//! whose followers' disks stand still would so lose its majority, and with it reads and the renewals of leases, although
//! everybody is there. So a heartbeat that is not answered within a part of a heartbeat is answered here.
//!
//! *What an answer means.* The leader ignores the value of an `Ok` heartbeat: what counts is that the follower has, after
//! the leader sent it, not taken part in electing another one. That confirms reads (ReadIndex) and the leader's hold on a
//! majority. It says nothing about entries, which have a stream of their own whose answers do wait for the disk.
//!
//! *Why it is true.* Let a leader of a later term exist before the heartbeat was sent. A majority granted it its votes, and
//! one of these members is among those that now answer. Either openraft itself answers: it compares the heartbeat's vote
//! with its own, which it raises before it grants anything. Or, when openraft's loop waits for the disk and can't say,
//! the vote that the log holds in memory decides: it is set before the vote is written, a grant is sent only after that,
//! and votes only grow. In both cases the member would find a later vote and not answer `Ok`. It matters that this is
//! looked at after the heartbeat arrived: what openraft said about an earlier one is never an answer to this one.
//!
//! *How openraft hears them.* One heartbeat at most waits for the disk inside openraft. As long as it does, the ones behind
//! are turned into a question that openraft answers at once: an append behind an entry that nobody has. Openraft notes that
//! its leader lives, finds no such entry, and says so without touching the log.

use std::io;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, SinkExt, StreamExt};
use openraft::errors::RaftError;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult};
use tokio::time::timeout;

use super::frame::{self, AppendAnswer, AppendAsk, Wire};
use super::link::Local;
use crate::apply::Applier;
use crate::entry::{Group, LogId};
use crate::log::LogReader;

type OpenRaft = openraft::Raft<Group, Applier>;
type Heartbeat = AppendEntriesRequest<Group>;
type Answered = Result<AppendEntriesResponse<Group>, RaftError<Group>>;

/// What each of two questions to openraft may take is a heartbeat divided by this. The leader gives up after a whole one.
const PATIENCE_PARTS: u32 = 4;

/// The heartbeats of one stream.
pub(super) struct Heartbeats<'a> {
    raft: &'a OpenRaft,
    log: &'a LogReader,
    local: &'a Local,
    /// The one that openraft keeps until the disk is through.
    waiting: Option<BoxFuture<'static, Answered>>,
}

impl<'a> Heartbeats<'a> {
    pub(super) fn new(raft: &'a OpenRaft, log: &'a LogReader, local: &'a Local) -> Heartbeats<'a> {
        Heartbeats { raft, log, local, waiting: None }
    }

    /// Answers until the stream ends, or until the leader was refused.
    pub(super) async fn serve(mut self, mut wire: Wire) -> io::Result<()> {
        let idle_max = self.local.limits.idle_max;
        while let Some(frame) = timeout(idle_max, wire.next()).await? {
            let AppendAsk::Append(number, heartbeat) = frame::decode(&frame?)? else { continue };
            let result = self.answer(heartbeat).await?;
            let refused = result.is_err();
            if !refused {
                self.local.shortage.heard_leader();
            }
            let answer = AppendAnswer { number, short: self.local.shortage.tell(), result };
            timeout(idle_max, wire.send(frame::encode(&answer)?)).await??;
            if refused {
                break;
            }
        }
        Ok(())
    }

    async fn answer(&mut self, heartbeat: Heartbeat) -> io::Result<StreamAppendResult<Group>> {
        let patience = self.local.heartbeat / PATIENCE_PARTS;
        let (vote, sign) = (heartbeat.vote, sign_of_life(&heartbeat));
        if self.waiting.as_mut().is_some_and(|waiting| waiting.now_or_never().is_some()) {
            self.waiting = None;
        }
        if self.waiting.is_none() {
            let conflict = heartbeat.prev_log_id.map_or(Ok(None), |prev| Err(StreamAppendError::Conflict(prev)));
            let mut asked = self.ask(heartbeat);
            match timeout(patience, &mut asked).await {
                Ok(answered) => return told(answered, conflict),
                Err(_) => self.waiting = Some(asked),
            }
        }
        let mut asked = self.ask(sign);
        match timeout(patience, &mut asked).await {
            Ok(answered) => told(answered, Ok(None)),
            Err(_) if self.log.vote() == Some(vote) => Ok(Ok(None)),
            Err(_) => told(asked.await, Ok(None)),
        }
    }

    fn ask(&self, append: Heartbeat) -> BoxFuture<'static, Answered> {
        let raft = self.raft.clone();
        async move { raft.append_entries(append).await }.boxed()
    }
}

/// The heartbeat behind an entry that nobody has.
fn sign_of_life(heartbeat: &Heartbeat) -> Heartbeat {
    let nobodys = LogId { leader_id: heartbeat.vote.leader_id, index: u64::MAX };
    Heartbeat { prev_log_id: Some(nobodys), ..heartbeat.clone() }
}

/// openraft's answer as the leader reads it.
fn told(answered: Answered, conflict: StreamAppendResult<Group>) -> io::Result<StreamAppendResult<Group>> {
    Ok(match answered.map_err(io::Error::other)? {
        AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_) => Ok(None),
        AppendEntriesResponse::Conflict => conflict,
        AppendEntriesResponse::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote)),
    })
}
