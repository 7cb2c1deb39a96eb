//! A directory in memory for tests, behind the interface that gateways ask, with everything that can go wrong on the way.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::asking::Ask;
use super::ours::Ours;
use crate::directory::{
    Batch, BatchRefused, Command, Directory, Entry, Epoch, GatewayAddresses, Op, OpOutcome, OpenSession, Outcome,
    Policy, Reason, Register, Serial,
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
    /// Who watches, as far as own connections go.
    watcher: Option<Arc<Ours>>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        let state = State { directory: Directory::new(), rng, trouble: 0, late: Vec::new(), batches: 0, watcher: None };
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

    /// Everything that happens from now on is told, at once.
    pub(super) fn watched_by(&self, ours: Option<Arc<Ours>>) {
        self.state().watcher = ours;
    }

    pub(super) fn open_session(&self, attempt: u64) -> Epoch {
        self.open_session_of("gw-1", attempt)
    }

    pub(super) fn open_session_of(&self, gateway: &str, attempt: u64) -> Epoch {
        let command = Command::OpenSession(OpenSession {
            gateway: gateway.into(),
            nonce: format!("nonce of {gateway}").into(),
            attempt,
            lease_ms: 3000,
            addresses: GatewayAddresses::default(),
        });
        match self.state().apply(command) {
            Outcome::Opened(Ok(epoch)) => epoch,
            other => panic!("{other:?}"),
        }
    }

    /// What somebody else asks of the directory.
    pub(super) fn apply(&self, command: Command) -> Outcome {
        self.state().apply(command)
    }

    /// A client of another gateway arrives.
    pub(super) fn register_elsewhere(&self, epoch: Epoch, serial: Serial, user: &str, policy: Policy) -> OpOutcome {
        let register = Register {
            serial,
            user: user.into(),
            device: "web".into(),
            policy,
            since: None,
            connected_at_ms: 0,
            remote: None,
            meta: None,
        };
        self.elsewhere(epoch, Op::Register(register))
    }

    /// A client of another gateway has left.
    pub(super) fn unregister_elsewhere(&self, epoch: Epoch, serial: Serial) -> OpOutcome {
        self.elsewhere(epoch, Op::Unregister { serial, reason: Reason::Superseded })
    }

    fn elsewhere(&self, epoch: Epoch, op: Op) -> OpOutcome {
        match self.apply(Command::Batch(Batch { epoch, seq: None, ops: vec![op] })) {
            Outcome::Batch(Ok(done)) => done.ops[0].clone(),
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
        let mut applied = self.directory.apply(revision, &entry);
        self.directory.check_invariants().unwrap();
        if let Some(watcher) = &self.watcher {
            watcher.watched(&applied.events);
        }
        applied.outcomes.remove(0)
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
