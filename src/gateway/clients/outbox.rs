//! What waits to be written to one client: pure state, bounded, and what became of it.
//!
//! A push may arrive before its connection knows that it was granted: the grant is committed, another process has seen it,
//! and the answer to this gateway is still under way. Such a push waits here and leaves after the `welcome` or `rebound`.

use std::collections::VecDeque;
use std::sync::Arc;

use super::farewell::Farewell;
use super::subscribe::Reply;
use crate::directory::{Epoch, Revision};
use crate::gateway::answers::Ticket;
use crate::wire::client::PushTail;
use crate::wire::close::CloseCode;
use crate::wire::peer::{Ack, TargetStatus};

/// Counted for every message beside its payload: frame header, sequence number, grant and bookkeeping.
const MESSAGE_OVERHEAD: usize = 96;

/// Capacity that an empty queue may keep; a burst long ago should not cost memory for ever.
const KEPT_CAPACITY: usize = 16;

/// How the directory knows the connection now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) struct Bound {
    /// The session that holds it.
    pub(in crate::gateway) epoch: Epoch,
    /// When it was granted.
    pub(in crate::gateway) granted: Revision,
}

/// A grant that the client is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Announce {
    pub(super) bound: Bound,
    pub(super) revision: Revision,
    /// `welcome`; otherwise `rebound`.
    pub(super) first: bool,
}

/// One message for one client.
#[derive(Debug)]
pub(super) struct Push {
    pub(super) seq: u64,
    pub(super) tail: Arc<PushTail>,
    epoch: Epoch,
    ticket: Option<(Ticket, Ack)>,
}

impl Push {
    /// Writing it failed on the way: it may have arrived.
    pub(super) fn in_doubt(self) {
        settle(self.ticket, TargetStatus::Timeout);
    }
}

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

/// What became of a message that was to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entered {
    Queued,
    /// This connection is not the one that was meant, or it is ending.
    Gone,
    /// The lease that the connection was granted under is not held.
    Fenced,
    /// There is no room; the connection has to be closed.
    Full,
}

/// What is to be written now.
#[derive(Debug, Default)]
pub(super) struct Burst {
    pub(super) announce: Option<Announce>,
    pub(super) replies: Vec<Reply>,
    pub(super) pushes: Vec<Push>,
    pub(super) ping: bool,
    pub(super) farewell: Option<Farewell>,
}

impl Burst {
    /// The revision of the directory that the newest of the news is about.
    pub(super) fn confirms(&self) -> Option<Revision> {
        let announced = self.announce.map(|announce| announce.revision);
        self.replies.iter().map(Reply::revision).fold(announced, Option::max)
    }
}

/// What waits to be written to one client.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bound: Option<Bound>,
    /// The session that it is being registered in.
    expected: Option<Epoch>,
    /// Since when it waits for the place of another, milliseconds since the gateway started.
    pending_ms: Option<u64>,
    announce: Option<Announce>,
    ping: bool,
    /// Answers to requests. Each answers a frame, and a client that takes none sends no more of them than fit into its rate.
    replies: Vec<Reply>,
    pushes: VecDeque<Push>,
    /// Messages and bytes that wait or are being written.
    held: (usize, usize),
    last_seq: u64,
    unacked: VecDeque<(u64, Ticket)>,
    farewell: Option<Farewell>,
    finished: bool,
}

impl Outbox {
    pub(super) fn bound(&self) -> Option<Bound> {
        self.bound
    }

    /// Bytes that wait or are being written.
    pub(super) fn bytes(&self) -> usize {
        self.held.1
    }

    /// Why it is to be closed, if it is.
    pub(super) fn farewell(&self) -> Option<&Farewell> {
        self.farewell.as_ref()
    }

    /// Since when it waits for the place of another, if it does.
    pub(super) fn pending_ms(&self) -> Option<u64> {
        self.pending_ms
    }

    /// Whether the socket is closed.
    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether the directory knows it, or is about to, as a connection of this session.
    pub(super) fn is_of(&self, epoch: Epoch) -> bool {
        self.expected == Some(epoch) || self.bound.is_some_and(|bound| bound.epoch == epoch)
    }

    /// The session in which it can be pushed to now.
    pub(super) fn current(&self) -> Option<Epoch> {
        let epoch = self.expected.or(self.bound.map(|bound| bound.epoch));
        epoch.filter(|_| !self.is_ending() && self.pending_ms.is_none())
    }

    /// Whether it is to be closed, or is.
    pub(super) fn is_ending(&self) -> bool {
        self.finished || self.farewell.is_some()
    }

    /// A registration in a session is on its way.
    pub(super) fn expect(&mut self, epoch: Epoch) {
        self.expected = Some(epoch);
    }

    /// It waits for the place of another. Told again, or after its grant, that changes nothing.
    pub(super) fn pend(&mut self, epoch: Epoch, now_ms: u64) {
        if self.expected == Some(epoch) && !self.is_ending() {
            self.pending_ms.get_or_insert(now_ms);
        }
    }

    /// The registration is committed, and the place its own. The second of those who tell this changes nothing; then it is
    /// `false`.
    pub(super) fn grant(&mut self, bound: Bound, revision: Revision) -> bool {
        if self.expected != Some(bound.epoch) {
            return false;
        }
        self.pending_ms = None;
        let first = self.bound.is_none() || self.announce.is_some_and(|untold| untold.first);
        self.bound = Some(bound);
        self.expected = None;
        self.announce = Some(Announce { bound, revision, first });
        true
    }

    /// Takes a message in.
    pub(super) fn push(
        &mut self,
        epoch: Epoch,
        tail: &Arc<PushTail>,
        ticket: Option<(Ticket, Ack)>,
        room: Room,
    ) -> Entered {
        if self.is_ending() || !self.is_of(epoch) {
            return Entered::Gone;
        }
        let (messages, bytes) = (self.held.0 + 1, self.held.1 + tail.bytes() + MESSAGE_OVERHEAD);
        // A single message is taken whatever its size: the limit of its body was checked where it came in.
        if messages > 1 && (messages > room.messages || bytes > room.bytes) {
            settle(ticket, TargetStatus::Slow);
            return Entered::Full;
        }
        self.held = (messages, bytes);
        self.last_seq += 1;
        self.pushes.push_back(Push { seq: self.last_seq, tail: Arc::clone(tail), epoch, ticket });
        Entered::Queued
    }

    /// Answers a request.
    pub(super) fn reply(&mut self, reply: Reply) {
        if !self.is_ending() {
            self.replies.push(reply);
        }
    }

    /// Tells the client something; whether it has to be closed because it takes nothing.
    pub(super) fn notice(&mut self, text: &Arc<str>, room: Room) -> bool {
        let is_full = self.replies.len() >= room.messages && !self.is_ending();
        if is_full {
            self.close(CloseCode::SlowConsumer.into());
        }
        self.reply(Reply::notice(text));
        is_full
    }

    pub(super) fn ping(&mut self) {
        self.ping = true;
    }

    /// The connection is to be closed; the first reason counts, but for one that stops everything at once. What waits is
    /// given up, so that its senders can find the client elsewhere.
    pub(super) fn close(&mut self, farewell: Farewell) {
        let outdoes = |former: &Farewell| farewell.stops_at_once() && !former.stops_at_once();
        if !self.finished && self.farewell.as_ref().is_none_or(outdoes) {
            self.farewell = Some(farewell);
            self.pending_ms = None;
            self.give_up();
        }
    }

    /// Takes what is to be written now, about `bytes_max` of it.
    pub(super) fn take(&mut self, bytes_max: usize) -> Burst {
        if self.farewell.is_some() {
            return Burst { farewell: self.farewell.clone(), ..Burst::default() };
        }
        let (announce, ping) = (self.announce.take(), std::mem::take(&mut self.ping));
        let mut burst = Burst { announce, ping, ..Burst::default() };
        let Some(bound) = self.bound else { return burst };
        burst.replies = std::mem::take(&mut self.replies);
        let mut bytes = 0;
        while bytes < bytes_max {
            let ahead_of_its_grant = |push: &Push| push.epoch != bound.epoch && self.expected == Some(push.epoch);
            if self.pushes.front().is_none_or(ahead_of_its_grant) {
                break;
            }
            let Some(push) = self.pushes.pop_front() else { break };
            bytes += push.tail.bytes() + MESSAGE_OVERHEAD;
            burst.pushes.push(push);
        }
        if self.pushes.is_empty() && self.pushes.capacity() > KEPT_CAPACITY {
            self.pushes = VecDeque::new();
        }
        burst
    }

    /// A burst is in the socket.
    pub(super) fn written(&mut self, pushes: Vec<Push>, unacked_max: usize) {
        for push in pushes {
            self.held.0 = self.held.0.saturating_sub(1);
            self.held.1 = self.held.1.saturating_sub(push.tail.bytes() + MESSAGE_OVERHEAD);
            match push.ticket {
                None => {}
                Some((ticket, Ack::None | Ack::Written)) => ticket.settle(TargetStatus::Written),
                Some((mut ticket, Ack::Client)) => {
                    ticket.await_client();
                    self.await_ack(push.seq, ticket, unacked_max);
                }
            }
        }
    }

    fn await_ack(&mut self, seq: u64, ticket: Ticket, unacked_max: usize) {
        while self.unacked.front().is_some_and(|(_, oldest)| self.unacked.len() >= unacked_max || oldest.is_over()) {
            self.unacked.pop_front();
        }
        self.unacked.push_back((seq, ticket));
    }

    /// The client has everything up to `seq`.
    pub(super) fn acked(&mut self, seq: u64) {
        while self.unacked.front().is_some_and(|(oldest, _)| *oldest <= seq) {
            if let Some((_, ticket)) = self.unacked.pop_front() {
                ticket.settle(TargetStatus::Acked);
            }
        }
        if self.unacked.is_empty() && self.unacked.capacity() > KEPT_CAPACITY {
            self.unacked = VecDeque::new();
        }
    }

    /// The socket is closed.
    pub(super) fn finish(&mut self) {
        self.finished = true;
        self.pending_ms = None;
        self.give_up();
        self.held = (0, 0);
        self.unacked = VecDeque::new();
    }

    fn give_up(&mut self) {
        self.replies = Vec::new();
        for push in std::mem::take(&mut self.pushes) {
            self.held.0 = self.held.0.saturating_sub(1);
            self.held.1 = self.held.1.saturating_sub(push.tail.bytes() + MESSAGE_OVERHEAD);
        }
    }
}

/// What was not queued is told, where somebody waits for it.
pub(super) fn settle(ticket: Option<(Ticket, Ack)>, status: TargetStatus) {
    if let Some((ticket, _)) = ticket {
        ticket.settle(status);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::gateway::answers::Answers;

    const ROOM: Room = Room { messages: 3, bytes: 1000 };

    fn tail(payload: &str) -> Arc<PushTail> {
        Arc::new(PushTail::new("m-1", None, None, ("data", payload), false))
    }

    fn bound_to(epoch: Epoch) -> Outbox {
        let mut outbox = Outbox::default();
        outbox.expect(epoch);
        outbox.grant(Bound { epoch, granted: epoch + 1 }, epoch + 1);
        assert!(outbox.take(1 << 20).announce.is_some_and(|announce| announce.first));
        outbox
    }

    fn seqs(burst: &Burst) -> Vec<u64> {
        burst.pushes.iter().map(|push| push.seq).collect()
    }

    #[test]
    fn a_push_between_commit_and_welcome_leaves_after_the_welcome() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(5, &tail("1"), None, ROOM), Entered::Gone, "nothing was asked for yet");
        outbox.expect(5);
        assert_eq!(outbox.push(5, &tail("1"), None, ROOM), Entered::Queued);
        assert!(outbox.take(1 << 20).pushes.is_empty());
        outbox.grant(Bound { epoch: 5, granted: 9 }, 9);
        let burst = outbox.take(1 << 20);
        assert_eq!((burst.announce.map(|a| a.first), seqs(&burst)), (Some(true), vec![1]));
    }

    #[test]
    fn a_new_session_changes_who_is_meant_and_holds_back_what_is_ahead_of_its_grant() {
        let mut outbox = bound_to(5);
        outbox.expect(8);
        assert_eq!(outbox.push(5, &tail("1"), None, ROOM), Entered::Queued, "still reached under its old id");
        assert_eq!(outbox.push(8, &tail("2"), None, ROOM), Entered::Queued);
        assert_eq!(seqs(&outbox.take(1 << 20)), [1]);
        outbox.grant(Bound { epoch: 8, granted: 12 }, 12);
        assert_eq!(outbox.push(5, &tail("3"), None, ROOM), Entered::Gone);
        let burst = outbox.take(1 << 20);
        assert_eq!((burst.announce.map(|a| a.first), seqs(&burst)), (Some(false), vec![2]));
    }

    #[test]
    fn room_is_given_back_when_a_message_is_written_and_not_when_it_is_taken() {
        let mut outbox = bound_to(5);
        for _ in 0..3 {
            assert_eq!(outbox.push(5, &tail("1"), None, ROOM), Entered::Queued);
        }
        let burst = outbox.take(1 << 20);
        assert_eq!(outbox.push(5, &tail("1"), None, ROOM), Entered::Full);
        outbox.written(burst.pushes, 10);
        assert_eq!(outbox.bytes(), 0);
        assert_eq!(outbox.push(5, &tail(&"1".repeat(2000)), None, ROOM), Entered::Queued, "alone, whatever its size");
        assert_eq!(outbox.push(5, &tail("1"), None, ROOM), Entered::Full);
    }

    #[tokio::test(start_paused = true)]
    async fn each_way_to_acknowledge_has_its_moment() {
        let answers = Answers::new(4);
        let mut outbox = bound_to(5);
        let wide = Room { messages: 10, bytes: 10_000 };
        for (target, ack) in [Ack::Written, Ack::Client, Ack::Client, Ack::Written].into_iter().enumerate() {
            assert_eq!(outbox.push(5, &tail("1"), Some((answers.ticket(target), ack)), wide), Entered::Queued);
        }
        let burst = outbox.take(3 * (MESSAGE_OVERHEAD + 20));
        assert_eq!(seqs(&burst), [1, 2, 3]);
        outbox.written(burst.pushes, 10);
        outbox.acked(2);
        outbox.finish();
        let got = answers.wait(Duration::from_secs(1)).await;
        assert_eq!(got, [TargetStatus::Written, TargetStatus::Acked, TargetStatus::Timeout, TargetStatus::Gone]);
    }

    #[test]
    fn a_grant_is_told_once_whoever_brings_it_and_only_for_what_was_asked() {
        let mut outbox = Outbox::default();
        outbox.expect(5);
        outbox.pend(5, 100);
        outbox.pend(5, 200);
        assert_eq!(outbox.pending_ms(), Some(100));
        outbox.grant(Bound { epoch: 4, granted: 8 }, 8);
        assert_eq!((outbox.bound(), outbox.pending_ms()), (None, Some(100)), "of another session");
        let bound = Bound { epoch: 5, granted: 9 };
        outbox.grant(bound, 9);
        assert!(outbox.take(1).announce.is_some_and(|announce| announce.first));
        outbox.grant(bound, 9);
        outbox.pend(5, 300);
        assert_eq!((outbox.take(1).announce, outbox.pending_ms()), (None, None));
    }

    #[test]
    fn what_stops_everything_outdoes_a_polite_goodbye_and_nothing_else_does() {
        let mut outbox = bound_to(5);
        for (code, counts) in [
            (CloseCode::Drain, CloseCode::Drain),
            (CloseCode::NoPong, CloseCode::Drain),
            (CloseCode::Superseded, CloseCode::Superseded),
            (CloseCode::Kicked, CloseCode::Superseded),
        ] {
            outbox.close(code.into());
            assert_eq!(outbox.farewell().map(|farewell| farewell.code), Some(counts));
        }
    }

    #[test]
    fn the_first_reason_to_close_counts_and_nothing_enters_or_leaves_afterwards() {
        for code in [CloseCode::Drain, CloseCode::Superseded, CloseCode::Kicked] {
            let mut outbox = bound_to(5);
            outbox.push(5, &tail("1"), None, ROOM);
            outbox.close(code.into());
            outbox.close(CloseCode::NoPong.into());
            assert_eq!(outbox.push(5, &tail("1"), None, ROOM), Entered::Gone);
            let burst = outbox.take(1 << 20);
            assert_eq!((burst.farewell.map(|f| f.code), burst.pushes.len()), (Some(code), 0));
        }
    }
}
