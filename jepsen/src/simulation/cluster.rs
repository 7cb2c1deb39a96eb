//! The simulated cluster: directory nodes and gateways, each the product's own code as a process on a machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use switchboard::directory::{Handover, Per, Policy};
use switchboard::gateway::{self, Gateway};
use switchboard::node::probe::Disk;
use switchboard::node::{self, LogEngine, Node};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::book::Book;
use super::machine::Machine;
use super::network::{Host, Network, Weather};
use super::planted::Planted;

/// Name of the simulated cluster.
pub(super) const CLUSTER: &str = "simulated";

/// The lease of gateways.
pub(super) const LEASE: Duration = Duration::from_secs(3);

/// What every run differs in, besides its course.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) nodes: usize,
    pub(super) gateways: usize,
    pub(super) users: usize,
    pub(super) policies: Vec<Policy>,
    pub(super) snapshot_every: u64,
    pub(super) retain_events: usize,
    pub(super) flush: (Duration, Duration),
    pub(super) weather: Weather,
}

impl Shape {
    pub(super) fn draw(rng: &mut Rng) -> Self {
        let per = if rng.bool() { Per::User } else { Per::Device };
        let wait = |per| Policy::NewestWins { per, handover: Handover::Wait };
        let gateways = rng.usize(2..=4);
        let policies = match rng.u32(0..6) {
            0 => vec![Policy::Multi { max: rng.u32(1..4), per }; gateways],
            1 => vec![Policy::OldestWins { per }; gateways],
            2 => vec![Policy::multi(3), Policy::OldestWins { per }, wait(Per::User), wait(Per::Device)],
            _ => vec![wait(per); gateways],
        };
        Self {
            nodes: if rng.u32(0..4) == 0 { 5 } else { 3 },
            gateways,
            users: rng.usize(3..=8),
            policies,
            snapshot_every: rng.u64(40..400),
            retain_events: rng.usize(50..1000),
            flush: (Duration::from_micros(200), Duration::from_millis(rng.u64(1..8))),
            weather: Weather {
                delay: (Duration::from_micros(100), Duration::from_millis(rng.u64(1..6))),
                late_one_in: rng.u32(50..500),
                late_by: Duration::from_millis(rng.u64(5..80)),
            },
        }
    }

    pub(super) fn machines(&self) -> usize {
        self.nodes + self.gateways + 1
    }
}

/// Where a machine is.
pub(super) fn address(host: Host, port: u16) -> SocketAddr {
    let last = u8::try_from(host + 1).expect("a simulation has few machines");
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), port)
}

/// Of nodes.
const PEER: u16 = 7001;
const API: u16 = 7000;
/// Of gateways.
const CLIENTS: u16 = 8001;

/// What is seen of a process while it runs.
type Slot<P> = Arc<Mutex<Option<P>>>;

/// A process of the cluster and the machine that it runs on.
pub(super) struct Seat<P> {
    pub(super) machine: Machine,
    probe: Slot<P>,
    task: Option<JoinHandle<Result<(), String>>>,
    stop: CancellationToken,
    /// Since when its process has been down, frozen or cut off.
    pub(super) silent_since: Option<Duration>,
}

impl<P: Clone> Seat<P> {
    fn new(machine: Machine) -> Self {
        Self { machine, probe: Slot::default(), task: None, stop: CancellationToken::new(), silent_since: None }
    }

    /// A look into the process, once it has started.
    pub(super) fn probe(&self) -> Option<P> {
        self.probe.lock().expect("nothing panics while it holds a probe").clone()
    }

    /// How the process has ended, if it has.
    fn ended(&mut self) -> Option<Result<(), String>> {
        if !self.task.as_ref()?.is_finished() {
            return None;
        }
        let task = self.task.take()?;
        let ended = self.machine.begin(|runtime| runtime.block_on(task))?;
        Some(ended.unwrap_or_else(|error| Err(format!("it panicked: {error}"))))
    }

    fn forget(&mut self) {
        self.probe.lock().expect("nothing panics while it holds a probe").take();
        self.task = None;
        self.machine.crash();
    }

    /// Asks the process to end in order.
    pub(super) fn ask_to_stop(&self) {
        self.stop.cancel();
    }
}

/// The cluster.
pub(super) struct Cluster {
    pub(super) shape: Shape,
    pub(super) nodes: Vec<Seat<node::probe::Probe>>,
    pub(super) gateways: Vec<Seat<gateway::probe::Probe>>,
    pub(super) network: Network,
    pub(super) book: Book,
    dir: PathBuf,
    pub(super) rng: Rng,
    planted: Planted,
}

impl Cluster {
    pub(super) fn new(
        shape: Shape,
        dir: PathBuf,
        (network, book): (Network, Book),
        mut rng: Rng,
        planted: Planted,
    ) -> Self {
        let nodes = (0..shape.nodes).map(|at| Seat::new(Machine::new(at, format!("node {}", at + 1), &mut rng)));
        let nodes = nodes.collect();
        let gateways = (0..shape.gateways)
            .map(|at| Seat::new(Machine::new(shape.nodes + at, format!("gateway gw-{}", at + 1), &mut rng)));
        let mut gateways: Vec<Seat<_>> = gateways.collect();
        if let Some(drift_ppm) = planted.drift_ppm() {
            gateways.iter_mut().for_each(|seat| seat.machine.drift_ppm = drift_ppm);
        }
        Self { shape, nodes, gateways, network, book, dir, rng, planted }
    }

    fn data_dir(&self, at: usize) -> PathBuf {
        self.dir.join(format!("node-{}", at + 1))
    }

    /// The disk of a node.
    pub(super) fn disk(&self, at: usize) -> Disk {
        Disk::of(&self.data_dir(at))
    }

    pub(super) fn peer_addresses(&self) -> Vec<String> {
        (0..self.shape.nodes).map(|at| address(at, PEER).to_string()).collect()
    }

    pub(super) fn client_addresses(&self) -> Vec<String> {
        (0..self.shape.gateways).map(|at| address(self.shape.nodes + at, CLIENTS).to_string()).collect()
    }

    /// Lets the flushes of a node take so long.
    pub(super) fn set_flush(&mut self, at: usize, (least, most): (Duration, Duration)) {
        let mut rng = self.rng.fork();
        self.disk(at).set_pace(move || least + (most - least).mul_f64(rng.f64()));
    }

    pub(super) fn start_node(&mut self, at: usize, now: Duration) {
        self.set_flush(at, self.shape.flush);
        let disk = self.disk(at);
        disk.set_failing(false);
        disk.set_flaw(self.planted.flaw());
        let peers = (0..self.shape.nodes).map(|at| (at as u64 + 1, address(at, PEER).to_string())).collect();
        let settings = node::Settings {
            id: at as u64 + 1,
            cluster: CLUSTER.to_owned(),
            data_dir: self.data_dir(at),
            listen_api: address(at, API).to_string(),
            listen_peer: address(at, PEER).to_string(),
            advertise_peer: None,
            advertise_api: None,
            peers,
            join: false,
            heartbeat: Duration::from_millis(100),
            election: (Duration::from_millis(300), Duration::from_millis(600)),
            snapshot_every: self.shape.snapshot_every,
            disk_reserve: 0,
            retain_events: self.shape.retain_events,
            retain_bytes: 64 << 20,
            log_engine: LogEngine::Memory,
        };
        self.book.note(format!("node {} starts", at + 1));
        self.network.start(at);
        let seat = &mut self.nodes[at];
        let slot = Arc::clone(&seat.probe);
        seat.silent_since = None;
        seat.stop = CancellationToken::new();
        let stop = seat.stop.clone();
        let run = async move {
            let node = Node::start(settings, stop).await.map_err(|error| format!("it could not start: {error}"))?;
            *slot.lock().expect("nothing panics while it holds a probe") = Some(node.probe.clone());
            node.wait().await
        };
        seat.task = Some(seat.machine.start(now, |runtime| runtime.spawn(run)));
    }

    pub(super) fn start_gateway(&mut self, at: usize, now: Duration) {
        let host = self.shape.nodes + at;
        let settings = gateway::Settings {
            id: format!("gw-{}", at + 1),
            cluster: CLUSTER.to_owned(),
            directory: self.peer_addresses(),
            listen_clients: address(host, CLIENTS).to_string(),
            listen_api: address(host, 8101).to_string(),
            listen_peer: address(host, 8201).to_string(),
            policy: self.shape.policies[at % self.shape.policies.len()],
            lease: LEASE,
            ..gateway::Settings::default()
        };
        self.book.note(format!("gateway gw-{} starts", at + 1));
        self.network.start(host);
        let seat = &mut self.gateways[at];
        let slot = Arc::clone(&seat.probe);
        seat.silent_since = None;
        seat.stop = CancellationToken::new();
        let stop = seat.stop.clone();
        let run = async move {
            let started = Gateway::start(settings, stop, CancellationToken::new()).await;
            let running = started.map_err(|error| format!("it could not start: {error}"))?;
            *slot.lock().expect("nothing panics while it holds a probe") = Some(running.probe.clone());
            running.wait().await.map_err(|error| error.to_string())
        };
        seat.task = Some(seat.machine.start(now, |runtime| runtime.spawn(run)));
    }

    /// The process of a node is gone. With its machine, some of what was not synced is, too.
    pub(super) fn crash_node(&mut self, at: usize, now: Duration, powered: bool) {
        self.network.stop(at, powered);
        let seat = &mut self.nodes[at];
        seat.silent_since.get_or_insert(now);
        seat.forget();
        let disk = self.disk(at);
        let unsynced = disk.unsynced();
        // What a process has written stays when only the process ends.
        let kept = if powered { unsynced } else { self.rng.usize(0..=unsynced) };
        disk.crash(kept);
        let how = if powered { "is killed" } else { "loses its power" };
        self.book.note(format!("node {} {how}; {kept} of {unsynced} unsynced writes are kept", at + 1));
    }

    pub(super) fn crash_gateway(&mut self, at: usize, now: Duration, powered: bool) {
        self.network.stop(self.shape.nodes + at, powered);
        let seat = &mut self.gateways[at];
        seat.silent_since.get_or_insert(now);
        seat.forget();
        let how = if powered { "is killed" } else { "loses its power" };
        self.book.note(format!("gateway gw-{} {how}", at + 1));
    }

    /// Lets every process run until `now`, in an order that differs from step to step.
    pub(super) fn step(&mut self, now: Duration) {
        let all = self.nodes.len() + self.gateways.len();
        let first = self.rng.usize(0..all);
        for at in (first..all).chain(0..first) {
            match at.checked_sub(self.nodes.len()) {
                None => self.nodes[at].machine.step(now),
                Some(at) => self.gateways[at].machine.step(now),
            }
        }
    }

    /// Processes that have ended by themselves: positions of nodes and gateways, with the reasons.
    pub(super) fn ended(&mut self, now: Duration) -> Vec<(Host, Result<(), String>)> {
        let mut ended = Vec::new();
        for at in 0..self.nodes.len() {
            if let Some(how) = self.nodes[at].ended() {
                // The folder has another name each time.
                let dir = self.dir.display().to_string();
                ended.push((at, how.map_err(|why| why.replace(&dir, "its folder"))));
                self.crash_node(at, now, true);
            }
        }
        for at in 0..self.gateways.len() {
            if let Some(how) = self.gateways[at].ended() {
                ended.push((self.nodes.len() + at, how));
                self.crash_gateway(at, now, true);
            }
        }
        ended
    }

    /// The node that leads in the latest term, as far as the nodes know.
    pub(super) fn leader(&self) -> Option<(usize, u64)> {
        let leaders = self.nodes.iter().enumerate().filter_map(|(at, seat)| Some((at, seat.probe()?.leads()?)));
        leaders.max_by_key(|(_, term)| *term)
    }
}
