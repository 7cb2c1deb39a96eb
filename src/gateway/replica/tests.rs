//! The replica against the state machine itself: whatever happens, at equal revisions both show the same.

use std::sync::Arc;
use std::time::Duration;

use super::Replica;
use super::follow::{Ended, Follower};
use crate::client;
use crate::directory::{
    Batch, Command, ConnectionId, Directory, Entry, Event, GatewayAddresses, Op, OpenSession, Policy, Reason, Register,
    Revision,
};
use crate::gateway::settings::ReplicaMode;
use crate::view::{Stale, View};
use crate::wire::peer::{WatchFrame, WatchFrom};

const GATEWAYS: u64 = 3;
const USERS: u64 = 12;

/// A directory that random things happen to.
struct World {
    directory: Directory,
    rng: fastrand::Rng,
    serial: u64,
    attempts: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        Self { directory: Directory::new(), rng: fastrand::Rng::with_seed(seed), serial: 0, attempts: 0 }
    }

    /// One more entry; its frame.
    fn step(&mut self) -> WatchFrame {
        let revision = self.directory.revision() + 1;
        let count = self.rng.usize(1..4);
        let mut opened = false;
        let commands = (0..count).map(|_| self.command(&mut opened)).collect();
        let applied = self.directory.apply(revision, &Entry { at_ms: 0, commands });
        WatchFrame::Events { revision, at_ms: 0, events: applied.events }
    }

    fn command(&mut self, opened: &mut bool) -> Command {
        let epochs: Vec<u64> = self.directory.sessions().map(|live| live.epoch).collect();
        let gateway = self.rng.u64(0..GATEWAYS);
        if epochs.is_empty() || (!*opened && self.rng.u8(..) < 12) {
            *opened = true;
            return self.open(gateway);
        }
        let epoch = epochs[self.rng.usize(0..epochs.len())];
        match self.rng.u8(0..20) {
            0 => Command::EndSession { epoch, reason: Reason::Expired, fenced: true },
            1 => Command::Reclaim { epoch, limit: 3 },
            _ => Command::Batch(Batch { epoch, seq: None, ops: (0..3).map(|_| self.op(epoch)).collect() }),
        }
    }

    fn open(&mut self, gateway: u64) -> Command {
        self.attempts += 1;
        Command::OpenSession(OpenSession {
            gateway: format!("gw-{gateway}").into(),
            nonce: format!("n-{gateway}").into(),
            attempt: self.attempts,
            lease_ms: 3000,
            addresses: GatewayAddresses::default(),
        })
    }

    fn op(&mut self, epoch: u64) -> Op {
        let held: Vec<u64> = self.directory.scan_session(epoch, None).map(|live| live.id.serial).collect();
        let one_of_them = if held.is_empty() { 0 } else { held[self.rng.usize(0..held.len())] };
        match self.rng.u8(0..10) {
            0..=2 => Op::Unregister { serial: one_of_them, reason: Reason::Closed },
            3 => Op::Meta { serial: one_of_them, meta: "{\"x\":1}".into(), if_version: None },
            _ => {
                self.serial += 1;
                Op::Register(Register {
                    serial: self.serial,
                    user: format!("u-{}", self.rng.u64(0..USERS)).into(),
                    device: "web".into(),
                    policy: Policy::multi(4),
                    since: None,
                    connected_at_ms: 0,
                    remote: None,
                    meta: None,
                })
            }
        }
    }

    /// The frames of a snapshot, in small chunks.
    fn snapshot(&self) -> Vec<WatchFrame> {
        let sessions = self.directory.sessions().map(|live| (live.epoch, Arc::clone(live.session))).collect();
        let connections: Vec<_> = self.directory.scan(None).map(|l| (l.id, Arc::clone(&l.connection))).collect();
        let mut frames = vec![WatchFrame::SnapshotChunk { sessions, connections: Vec::new() }];
        for chunk in connections.chunks(3) {
            frames.push(WatchFrame::SnapshotChunk { sessions: Vec::new(), connections: chunk.to_vec() });
        }
        frames.push(WatchFrame::SnapshotEnd { revision: self.directory.revision() });
        frames
    }

    fn check(&self, replica: &Replica, why: &str) {
        let revision = self.directory.revision();
        let mut users = 0;
        for user in (0..USERS).map(|user| format!("u-{user}")) {
            let mut expected: Vec<_> =
                self.directory.connections_of(&user).iter().map(|l| (l.id, Arc::clone(&l.connection))).collect();
            expected.sort_by_key(|(id, connection)| (connection.granted, *id));
            users += u64::from(!expected.is_empty());
            let at = replica.store.load().user(&user).unwrap();
            let shown: Vec<_> = at.value.iter().map(|f| (f.id, Arc::clone(&f.connection))).collect();
            assert_eq!((at.revision, shown), (revision, expected), "{why}: {user}");
        }
        let all: Vec<ConnectionId> = self.directory.scan(None).map(|live| live.id).collect();
        let scanned: Vec<ConnectionId> = replica.scan(None, usize::MAX).value.iter().map(|found| found.id).collect();
        assert_eq!(scanned, all, "{why}");
        for id in all {
            assert_eq!(replica.store.load().connection(id).unwrap().value.map(|found| found.id), Some(id), "{why}");
        }
        let counts = replica.counts().value;
        assert_eq!((counts.connections, counts.users), (self.directory.stats().connections, users), "{why}");
        let sessions: Vec<_> =
            self.directory.sessions().map(|l| (l.epoch, Arc::clone(l.session), l.connections)).collect();
        assert_eq!(replica.sessions().value, sessions, "{why}");
    }
}

fn replica() -> (Arc<Replica>, Follower) {
    let replica = Arc::new(Replica::alone(ReplicaMode::Full));
    let directory =
        client::Directory::new(client::Settings { cluster: "test".into(), name: "a test".into(), nodes: Vec::new() });
    (Arc::clone(&replica), Follower::new(replica, directory))
}

fn take_all(follower: &mut Follower, frames: Vec<WatchFrame>) {
    for frame in frames {
        follower.take(frame).unwrap();
    }
}

#[test]
fn a_replica_shows_what_the_directory_shows_at_every_revision() {
    for seed in 1..60 {
        let mut world = World::new(seed);
        for _ in 0..world.rng.usize(0..40) {
            world.step();
        }
        let (replica, mut follower) = replica();
        assert_eq!(follower.begin(), WatchFrom::Snapshot);
        take_all(&mut follower, world.snapshot());
        world.check(&replica, "after the snapshot");
        for step in 0..120 {
            let frame = world.step();
            follower.take(frame).unwrap();
            if world.rng.bool() {
                follower.reclaim(2);
            }
            world.check(&replica, &format!("seed {seed}, step {step}"));
        }
        assert_eq!(follower.begin(), WatchFrom::After(world.directory.revision()));
    }
}

#[test]
fn a_new_snapshot_replaces_what_is_shown_only_when_it_is_complete_and_not_older() {
    let mut world = World::new(7);
    for _ in 0..30 {
        world.step();
    }
    let old = world.snapshot();
    let missed: Vec<WatchFrame> = (0..20).map(|_| world.step()).collect();
    let (replica, mut follower) = replica();
    take_all(&mut follower, world.snapshot());
    assert_eq!(follower.take(WatchFrame::Compacted { oldest: 1 }), Err(Ended::Compacted));
    assert_eq!(follower.begin(), WatchFrom::Snapshot);
    // The next node is behind: its snapshot is older than what is shown.
    take_all(&mut follower, old);
    world.check(&replica, "an older snapshot stays aside");
    let resume = WatchFrom::After(30);
    assert_eq!(follower.begin(), resume, "it is not asked for twice");
    take_all(&mut follower, missed);
    world.check(&replica, "caught up");
    let frame = world.step();
    follower.take(frame).unwrap();
    world.check(&replica, "and goes on");
}

#[test]
fn a_broken_snapshot_is_forgotten() {
    let mut world = World::new(3);
    for _ in 0..30 {
        world.step();
    }
    let (replica, mut follower) = replica();
    let mut frames = world.snapshot();
    frames.truncate(2);
    take_all(&mut follower, frames);
    assert!(!replica.is_loaded());
    assert_eq!(follower.begin(), WatchFrom::Snapshot);
    world.step();
    take_all(&mut follower, world.snapshot());
    world.check(&replica, "the second snapshot alone");
}

#[test]
fn what_was_applied_before_is_not_applied_again() {
    let mut world = World::new(5);
    let frames: Vec<WatchFrame> = (0..30).map(|_| world.step()).collect();
    let (replica, mut follower) = replica();
    take_all(&mut follower, world.snapshot());
    take_all(&mut follower, frames);
    world.check(&replica, "nothing twice");
}

#[tokio::test(start_paused = true)]
async fn a_linearizable_read_waits_for_a_stamp_that_was_taken_after_it_began() {
    let (replica, mut follower) = replica();
    assert_eq!(replica.staleness(), None);
    take_all(&mut follower, World::new(1).snapshot());
    let early = replica.take_stamp();
    let reader = tokio::spawn({
        let replica = Arc::clone(&replica);
        async move { replica.linearize().await }
    });
    replica.wanted.notified().await;
    follower.take(WatchFrame::Progress { revision: 4, stamp: Some(early) }).unwrap();
    tokio::task::yield_now().await;
    assert!(!reader.is_finished(), "that stamp may have been read before the call");
    let late = replica.take_stamp();
    follower.take(WatchFrame::Progress { revision: 5, stamp: Some(late) }).unwrap();
    assert_eq!(reader.await.unwrap(), Ok(()));
    assert_eq!(replica.revision(), 5);
    tokio::time::advance(Duration::from_millis(700)).await;
    // The stamp was taken within the real time that the test has run for, which the paused clock does not know of.
    let age = replica.staleness().unwrap();
    assert!((Duration::from_millis(400)..=Duration::from_millis(700)).contains(&age), "{age:?}");
    assert_eq!(replica.linearize().await, Err(Stale::NoQuorum), "nobody echoes");
}

#[tokio::test(start_paused = true)]
async fn reaching_a_revision_ends_with_it_or_in_time() {
    let (replica, mut follower) = replica();
    take_all(&mut follower, World::new(1).snapshot());
    assert_eq!(replica.reach(9, Duration::from_secs(1)).await, Err(Stale::Timeout));
    let (reached, ()) = tokio::join!(replica.reach(9, Duration::from_secs(1)), async {
        follower.take(WatchFrame::Events { revision: 9, at_ms: 0, events: Vec::<Event>::new() }).unwrap();
    });
    assert_eq!(reached, Ok(()));
    let far: Revision = 9;
    assert_eq!(replica.reach(far, Duration::ZERO).await, Ok(()));
}

#[test]
fn readers_see_whole_revisions_while_the_writer_works() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut world = World::new(11);
    for _ in 0..20 {
        world.step();
    }
    let (replica, mut follower) = replica();
    take_all(&mut follower, world.snapshot());
    let stop = AtomicBool::new(false);
    // By revision: what a reader has to see then.
    let mut expected = vec![(world.directory.revision(), users_shown(&world))];
    let frames: Vec<WatchFrame> = (0..3000)
        .map(|_| {
            let frame = world.step();
            expected.push((world.directory.revision(), users_shown(&world)));
            frame
        })
        .collect();
    let first = expected[0].0;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let at = replica.store.load().user("u-1").unwrap();
                let shown: Vec<ConnectionId> = at.value.iter().map(|found| found.id).collect();
                assert_eq!(shown, expected[usize::try_from(at.revision - first).unwrap()].1, "at {}", at.revision);
                reads += 1;
            }
            reads
        });
        take_all(&mut follower, frames);
        stop.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}

fn users_shown(world: &World) -> Vec<ConnectionId> {
    let mut held: Vec<_> = world.directory.connections_of("u-1").iter().map(|l| (l.connection.granted, l.id)).collect();
    held.sort_unstable();
    held.into_iter().map(|(_, id)| id).collect()
}
