//! The registrar against a directory in memory: whatever is lost on the way, in the end the directory has exactly the
//! connections whose sockets are open, and every one of them knows its grant.

use super::*;
use crate::directory::{Handover, Per};
use crate::gateway::clients::{Common, Who};
use crate::gateway::lease::Lease;
use crate::gateway::meters::Meters;
use crate::gateway::ours::Ours;
use crate::gateway::settings::Settings;
use crate::gateway::testing::World;

type Told = oneshot::Receiver<Result<crate::directory::Revision, Refused>>;

struct Bench {
    world: World,
    table: Arc<Table>,
    common: Arc<Common>,
    commands: mpsc::Sender<Command>,
    session: watch::Sender<Option<Epoch>>,
    lease: Arc<Lease>,
    fenced: watch::Receiver<Epoch>,
    attempts: u64,
    stop: CancellationToken,
}

impl Bench {
    fn start(seed: u64, max: u32) -> Self {
        Self::start_with(seed, Policy::multi(max))
    }

    fn start_with(seed: u64, policy: Policy) -> Self {
        let world = World::new(seed);
        let table = Arc::<Table>::default();
        let (commands, commands_out) = mpsc::channel(10_000);
        let (session, session_out) = watch::channel(None);
        let (fenced, fenced_out) = watch::channel(0);
        let lines = Lines { commands: commands_out, session: session_out, fenced };
        let limits = RegistrarLimits { batch_ops: 16, batch_ops_max: 40, ..RegistrarLimits::default() };
        let settings = Settings { registrar: limits.clone(), ..Settings::default() };
        let lease = Arc::<Lease>::default();
        let common = Arc::new(Common::new(&settings, &lease, Meters::new("test")));
        world.watched_by(Some(Arc::new(Ours::new(Arc::clone(&table), Arc::clone(&lease), commands.clone()))));
        let stop = CancellationToken::new();
        let registrar = Registrar::new(world.clone(), Arc::clone(&table), limits, policy, lines);
        tokio::spawn(registrar.run(stop.clone()));
        Self { world, table, common, commands, session, lease, fenced: fenced_out, attempts: 0, stop }
    }

    fn open_session(&mut self) -> Epoch {
        self.attempts += 1;
        let epoch = self.world.open_session(self.attempts);
        self.lease.hold(epoch, Duration::MAX);
        self.session.send_replace(Some(epoch));
        epoch
    }

    async fn register(&self, user: &str) -> Arc<Handle> {
        let who = Who { user: user.into(), device: "".into(), remote: None, meta: None, connected_at_ms: 0 };
        let handle = Arc::new(Handle::new(who, Arc::clone(&self.common), 0));
        self.commands.send(Command::Register(Arc::clone(&handle))).await.unwrap();
        handle
    }

    /// A service subscribes a client. What comes back is settled when the directory knows, or never will.
    async fn subscribe(&self, handle: &Arc<Handle>, topic: &str) -> Option<Told> {
        let entered = Subscribe::asked(&self.table, Arc::clone(handle), vec![topic.into()]);
        let (subscribe, told) = entered.ok().filter(|_| handle.serial() > 0)?;
        self.commands.send(Command::Subscribe(Box::new(subscribe))).await.unwrap();
        Some(told)
    }

    async fn unregister(&self, handle: Arc<Handle>) {
        handle.finish();
        self.commands.send(Command::Unregister(handle, Reason::Closed, oneshot::channel().0)).await.unwrap();
    }

    /// The sockets' part: those that are to be closed are. Whether there were any.
    async fn close_those_that_end(&self, open: &mut Vec<Arc<Handle>>) -> bool {
        let (ending, others) = std::mem::take(open).into_iter().partition::<Vec<_>, _>(|handle| handle.is_ending());
        *open = others;
        let any = !ending.is_empty();
        for handle in ending {
            self.unregister(handle).await;
        }
        any
    }

    async fn idle(&self) {
        // Until the registrar has noticed a new session, it rests.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let (tell, idle) = oneshot::channel();
        self.commands.send(Command::WhenIdle(tell)).await.unwrap();
        tokio::time::timeout(Duration::from_secs(600), idle).await.expect("it comes to rest").unwrap();
    }

    /// The directory and the open sockets agree.
    fn check(&self, epoch: Epoch, open: &[Arc<Handle>], why: &str) {
        let mut expected: Vec<(Serial, String, Option<Bound>)> =
            open.iter().map(|handle| (handle.serial(), handle.who.user.to_string(), handle.bound())).collect();
        expected.sort_by_key(|(serial, ..)| *serial);
        let held: Vec<(Serial, String, Option<Bound>)> = self.world.read(|directory| {
            let live = directory.scan(None).map(|live| {
                let bound = Bound { epoch: live.id.epoch, granted: live.connection.granted };
                (live.id.serial, live.connection.user.to_string(), Some(bound))
            });
            live.collect()
        });
        assert_eq!(held, expected, "{why}");
        assert!(held.iter().all(|(.., bound)| bound.is_some_and(|bound| bound.epoch == epoch)), "{why}");
        assert_eq!(self.table.all().len(), open.len(), "{why}");
        let mut wanted = self.table.subscriptions().topics();
        wanted.sort();
        let joined: Vec<Arc<str>> = self.world.read(|directory| directory.topics_of(epoch, None).cloned().collect());
        assert_eq!(joined, wanted, "{why}");
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Clients come and go, answers are lost, sessions end; in the end directory and sockets agree.
async fn come_and_go(seed: u64, policy: Policy) {
    let mut bench = Bench::start_with(seed, policy);
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut open: Vec<Arc<Handle>> = Vec::new();
    let mut epoch = bench.open_session();
    bench.world.set_trouble(rng.u8(0..70));
    let mut told = Vec::new();
    for step in 0..250 {
        if rng.u8(0..4) == 0 && !open.is_empty() {
            let (handle, topic) = (&open[rng.usize(0..open.len())], format!("t-{}", rng.u8(0..4)));
            match rng.bool() {
                true => told.extend(bench.subscribe(handle, &topic).await),
                false => bench.table.subscriptions().unsubscribe(handle.serial(), &[topic.into()]),
            }
        }
        match rng.u8(0..25) {
            0 if step % 5 == 0 => bench.world.end_session(epoch),
            1..=6 if !open.is_empty() => {
                let handle = open.swap_remove(rng.usize(0..open.len()));
                bench.unregister(handle).await;
            }
            7 => tokio::time::sleep(Duration::from_millis(rng.u64(0..60))).await,
            8..=10 => {
                bench.close_those_that_end(&mut open).await;
            }
            _ => open.push(bench.register(&format!("u-{}", rng.u8(0..9))).await),
        }
        // The session keeper's part.
        if *bench.fenced.borrow_and_update() == epoch {
            bench.session.send_replace(None);
            epoch = bench.open_session();
        }
    }
    bench.world.set_trouble(0);
    loop {
        bench.idle().await;
        if bench.close_those_that_end(&mut open).await {
            continue;
        }
        if *bench.fenced.borrow_and_update() != epoch {
            break;
        }
        bench.session.send_replace(None);
        epoch = bench.open_session();
    }
    if bench.world.read(|directory| directory.session(epoch).is_none()) {
        // It ended when nothing was left to be said in it.
        bench.session.send_replace(None);
        epoch = bench.open_session();
        bench.idle().await;
    }
    bench.check(epoch, &open, &format!("seed {seed}"));
    let is_open = |told: &mut Told| told.try_recv() == Err(oneshot::error::TryRecvError::Empty);
    assert!(!told.iter_mut().any(is_open), "seed {seed}: subscriptions that are never answered");
    if policy.claim().is_some() {
        let users: std::collections::BTreeSet<_> = open.iter().map(|handle| &handle.who.user).collect();
        assert_eq!(users.len(), open.len(), "seed {seed}: a user has more than one");
    }
}

#[tokio::test(start_paused = true)]
async fn in_the_end_the_directory_has_exactly_the_open_sockets() {
    for seed in 1..40 {
        come_and_go(seed, Policy::multi(1000)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn in_the_end_every_user_has_one_socket_that_knows_its_grant_whoever_wins() {
    let per = Per::User;
    for seed in 1..15 {
        come_and_go(seed, Policy::NewestWins { per, handover: Handover::Wait }).await;
        come_and_go(seed, Policy::NewestWins { per, handover: Handover::Immediate }).await;
        come_and_go(seed, Policy::OldestWins { per }).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_when_nothing_is_under_way_and_what_comes_meanwhile_is_gathered() {
    let mut bench = Bench::start(1, 1000);
    let epoch = bench.open_session();
    let mut open = vec![bench.register("a").await];
    let began = Instant::now();
    while bench.world.batches() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(began.elapsed(), Duration::ZERO, "no artificial wait");
    for _ in 0..10 {
        open.push(bench.register("b").await);
    }
    bench.idle().await;
    assert!(bench.world.batches() <= 3, "{} batches for 11 registrations", bench.world.batches());
    bench.check(epoch, &open, "all registered");
}

#[tokio::test(start_paused = true)]
async fn one_connection_too_many_is_told_and_leaves_no_ghost() {
    let mut bench = Bench::start(1, 2);
    let epoch = bench.open_session();
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(bench.register("a").await);
    }
    bench.idle().await;
    let refused = open.pop().unwrap();
    assert!(refused.is_ending() && refused.bound().is_none());
    bench.unregister(refused).await;
    bench.idle().await;
    bench.check(epoch, &open, "two are left");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_gives_up_before_its_commit_leaves_no_ghost() {
    let mut bench = Bench::start(1, 1000);
    bench.world.set_trouble(100);
    let epoch = bench.open_session();
    let handle = bench.register("a").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let unsent = bench.register("b").await;
    bench.unregister(handle).await;
    bench.unregister(unsent).await;
    bench.world.set_trouble(0);
    bench.idle().await;
    bench.check(epoch, &[], "nobody is left");
}

#[tokio::test(start_paused = true)]
async fn what_waited_without_a_session_is_registered_in_the_first_one() {
    let mut bench = Bench::start(1, 1000);
    let open = [bench.register("a").await, bench.register("b").await];
    bench.idle().await;
    assert_eq!(bench.world.batches(), 0);
    let epoch = bench.open_session();
    bench.idle().await;
    bench.check(epoch, &open, "both registered");
}

#[tokio::test(start_paused = true)]
async fn a_storm_on_one_topic_costs_a_few_operations_and_is_answered_when_it_is_committed() {
    let mut bench = Bench::start(1, 1000);
    let epoch = bench.open_session();
    let mut open = Vec::new();
    for _ in 0..50 {
        open.push(bench.register("a").await);
    }
    bench.idle().await;
    let (before, mut told) = (bench.world.batches(), Vec::new());
    for _ in 0..20 {
        for handle in &open {
            told.extend(bench.subscribe(handle, "room").await);
            bench.table.subscriptions().unsubscribe(handle.serial(), &["room".into()]);
        }
        tokio::task::yield_now().await;
    }
    told.extend(bench.subscribe(&open[7], "room").await);
    bench.idle().await;
    let told: Vec<_> = told.iter_mut().map(|told| told.try_recv().unwrap()).collect();
    let last = told.last().unwrap().clone().unwrap();
    assert_eq!((told.len(), bench.world.read(|directory| directory.sessions_of("room"))), (1001, vec![epoch]));
    assert!(last <= bench.world.read(|directory| directory.revision()));
    let batches = bench.world.batches() - before;
    assert!(batches <= 20, "{batches} batches for 2,001 changes of one topic");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_subscription_is_told_in_time_and_then_does_not_have_it() {
    let mut bench = Bench::start(1, 1000);
    let epoch = bench.open_session();
    let handle = bench.register("a").await;
    bench.idle().await;
    bench.world.set_trouble(100);
    let told = bench.subscribe(&handle, "room").await.unwrap();
    assert_eq!(told.await.unwrap(), Err(Refused::no_leader()));
    assert!(!bench.table.subscriptions().is_wanted("room"));
    bench.world.set_trouble(0);
    bench.idle().await;
    bench.check(epoch, &[handle], "nothing is left of it");
}
