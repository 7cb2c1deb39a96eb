//! One run: a cluster, its clients and its faults, from the seed to the verdict.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::book::Book;
use super::checks::Checks;
use super::clients::{Reader, User, open, welcome};
use super::cluster::{CLUSTER, Cluster, Shape, address};
use super::faults::Faults;
use super::machine::Machine;
use super::network::Network;
use super::planted::Planted;
use super::randomness;
use super::world::Surroundings;

/// A step of the simulated time.
const STEP: Duration = Duration::from_millis(1);

/// From the last fault to when everything must be well: streams that were cut are noticed, and what was late arrives.
const RECOVERY: Duration = Duration::from_secs(24);

/// After that, for a client at each gateway and a read at each node.
const SERVICE: Duration = Duration::from_secs(15);

/// What a run is about.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// How long faults go on.
    pub(super) faults: Duration,
    pub(super) planted: Planted,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) violation: Option<String>,
    pub(super) book: Book,
    /// Simulated.
    pub(super) time: Duration,
}

/// A run while it goes on.
struct Course {
    cluster: Cluster,
    clients: Machine,
    faults: Faults,
    checks: Checks,
    book: Book,
    now: Duration,
}

/// Runs a plan, on a thread of its own.
pub(super) fn run(plan: &Plan) -> Verdict {
    randomness::seed(plan.seed);
    let mut rng = Rng::with_seed(plan.seed);
    let book = Book::default();
    let shape = Shape::draw(&mut rng);
    let addresses: Vec<_> = (0..shape.machines()).map(|host| address(host, 0)).collect();
    let network = Network::new(rng.u64(..), &addresses, shape.weather.clone());
    switchboard::simulation::enter(Arc::new(Surroundings {
        network: network.clone(),
        book: book.clone(),
        planted: plan.planted,
    }));
    switchboard::node::probe::enter();
    book.note(format!("seed {}: {shape:?}", plan.seed));
    let dir = scratch();
    let cluster = Cluster::new(shape, dir.path().to_owned(), (network, book.clone()), rng.fork(), plan.planted);
    let host = cluster.shape.machines() - 1;
    let clients = Machine::new(host, String::from("the clients"), &mut rng);
    let seats = cluster.nodes.iter().map(|seat| &seat.machine).chain(cluster.gateways.iter().map(|seat| &seat.machine));
    book.pages().names = seats.map(|machine| machine.name.clone()).collect();
    let faults = Faults::new(rng.fork());
    let mut course = Course { cluster, clients, faults, checks: Checks::default(), book, now: Duration::ZERO };
    course.start(&mut rng);
    course.go_wrong(plan.faults);
    course.recover();
    course.serve();
    course.end()
}

/// A folder in memory where there is one: what is kept there is small, and synced often.
fn scratch() -> tempfile::TempDir {
    let builder = || tempfile::Builder::new().prefix("switchboard-simulation-").to_owned();
    let memory = builder().tempdir_in("/dev/shm");
    memory.or_else(|_| builder().tempdir()).expect("a temporary folder can be made")
}

impl Course {
    fn start(&mut self, rng: &mut Rng) {
        for at in 0..self.cluster.nodes.len() {
            self.cluster.start_node(at, self.now);
        }
        for at in 0..self.cluster.gateways.len() {
            self.cluster.start_gateway(at, self.now);
        }
        self.cluster.network.start(self.clients.host);
        let gateways = self.cluster.client_addresses();
        let names: Vec<String> = (0..self.cluster.shape.users).map(|at| format!("user-{at}")).collect();
        let mut users = Vec::new();
        for name in &names {
            for device in ["phone", "desk"] {
                let (gateways, book) = (gateways.clone(), self.book.clone());
                users.push(User { name: name.clone(), device: device.to_owned(), gateways, book, rng: rng.fork() });
            }
        }
        let readers = [rng.fork(), rng.fork()].map(|rng| self.reader(&names, rng));
        self.clients.start(self.now, |runtime| {
            for user in users {
                runtime.spawn(user.run());
            }
            for reader in readers {
                runtime.spawn(reader.run());
            }
        });
    }

    fn reader(&self, users: &[String], rng: Rng) -> Reader {
        let named = self.cluster.peer_addresses().into_iter().zip(1..);
        let nodes: Vec<_> = named.map(|(address, id): (String, u64)| (format!("node {id}"), address)).collect();
        Reader::new(CLUSTER, &nodes, users, self.book.clone(), rng)
    }

    fn step(&mut self) {
        self.now += STEP;
        self.book.set_now(self.now);
        self.cluster.network.tick(self.now);
        self.cluster.step(self.now);
        self.clients.step(self.now);
        for (host, how) in self.cluster.ended(self.now) {
            self.ended(host, how);
        }
        self.checks.look(&self.cluster, self.now);
    }

    /// A process has ended by itself. A gateway may have to; a node only if its disk failed or it was asked to.
    fn ended(&mut self, host: usize, how: Result<(), String>) {
        let name = self.book.pages().names[host].clone();
        self.book.note(format!("{name} has ended: {how:?}"));
        if let Err(why) = how
            && host < self.cluster.nodes.len()
            && !why.contains("the simulated disk fails")
        {
            self.book.violate("nodes go on", format!("{name} has ended: {why}"));
        }
        self.checks.disturbed = self.now;
        self.faults.start_later(host, &self.cluster, self.now);
    }

    fn is_over(&self) -> bool {
        self.book.violation().is_some()
    }

    fn go_wrong(&mut self, time: Duration) {
        while self.now < time && !self.is_over() {
            self.step();
            self.faults.step(&mut self.cluster, &mut self.checks, self.now);
        }
    }

    /// Nothing goes wrong any more, and so everything has to be well soon.
    fn recover(&mut self) {
        let until = self.now + RECOVERY;
        self.faults.heal(&mut self.cluster, &mut self.checks, self.now);
        self.cluster.network.set_weather(self.cluster.shape.weather.clone());
        for at in 0..self.cluster.nodes.len() {
            self.cluster.disk(at).set_failing(false);
            let flush = self.cluster.shape.flush;
            self.cluster.set_flush(at, flush);
        }
        while self.now < until && !self.is_over() {
            self.step();
            self.faults.undo_due(&mut self.cluster, &mut self.checks, self.now);
            self.checks.calm = self.now + RECOVERY / 3 > until;
        }
        if self.is_over() {
            return;
        }
        if self.cluster.leader().is_none() {
            self.book.violate("the cluster recovers", "nobody leads");
        }
        for seat in &self.cluster.gateways {
            let held = seat.probe().and_then(|probe| seat.machine.look(|| probe.is_held()));
            if held != Some(true) {
                self.book.violate("the cluster recovers", format!("{} has no lease", seat.machine.name));
            }
        }
    }

    /// A newcomer gets in at every gateway, and every node answers.
    fn serve(&mut self) {
        if self.is_over() {
            return;
        }
        let reader = self.reader(&[], Rng::with_seed(0));
        let gateways = self.cluster.client_addresses();
        let book = self.book.clone();
        let asked = self.clients.begin(|runtime| {
            runtime.spawn(async move {
                for (at, gateway) in gateways.iter().enumerate() {
                    let socket = open(gateway, &format!("newcomer-{at}"), "phone").await;
                    let is_welcome = match socket {
                        Some(mut socket) => welcome(&mut socket, Duration::from_secs(3)).await,
                        None => false,
                    };
                    if !is_welcome {
                        book.violate("the cluster serves", format!("a newcomer is not welcome at gateway {}", at + 1));
                    }
                }
                for node in 0..reader.nodes() {
                    // The first question finds a stream that was broken long ago.
                    if !reader.read(node, "newcomer-0").await && !reader.read(node, "newcomer-0").await {
                        book.violate("the cluster serves", format!("node {} answers no read", node + 1));
                    }
                }
            })
        });
        let asked = asked.expect("the clients run");
        let until = self.now + SERVICE;
        while !asked.is_finished() && self.now < until && !self.is_over() {
            self.step();
        }
        if !asked.is_finished() && !self.is_over() {
            self.book.violate("the cluster serves", format!("not within {SERVICE:?}"));
        }
        self.converge();
    }

    /// Every node has applied what was acknowledged.
    fn converge(&mut self) {
        let until = self.now + Duration::from_secs(2);
        while self.now < until && !self.is_over() {
            self.step();
        }
        let acknowledged = self.book.pages().acknowledged;
        for seat in &self.cluster.nodes {
            let applied = seat.probe().map_or(0, |probe| probe.directory().revision());
            if applied < acknowledged && !self.is_over() {
                let what = format!("{} is at {applied}; {acknowledged} was acknowledged", seat.machine.name);
                self.book.violate("the cluster converges", what);
            }
        }
    }

    fn end(mut self) -> Verdict {
        self.clients.crash();
        for at in 0..self.cluster.gateways.len() {
            self.cluster.crash_gateway(at, self.now, false);
        }
        for at in 0..self.cluster.nodes.len() {
            self.cluster.crash_node(at, self.now, false);
        }
        Verdict { violation: self.book.violation(), book: self.book, time: self.now }
    }
}
