//! What became of one delivery, gathered from the sockets that it was meant for, without a task for any of them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::wire::peer::TargetStatus;

/// The statuses of one delivery as they come in.
#[derive(Debug)]
pub(super) struct Answers {
    state: Mutex<State>,
    complete: Notify,
}

#[derive(Debug)]
struct State {
    statuses: Vec<Option<TargetStatus>>,
    open: usize,
    /// Nobody waits any more.
    over: bool,
}

impl Answers {
    /// For so many targets, none of which is settled.
    pub(super) fn new(targets: usize) -> Arc<Self> {
        let state = State { statuses: vec![None; targets], open: targets, over: false };
        Arc::new(Self { state: Mutex::new(state), complete: Notify::new() })
    }

    /// The place of one target.
    pub(super) fn ticket(self: &Arc<Self>, target: usize) -> Ticket {
        Ticket { answers: Arc::clone(self), target, otherwise: TargetStatus::Gone }
    }

    /// Settles one target; the first status counts.
    pub(super) fn settle(&self, target: usize, status: TargetStatus) {
        let mut state = self.state();
        if state.statuses[target].is_none() {
            state.statuses[target] = Some(status);
            state.open -= 1;
            if state.open == 0 {
                self.complete.notify_one();
            }
        }
    }

    /// All statuses, in order, after at most that time; what is open then has timed out.
    pub(super) async fn wait(&self, within: Duration) -> Vec<TargetStatus> {
        if self.state().open > 0 {
            // Whether it is complete or too late, what is there is the answer.
            let _ = timeout(within, self.complete.notified()).await;
        }
        let mut state = self.state();
        state.over = true;
        state.statuses.iter().map(|status| status.unwrap_or(TargetStatus::Timeout)).collect()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while holding this lock")
    }
}

/// The duty to settle one target. Dropping it settles the target as gone: nothing was written.
#[derive(Debug)]
pub(super) struct Ticket {
    answers: Arc<Answers>,
    target: usize,
    otherwise: TargetStatus,
}

impl Ticket {
    /// Settles the target.
    pub(super) fn settle(self, status: TargetStatus) {
        self.answers.settle(self.target, status);
    }

    /// It was written and waits for the client: dropping the ticket now means that no acknowledgement came.
    pub(super) fn await_client(&mut self) {
        self.otherwise = TargetStatus::Timeout;
    }

    /// Whether nobody waits any more.
    pub(super) fn is_over(&self) -> bool {
        self.answers.state().over
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.answers.settle(self.target, self.otherwise);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn statuses_come_in_order_and_what_is_open_at_the_end_timed_out() {
        let answers = Answers::new(4);
        let mut tickets: Vec<_> = (0..4).map(|target| answers.ticket(target)).collect();
        let open = tickets.remove(1);
        tickets.remove(1).settle(TargetStatus::Acked);
        let mut written = tickets.remove(1);
        written.await_client();
        drop(written);
        drop(tickets);
        let got = answers.wait(Duration::from_secs(1)).await;
        assert_eq!(got, [TargetStatus::Gone, TargetStatus::Timeout, TargetStatus::Acked, TargetStatus::Timeout]);
        assert!(open.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_ticket_ends_the_wait() {
        let answers = Answers::new(1);
        let ticket = answers.ticket(0);
        let (got, ()) = tokio::join!(answers.wait(Duration::from_secs(3600)), async {
            tokio::task::yield_now().await;
            ticket.settle(TargetStatus::Written);
        });
        assert_eq!(got, [TargetStatus::Written]);
        let none = Answers::new(0).wait(Duration::from_secs(3600)).await;
        assert!(none.is_empty());
    }
}
