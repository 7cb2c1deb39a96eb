//! From committed entries to the application: the state machine that openraft drives.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, alias};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{error, warn};

use crate::blocking;
use crate::counters::Counting;
use crate::entry::{Entry, Group, LogId, Seat, SnapshotMeta, StoredMembership};
use crate::failure::{is_of_disk, of_disk};
use crate::machine::{Frozen, StateMachine};
use crate::roster::Roster;
use crate::settings::NodeId;
use crate::snapshot::{Head, SnapshotFile, Snapshots};

/// After a snapshot found no space it is begun again after a pause, which doubles from the first to the longest: to write
/// most of one again and again would keep the disk busy for nothing.
const SNAPSHOT_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

type Snapshot = alias::SnapshotOf<Group, SnapshotFile>;

/// How far the application is. The index is advanced with every entry, before its proposer hears of it; those who wait
/// are woken once for each batch.
pub(crate) struct Progress {
    index: AtomicU64,
    applied: watch::Sender<Option<LogId>>,
    known: watch::Sender<Known>,
}

/// What applied memberships tell: both parts are always of the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) roster: Roster,
    pub(crate) members: BTreeMap<NodeId, Seat>,
}

impl Known {
    /// Whether the node was a member once and is none any more. This never ends: ids are not used twice.
    pub(crate) fn was_removed(&self, id: NodeId) -> bool {
        self.roster.directories.contains_key(&id) && !self.members.contains_key(&id)
    }
}

impl Progress {
    pub(crate) fn new() -> Progress {
        Progress { index: AtomicU64::new(0), applied: watch::Sender::new(None), known: watch::Sender::default() }
    }

    /// What the group remembers, as of the last applied membership.
    pub(crate) fn roster(&self) -> Roster {
        self.known.borrow().roster.clone()
    }

    /// What applied memberships tell, and changes of it.
    pub(crate) fn known(&self) -> watch::Receiver<Known> {
        self.known.subscribe()
    }

    pub(crate) fn was_removed(&self, id: NodeId) -> bool {
        self.known.borrow().was_removed(id)
    }

    fn remember(&self, roster: &Roster, membership: &StoredMembership) {
        let members = membership.nodes().map(|(id, seat)| (*id, seat.clone())).collect();
        self.known.send_replace(Known { roster: roster.clone(), members });
    }

    pub(crate) fn index(&self) -> u64 {
        self.index.load(Ordering::Acquire)
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Option<LogId>> {
        self.applied.subscribe()
    }

    /// Waits until `index` is applied. Without end if the replica stops; the caller bounds it.
    pub(crate) async fn reached(&self, index: u64) {
        if self.index() >= index {
            return;
        }
        let mut applied = self.watch();
        // The sender lives as long as this does.
        let waited = applied.wait_for(|_| self.index() >= index).await;
        drop(waited);
    }
}

/// Entries of more bytes are applied apart from the tasks of this runtime; handing them over costs some microseconds.
const LARGE_ENTRY_BYTES: usize = 8 << 10;

/// Applies entries, takes snapshots and installs them.
pub(crate) struct Applier {
    cluster: String,
    machine: Arc<dyn StateMachine>,
    snapshots: Arc<Snapshots>,
    progress: Arc<Progress>,
    counting: Arc<Counting>,
    applied: Option<LogId>,
    membership: StoredMembership,
    roster: Roster,
}

impl Applier {
    /// A state machine of which nothing is known yet: openraft restores the snapshot and applies what follows.
    pub(crate) fn new(
        cluster: String,
        machine: Arc<dyn StateMachine>,
        snapshots: Arc<Snapshots>,
        progress: Arc<Progress>,
        counting: Arc<Counting>,
    ) -> Applier {
        Applier {
            cluster,
            machine,
            snapshots,
            progress,
            counting,
            applied: None,
            membership: StoredMembership::default(),
            roster: Roster::default(),
        }
    }

    fn apply_one(&mut self, entry: Entry, reply: Option<&mut Vec<u8>>) -> io::Result<()> {
        let id = entry.log_id;
        match entry.payload {
            EntryPayload::Normal(data) => self.machine.apply(id.index, &data.0, reply)?,
            EntryPayload::Blank => self.machine.applied(id.index),
            EntryPayload::Membership(members) => {
                self.roster.note(members.nodes());
                self.membership = StoredMembership::new(Some(id), members);
                self.progress.remember(&self.roster, &self.membership);
                self.machine.applied(id.index);
            }
        }
        self.applied = Some(id);
        self.progress.index.store(id.index, Ordering::Release);
        Ok(())
    }

    /// Applies an entry; a machine that panics is an error. A large entry takes milliseconds, in which this thread must not be
    /// the one that the others rely on to be told of what arrives.
    fn apply_safely(&mut self, entry: Entry, reply: Option<&mut Vec<u8>>) -> io::Result<()> {
        let large = matches!(&entry.payload, EntryPayload::Normal(data) if data.0.len() > LARGE_ENTRY_BYTES);
        let may_block = Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread;
        let apply = || catch_unwind(AssertUnwindSafe(|| self.apply_one(entry, reply))).map_err(|_| panicked());
        if large && may_block { tokio::task::block_in_place(apply)? } else { apply()? }
    }

    /// What writes the state of now; `None` if the machine panicked.
    fn freeze(&self) -> Option<Builder> {
        let frozen = catch_unwind(AssertUnwindSafe(|| self.machine.freeze()));
        // openraft can be told of a failed builder only, so the owner hears directly that the replica must end.
        let frozen = frozen.inspect_err(|_| self.counting.log.fail(&panicked())).ok()?;
        Some(Builder {
            head: Head {
                cluster: self.cluster.clone(),
                meta: SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() },
                roster: self.roster.clone(),
            },
            frozen: Mutex::new(Some(frozen)),
            snapshots: self.snapshots.clone(),
            counting: self.counting.clone(),
        })
    }

    /// The replica must end, if the disk is to blame.
    fn fail(&self, error: io::Error) -> io::Error {
        failed(&self.counting, &self.snapshots, error)
    }
}

/// The replica must end, if the disk of the snapshots is to blame for an error.
pub(crate) fn failed(counting: &Counting, snapshots: &Snapshots, error: io::Error) -> io::Error {
    if is_of_disk(&error) {
        let error = of_disk(&snapshots.dir, &error);
        error!(%error, "a snapshot can't be written; this node must end");
        counting.log.fail(&error);
    }
    error
}

fn panicked() -> io::Error {
    io::Error::other("the state machine panicked; its state can't be trusted")
}

impl RaftStateMachine<Group> for Applier {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Group>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            // However many entries follow each other: heartbeats and renewals on these threads get their turn.
            tokio::task::consume_budget().await;
            match responder {
                None => self.apply_safely(entry, None)?,
                Some(responder) => {
                    let mut reply = Vec::new();
                    self.apply_safely(entry, Some(&mut reply))?;
                    responder.send(reply);
                }
            }
        }
        self.progress.applied.send_replace(self.applied);
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        self.freeze()
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.freeze().expect("openraft asks for a builder by the other name")
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<()> {
        let (machine, snapshots) = (self.machine.clone(), self.snapshots.clone());
        let installed = blocking::run(move || {
            // First the file, durably, then the state: openraft purges the log after this.
            let installed = snapshots.install(&snapshot)?;
            catch_unwind(AssertUnwindSafe(|| installed.restore(&*machine))).map_err(|_| panicked())??;
            Ok::<_, io::Error>(installed)
        });
        let installed = installed.await.map_err(io::Error::other)?.map_err(|e| self.fail(e))?;
        self.counting.snapshot_bytes.store(installed.len()?, Ordering::Relaxed);
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.roster = installed.head.roster.clone();
        self.progress.remember(&self.roster, &self.membership);
        self.progress.index.store(meta.last_log_id.map_or(0, |id| id.index), Ordering::Release);
        self.progress.applied.send_replace(self.applied);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.snapshots.current().map(|file| Snapshot { meta: file.head.meta.clone(), snapshot: file }))
    }
}

/// Writes one frozen state out, beside further applying.
pub(crate) struct Builder {
    head: Head,
    frozen: Mutex<Option<Box<dyn Frozen>>>,
    snapshots: Arc<Snapshots>,
    counting: Arc<Counting>,
}

impl RaftSnapshotBuilder<Group> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let frozen = self.frozen.lock().expect("nothing panics while it holds the frozen state").take();
        let mut frozen = frozen.ok_or_else(|| io::Error::other("a frozen state is written once"))?;
        // As large as the one before, and some room to grow: what is begun should be finished.
        let bytes = self.snapshots.current().map_or(Ok(0), |current| current.len())?;
        let mut pause = SNAPSHOT_PAUSE.0;
        let (file, began) = loop {
            if !self.snapshots.space.until_spares(bytes + bytes / 4).await {
                return Err(io::Error::other("the replica stops"));
            }
            let began = Instant::now();
            let (head, snapshots) = (self.head.clone(), self.snapshots.clone());
            let written = blocking::run(move || (snapshots.write(head, &*frozen), frozen));
            let written = written.await.map_err(io::Error::other)?;
            frozen = written.1;
            match written.0 {
                Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                    warn!(dir = %self.snapshots.dir.display(), error = %e, "no space for a snapshot; it is begun again later");
                    sleep(pause).await;
                    pause = (pause * 2).min(SNAPSHOT_PAUSE.1);
                }
                written => break (written.map_err(|e| failed(&self.counting, &self.snapshots, e))?, began),
            }
        };
        self.counting.snapshots_built.add(began.elapsed());
        self.counting.snapshot_bytes.store(file.len()?, Ordering::Relaxed);
        Ok(Snapshot { meta: file.head.meta.clone(), snapshot: file })
    }
}
