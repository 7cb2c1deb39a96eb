//! What goes wrong: drawn from the seed, done, and undone after a while.

use std::time::Duration;

use fastrand::Rng;

use super::checks::Checks;
use super::cluster::Cluster;
use super::network::Weather;

/// How one fault is undone.
#[derive(Debug, Clone)]
enum Undo {
    StartNode(usize),
    StartGateway(usize),
    ThawNode(usize),
    ThawGateway(usize),
    /// Links that were cut.
    Mend(Vec<(usize, usize)>),
    Disk(usize),
    Weather,
}

/// The faults of one run.
#[derive(Debug)]
pub(super) struct Faults {
    rng: Rng,
    next: Duration,
    /// With the moment at which each is due.
    undoing: Vec<(Duration, Undo)>,
    /// Between two faults.
    pause: (u64, u64),
}

impl Faults {
    pub(super) fn new(mut rng: Rng) -> Self {
        let slow = rng.bool();
        let pause = if slow { (800, 5000) } else { (100, 2000) };
        Self { rng, next: Duration::from_secs(4), undoing: Vec::new(), pause }
    }

    fn soon(&mut self, (least, most): (u64, u64)) -> Duration {
        Duration::from_millis(self.rng.u64(least..most))
    }

    /// Undoes what is due, and does the next if it is.
    pub(super) fn step(&mut self, cluster: &mut Cluster, checks: &mut Checks, now: Duration) {
        self.undo_due(cluster, checks, now);
        if now >= self.next {
            self.next = now + self.soon(self.pause);
            self.strike(cluster, checks, now);
        }
    }

    /// Undoes what is due.
    pub(super) fn undo_due(&mut self, cluster: &mut Cluster, checks: &mut Checks, now: Duration) {
        let (due, later) = std::mem::take(&mut self.undoing).into_iter().partition(|(at, _)| *at <= now);
        self.undoing = later;
        for (_, undo) in due {
            undo_one(cluster, checks, &undo, now);
        }
    }

    /// Undoes everything.
    pub(super) fn heal(&mut self, cluster: &mut Cluster, checks: &mut Checks, now: Duration) {
        for (_, undo) in std::mem::take(&mut self.undoing) {
            undo_one(cluster, checks, &undo, now);
        }
        cluster.network.heal();
        cluster.book.note("everything is whole again");
    }

    /// A process that ended by itself is started again after a while.
    pub(super) fn start_later(&mut self, host: usize, cluster: &Cluster, now: Duration) {
        let at = now + self.soon((100, 2000));
        let undo = match host.checked_sub(cluster.nodes.len()) {
            None => Undo::StartNode(host),
            Some(at) => Undo::StartGateway(at),
        };
        self.undoing.push((at, undo));
    }

    fn strike(&mut self, cluster: &mut Cluster, checks: &mut Checks, now: Duration) {
        let node = self.rng.usize(0..cluster.nodes.len());
        let gateway = self.rng.usize(0..cluster.gateways.len());
        // The leader is the most interesting one.
        let node = match cluster.leader() {
            Some((leader, _)) if self.rng.u32(0..3) == 0 => leader,
            _ => node,
        };
        match self.rng.u32(0..24) {
            0..=2 => self.crash_node(cluster, checks, node, now),
            3 => self.cut_all_power(cluster, checks, now),
            4..=5 => self.freeze_node(cluster, checks, node, now),
            6..=7 => self.freeze_gateway(cluster, gateway, now),
            8..=10 => self.partition(cluster, checks, now),
            11..=12 => self.cut_off_gateway(cluster, gateway, now),
            13..=14 => self.slow_disk(cluster, checks, node, now),
            15 => self.fail_disk(cluster, checks, node, now),
            16..=17 => self.crash_gateway(cluster, gateway, now),
            18 => self.stop_in_order(cluster, checks, node, gateway, now),
            19 => self.hand_over(cluster, checks, now),
            20..=21 => self.reset_streams(cluster, checks, now),
            22 => self.storm(cluster, checks, now),
            _ => self.jump(cluster, node, gateway),
        }
    }

    fn crash_node(&mut self, cluster: &mut Cluster, checks: &mut Checks, at: usize, now: Duration) {
        if !cluster.nodes[at].machine.runs() {
            return;
        }
        let powered = self.rng.bool();
        cluster.crash_node(at, now, powered);
        cluster.book.count("nodes crashed");
        checks.disturbed = now;
        let until = now + self.soon((50, 6000));
        self.undoing.push((until, Undo::StartNode(at)));
    }

    fn cut_all_power(&mut self, cluster: &mut Cluster, checks: &mut Checks, now: Duration) {
        cluster.book.count("power cuts of all");
        for at in 0..cluster.nodes.len() {
            if cluster.nodes[at].machine.runs() {
                cluster.crash_node(at, now, false);
                let until = now + self.soon((100, 3000));
                self.undoing.push((until, Undo::StartNode(at)));
            }
        }
        checks.disturbed = now;
    }

    fn freeze_node(&mut self, cluster: &mut Cluster, checks: &mut Checks, at: usize, now: Duration) {
        let seat = &mut cluster.nodes[at];
        if !seat.machine.runs() || seat.machine.frozen {
            return;
        }
        seat.machine.frozen = true;
        checks.disturbed = now;
        cluster.book.note(format!("node {} is frozen", at + 1));
        cluster.book.count("nodes frozen");
        let until = now + self.soon((100, 8000));
        self.undoing.push((until, Undo::ThawNode(at)));
    }

    fn freeze_gateway(&mut self, cluster: &mut Cluster, at: usize, now: Duration) {
        let seat = &mut cluster.gateways[at];
        if !seat.machine.runs() || seat.machine.frozen {
            return;
        }
        seat.machine.frozen = true;
        seat.silent_since = Some(now);
        cluster.book.note(format!("gateway gw-{} is frozen", at + 1));
        cluster.book.count("gateways frozen");
        let until = now + self.soon((200, 8000));
        self.undoing.push((until, Undo::ThawGateway(at)));
    }

    /// Nodes on two sides, some of the time with gateways, or one that is not heard.
    fn partition(&mut self, cluster: &mut Cluster, checks: &mut Checks, now: Duration) {
        let nodes = cluster.nodes.len();
        let mut links = Vec::new();
        let one_way = self.rng.u32(0..3) == 0;
        if one_way {
            let from = self.rng.usize(0..nodes);
            links.extend((0..nodes).filter(|to| *to != from).map(|to| (from, to)));
        } else {
            let gateways = if self.rng.bool() { cluster.gateways.len() } else { 0 };
            let side: Vec<bool> = (0..nodes + gateways).map(|_| self.rng.bool()).collect();
            for from in 0..side.len() {
                links.extend((0..side.len()).filter(|to| side[from] != side[*to]).map(|to| (from, to)));
            }
        }
        checks.disturbed = now;
        cluster.book.count("partitions");
        self.cut(cluster, links, now);
    }

    fn cut_off_gateway(&mut self, cluster: &mut Cluster, at: usize, now: Duration) {
        let host = cluster.nodes.len() + at;
        let (from, to) = (self.rng.u32(0..3) != 0, self.rng.u32(0..3) != 0);
        let mut links = Vec::new();
        for node in 0..cluster.nodes.len() {
            links.extend([(from, (host, node)), (to, (node, host))].iter().filter(|(cut, _)| *cut).map(|(_, l)| *l));
        }
        cluster.book.count("gateways cut off");
        self.cut(cluster, links, now);
    }

    fn cut(&mut self, cluster: &mut Cluster, links: Vec<(usize, usize)>, now: Duration) {
        for (from, to) in &links {
            cluster.network.set_cut(*from, *to, true);
        }
        cluster.book.note(format!("links are cut: {links:?}"));
        let until = now + self.soon((200, 9000));
        self.undoing.push((until, Undo::Mend(links)));
    }

    fn slow_disk(&mut self, cluster: &mut Cluster, checks: &mut Checks, at: usize, now: Duration) {
        let pace = match self.rng.bool() {
            true => (Duration::from_millis(20), Duration::from_millis(400)),
            false => (Duration::from_secs(2), Duration::from_secs(6)),
        };
        cluster.set_flush(at, pace);
        checks.disturbed = now;
        cluster.book.note(format!("the disk of node {} takes {pace:?}", at + 1));
        cluster.book.count("slow disks");
        let until = now + self.soon((500, 6000));
        self.undoing.push((until, Undo::Disk(at)));
    }

    fn fail_disk(&mut self, cluster: &mut Cluster, checks: &mut Checks, at: usize, now: Duration) {
        if !cluster.nodes[at].machine.runs() {
            return;
        }
        cluster.disk(at).set_failing(true);
        checks.disturbed = now;
        cluster.book.note(format!("the disk of node {} fails", at + 1));
        cluster.book.count("failed disks");
    }

    fn crash_gateway(&mut self, cluster: &mut Cluster, at: usize, now: Duration) {
        if !cluster.gateways[at].machine.runs() {
            return;
        }
        let powered = self.rng.bool();
        cluster.crash_gateway(at, now, powered);
        cluster.book.count("gateways crashed");
        let until = now + self.soon((50, 8000));
        self.undoing.push((until, Undo::StartGateway(at)));
    }

    fn stop_in_order(
        &mut self,
        cluster: &mut Cluster,
        checks: &mut Checks,
        node: usize,
        gateway: usize,
        now: Duration,
    ) {
        if self.rng.bool() {
            cluster.nodes[node].ask_to_stop();
            checks.disturbed = now;
            cluster.book.note(format!("node {} is asked to stop", node + 1));
        } else {
            cluster.gateways[gateway].ask_to_stop();
            cluster.book.note(format!("gateway gw-{} is asked to stop", gateway + 1));
        }
        cluster.book.count("stops in order");
    }

    fn hand_over(&mut self, cluster: &mut Cluster, checks: &mut Checks, now: Duration) {
        let Some((at, _)) = cluster.leader() else { return };
        let seat = &cluster.nodes[at];
        if seat.machine.frozen {
            return;
        }
        let Some(probe) = seat.probe() else { return };
        checks.disturbed = now;
        cluster.book.note(format!("node {} is asked to hand over", at + 1));
        cluster.book.count("hand-overs");
        seat.machine.begin(|runtime| {
            runtime.spawn(async move { probe.hand_over(Duration::from_secs(1)).await });
        });
    }

    fn reset_streams(&mut self, cluster: &mut Cluster, checks: &mut Checks, now: Duration) {
        let all = cluster.shape.machines();
        let (one, other) = (self.rng.usize(0..all), self.rng.usize(0..all));
        cluster.network.reset(one, other);
        checks.disturbed = now;
        cluster.book.note(format!("streams between machines {one} and {other} are reset"));
        cluster.book.count("resets");
    }

    fn storm(&mut self, cluster: &mut Cluster, checks: &mut Checks, now: Duration) {
        let worst = self.rng.u64(20..250);
        let delay = (Duration::from_millis(1), Duration::from_millis(worst));
        let weather = Weather { delay, late_one_in: 20, late_by: Duration::from_millis(400) };
        cluster.network.set_weather(weather);
        checks.disturbed = now;
        cluster.book.note(format!("everything takes up to {worst} ms on its way"));
        cluster.book.count("storms");
        let until = now + self.soon((500, 5000));
        self.undoing.push((until, Undo::Weather));
    }

    /// The wall clock of a machine is set.
    fn jump(&mut self, cluster: &mut Cluster, node: usize, gateway: usize) {
        let ahead_ms = self.rng.i64(-7_200_000..7_200_000);
        let machine = match self.rng.bool() {
            true => &mut cluster.nodes[node].machine,
            false => &mut cluster.gateways[gateway].machine,
        };
        machine.wall_ahead_ms = ahead_ms;
        let name = machine.name.clone();
        cluster.book.note(format!("the wall clock of {name} is set to {ahead_ms} ms"));
        cluster.book.count("clock jumps");
    }
}

fn undo_one(cluster: &mut Cluster, checks: &mut Checks, undo: &Undo, now: Duration) {
    match undo {
        Undo::StartNode(at) if !cluster.nodes[*at].machine.runs() => {
            cluster.start_node(*at, now);
            checks.disturbed = now;
        }
        Undo::StartGateway(at) if !cluster.gateways[*at].machine.runs() => cluster.start_gateway(*at, now),
        Undo::StartNode(_) | Undo::StartGateway(_) => {}
        Undo::ThawNode(at) => {
            let seat = &mut cluster.nodes[*at];
            if seat.machine.frozen {
                cluster.book.note(format!("node {} goes on", at + 1));
                seat.machine.thaw(now);
                checks.disturbed = now;
            }
        }
        Undo::ThawGateway(at) => {
            let seat = &mut cluster.gateways[*at];
            if seat.machine.frozen {
                cluster.book.note(format!("gateway gw-{} goes on", at + 1));
                seat.silent_since = None;
                seat.machine.thaw(now);
            }
        }
        Undo::Mend(links) => {
            for (from, to) in links {
                cluster.network.set_cut(*from, *to, false);
            }
            cluster.book.note(format!("links are whole: {links:?}"));
            checks.disturbed = now;
        }
        Undo::Disk(at) => {
            cluster.set_flush(*at, cluster.shape.flush);
            checks.disturbed = now;
        }
        Undo::Weather => {
            cluster.network.set_weather(cluster.shape.weather.clone());
            checks.disturbed = now;
        }
    }
}
