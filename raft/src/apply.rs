//! From committed entries to the application: the state machine that openraft drives.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, alias};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::counters::Counting;
use crate::entry::{Entry, Group, LogId, SnapshotMeta, StoredMembership};
use crate::machine::{Frozen, StateMachine};
use crate::roster::Roster;
use crate::snapshot::{Head, SnapshotFile, Snapshots};

type Snapshot = alias::SnapshotOf<Group, SnapshotFile>;

/// How far the application is. The index is advanced with every entry, before its proposer hears of it; those who wait
/// are woken once for each batch.
pub(crate) struct Progress {
    index: AtomicU64,
    applied: watch::Sender<Option<LogId>>,
    roster: Mutex<Roster>,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        Progress { index: AtomicU64::new(0), applied: watch::Sender::new(None), roster: Mutex::default() }
    }

    /// What the group remembers, as of the last applied membership.
    pub(crate) fn roster(&self) -> Roster {
        self.roster.lock().expect("nothing panics while it holds the roster").clone()
    }

    fn remember(&self, roster: &Roster) {
        self.roster.lock().expect("nothing panics while it holds the roster").clone_from(roster);
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

    fn apply_one(&mut self, entry: Entry, reply: Option<&mut Vec<u8>>) {
        let id = entry.log_id;
        match entry.payload {
            EntryPayload::Normal(data) => self.machine.apply(id.index, &data.0, reply),
            EntryPayload::Blank => self.machine.applied(id.index),
            EntryPayload::Membership(members) => {
                self.roster.note(members.nodes());
                self.progress.remember(&self.roster);
                self.membership = StoredMembership::new(Some(id), members);
                self.machine.applied(id.index);
            }
        }
        self.applied = Some(id);
        self.progress.index.store(id.index, Ordering::Release);
    }

    fn freeze(&self) -> Builder {
        let frozen = catch_unwind(AssertUnwindSafe(|| self.machine.freeze())).unwrap_or_else(|panic| {
            // There is no way to tell openraft, so the owner is told that the replica ended.
            self.counting.log.fail(&panicked());
            resume_unwind(panic)
        });
        Builder {
            head: Head {
                cluster: self.cluster.clone(),
                meta: SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() },
                roster: self.roster.clone(),
            },
            frozen: Mutex::new(Some(frozen)),
            snapshots: self.snapshots.clone(),
            counting: self.counting.clone(),
        }
    }
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
            match responder {
                None => catch_unwind(AssertUnwindSafe(|| self.apply_one(entry, None))).map_err(|_| panicked())?,
                Some(responder) => {
                    let mut reply = Vec::new();
                    let applied = catch_unwind(AssertUnwindSafe(|| self.apply_one(entry, Some(&mut reply))));
                    applied.map_err(|_| panicked())?;
                    responder.send(reply);
                }
            }
        }
        self.progress.applied.send_replace(self.applied);
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.freeze()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<()> {
        let (machine, snapshots) = (self.machine.clone(), self.snapshots.clone());
        let installed = tokio::task::spawn_blocking(move || {
            // First the file, durably, then the state: openraft purges the log after this.
            let installed = snapshots.install(&snapshot)?;
            catch_unwind(AssertUnwindSafe(|| installed.restore(&*machine))).map_err(|_| panicked())??;
            Ok::<_, io::Error>(installed)
        });
        let installed = installed.await.map_err(io::Error::other)??;
        self.counting.snapshot_bytes.store(installed.len()?, Ordering::Relaxed);
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.roster = installed.head.roster.clone();
        self.progress.remember(&self.roster);
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
        let began = Instant::now();
        let frozen = self.frozen.lock().expect("nothing panics while it holds the frozen state").take();
        let frozen = frozen.ok_or_else(|| io::Error::other("a frozen state is written once"))?;
        let (head, snapshots) = (self.head.clone(), self.snapshots.clone());
        let written = tokio::task::spawn_blocking(move || snapshots.write(head, &*frozen));
        let file = written.await.map_err(io::Error::other)??;
        self.counting.snapshots_built.add(began.elapsed());
        self.counting.snapshot_bytes.store(file.len()?, Ordering::Relaxed);
        Ok(Snapshot { meta: file.head.meta.clone(), snapshot: file })
    }
}
