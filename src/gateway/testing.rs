//! A directory in memory for tests, behind the interface that gateways ask, with everything that can go wrong on the way.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::asking::Ask;
use crate::directory::{
    Batch, BatchRefused, Command, Directory, Entry, Epoch, GatewayAddresses, OpenSession, Outcome, Reason,
};
use crate::wire::peer::{Answer, Failure, RequestBody};

/// A directory in memory. Requests take effect in the order of their first polls, unless something goes wrong.
#[derive(Clone)]
pub(super) struct World(Arc<Mutex<State>>);

struct State {
    directory: Directory,
    rng: fastrand::Rng,
    /// Out of 100 requests so many go wrong.
    trouble: u8,
    /// Copies that arrive later than their senders waited.
    late: Vec<Batch>,
    batches: usize,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        let state = State { directory: Directory::new(), rng, trouble: 0, late: Vec::new(), batches: 0 };
        Self(Arc::new(Mutex::new(state)))
    }

    pub(super) fn set_trouble(&self, percent: u8) {
        self.state().trouble = percent;
    }

    /// Batches that arrived, copies included.
    pub(super) fn batches(&self) -> usize {
        self.state().batches
    }

    pub(super) fn read<T>(&self, read: impl FnOnce(&Directory) -> T) -> T {
        read(&self.state().directory)
    }

    pub(super) fn open_session(&self, attempt: u64) -> Epoch {
        let command = Command::OpenSession(OpenSession {
            gateway: "gw-1".into(),
            nonce: "n-1".into(),
            attempt,
            lease_ms: 3000,
            addresses: GatewayAddresses::default(),
        });
        match self.state().apply(command) {
            Outcome::Opened(Ok(epoch)) => epoch,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn end_session(&self, epoch: Epoch) {
        self.state().apply(Command::EndSession { epoch, reason: Reason::Expired, fenced: true });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    fn apply(&mut self, command: Command) -> Outcome {
        let revision = self.directory.revision() + 1;
        let entry = Entry { at_ms: 0, commands: vec![command] };
        let outcome = self.directory.apply(revision, &entry).outcomes.remove(0);
        self.directory.check_invariants().unwrap();
        outcome
    }

    fn batch(&mut self, batch: Batch) -> Answer {
        self.batches += 1;
        match self.apply(Command::Batch(batch)) {
            Outcome::Batch(done) => Answer::Batch(done),
            other => panic!("{other:?}"),
        }
    }

    /// What becomes of a batch, and how long its answer takes.
    fn receive(&mut self, batch: Batch) -> (Result<Answer, Failure>, Duration) {
        let delay = Duration::from_millis(self.rng.u64(0..40));
        if self.rng.u8(0..100) >= self.trouble {
            return (Ok(self.batch(batch)), delay);
        }
        if let Some(late) = self.late.pop() {
            let _ = self.batch(late);
        }
        let failure = match self.rng.u8(0..6) {
            0 => Failure::NotLeader { leader: None },
            1 => Failure::NoQuorum,
            2 => Failure::Overloaded,
            3 => {
                let _ = self.batch(batch);
                Failure::Unknown
            }
            4 => {
                self.late.push(batch);
                Failure::Unknown
            }
            _ => Failure::Unknown,
        };
        (Err(failure), delay)
    }
}

impl Ask for World {
    async fn ask_once(&self, body: RequestBody) -> Result<Answer, Failure> {
        let RequestBody::Batch(batch) = body else { return Err(Failure::NoQuorum) };
        let (result, delay) = self.state().receive(batch);
        if let Ok(Answer::Batch(Err(BatchRefused::TooOld { .. }))) = &result {
            panic!("a batch was repeated whose outcome must have been known");
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        result
    }
}
