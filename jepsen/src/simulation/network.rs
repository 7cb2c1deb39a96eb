//! A network in memory: streams with delays, of machines that crash, behind links that are cut.
//!
//! Streams are reliable, as TCP is: what a cut link holds back is sent again and arrives when the link is whole. A process
//! that ends resets its streams; a machine without power says nothing, and resets what reaches it when it is back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Duration;

use fastrand::Rng;
use switchboard::simulation::Pipe;
use tokio::sync::oneshot;

use super::pipes::{Acceptor, Reader, Writer};

/// Bytes on their way or unread, at which a writer has to wait.
pub(super) const WINDOW_BYTES: usize = 256 << 10;

/// A machine, by position.
pub(super) type Host = usize;

/// One end of a stream: the stream, and whether it is the end that connected.
pub(super) type End = (u64, bool);

/// What travels.
#[derive(Debug)]
pub(super) enum Part {
    Bytes(Vec<u8>),
    Finish,
    Reset,
}

/// One direction of a stream.
#[derive(Debug, Default)]
pub(super) struct Direction {
    /// With the moment of its arrival; in order.
    under_way: VecDeque<(Duration, Part)>,
    under_way_bytes: usize,
    pub(super) arrived: VecDeque<u8>,
    pub(super) finished: bool,
    pub(super) reset: bool,
    /// Nobody will read it any more.
    pub(super) unread: bool,
    /// Nobody will write to it any more.
    pub(super) closed: bool,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl Direction {
    pub(super) fn is_full(&self) -> bool {
        self.under_way_bytes + self.arrived.len() >= WINDOW_BYTES
    }
}

#[derive(Debug)]
struct Connection {
    /// The ends: who accepted, and who connected; with the times that these have started.
    hosts: [(Host, u64); 2],
    /// What each of them sends.
    directions: [Direction; 2],
}

#[derive(Debug)]
struct Listening {
    host: Host,
    queue: VecDeque<(Pipe2, SocketAddr)>,
    waker: Option<Waker>,
}

/// A pipe that can be shown.
#[derive(Debug)]
struct Pipe2(End);

#[derive(Debug)]
struct Attempt {
    at: Duration,
    from: Host,
    to: SocketAddr,
    answer: oneshot::Sender<io::Result<End>>,
}

#[derive(Debug, Clone)]
struct Machine {
    address: SocketAddr,
    /// How often a process has started here; what belongs to an earlier one is gone.
    life: u64,
    runs: bool,
    powered: bool,
}

/// How the links behave.
#[derive(Debug, Clone)]
pub(super) struct Weather {
    /// Shortest and longest usual delay.
    pub(super) delay: (Duration, Duration),
    /// One part in so many is late.
    pub(super) late_one_in: u32,
    /// By at most so much.
    pub(super) late_by: Duration,
}

/// The network. Clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Network(Arc<Mutex<State>>);

#[derive(Debug)]
pub(super) struct State {
    now: Duration,
    rng: Rng,
    weather: Weather,
    machines: Vec<Machine>,
    listening: BTreeMap<SocketAddr, Listening>,
    attempts: Vec<Attempt>,
    connections: BTreeMap<u64, Connection>,
    /// When the first part under way of each direction is due, so that nobody looks at the others.
    due: BTreeSet<(Duration, End)>,
    next: u64,
    /// Links that carry nothing in this direction.
    cut: BTreeSet<(Host, Host)>,
    next_port: u16,
    woken: Vec<Waker>,
}

impl Network {
    pub(super) fn new(seed: u64, machines: &[SocketAddr], weather: Weather) -> Self {
        let machine = |address: &SocketAddr| Machine { address: *address, life: 0, runs: false, powered: true };
        Self(Arc::new(Mutex::new(State {
            now: Duration::ZERO,
            rng: Rng::with_seed(seed),
            weather,
            machines: machines.iter().map(machine).collect(),
            listening: BTreeMap::new(),
            attempts: Vec::new(),
            connections: BTreeMap::new(),
            due: BTreeSet::new(),
            next: 1,
            cut: BTreeSet::new(),
            next_port: 20_000,
            woken: Vec::new(),
        })))
    }

    /// Nothing that may run code of a process is done or dropped while this is held.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it holds the network")
    }

    /// Lets everything arrive that is due at `now`.
    pub(super) fn tick(&self, now: Duration) {
        let (woken, opened) = {
            let mut state = self.state();
            state.now = now;
            state.deliver();
            let opened = state.connect();
            (std::mem::take(&mut state.woken), opened)
        };
        for (answer, outcome) in opened {
            if let Err(Ok(end)) = answer.send(outcome) {
                // Whoever tried to connect has given up.
                self.state().drop_end(end);
            }
        }
        woken.into_iter().for_each(Waker::wake);
    }

    pub(super) fn bind(&self, host: Host, address: &str) -> io::Result<Acceptor> {
        let address: SocketAddr = address.parse().map_err(io::Error::other)?;
        let mut state = self.state();
        if state.machines[host].address.ip() != address.ip() {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        if state.listening.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        state.listening.insert(address, Listening { host, queue: VecDeque::new(), waker: None });
        Ok(Acceptor { network: self.clone(), address, life: state.machines[host].life })
    }

    pub(super) fn connect(
        &self,
        from: Host,
        address: &str,
    ) -> io::Result<impl Future<Output = io::Result<Pipe>> + Send + 'static> {
        let to: SocketAddr = address.parse().map_err(io::Error::other)?;
        let (answer, answered) = oneshot::channel();
        let mut state = self.state();
        let at = state.now + state.delay() + state.delay();
        state.attempts.push(Attempt { at, from, to, answer });
        let network = self.clone();
        Ok(async move {
            match answered.await {
                Ok(Ok(end)) => Ok(network.pipe(end)),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(io::ErrorKind::ConnectionAborted.into()),
            }
        })
    }

    pub(super) fn pipe(&self, end: End) -> Pipe {
        Pipe {
            read: Box::new(Reader { network: self.clone(), end }),
            write: Box::new(Writer { network: self.clone(), end }),
        }
    }

    /// A process begins here.
    pub(super) fn start(&self, host: Host) {
        let mut state = self.state();
        let machine = &mut state.machines[host];
        (machine.life, machine.runs, machine.powered) = (machine.life + 1, true, true);
    }

    /// The process here is gone; without power its machine is, too, and can't even say so.
    pub(super) fn stop(&self, host: Host, powered: bool) {
        let mut state = self.state();
        let machine = &mut state.machines[host];
        (machine.runs, machine.powered) = (false, powered);
        state.listening.retain(|_, listening| listening.host != host);
        if powered {
            state.reset_where(|hosts| hosts.iter().any(|(of, _)| *of == host));
        }
    }

    /// Cuts a link, or makes it whole.
    pub(super) fn set_cut(&self, from: Host, to: Host, cut: bool) {
        let mut state = self.state();
        if cut {
            state.cut.insert((from, to));
        } else {
            state.cut.remove(&(from, to));
        }
    }

    /// Makes every link whole.
    pub(super) fn heal(&self) {
        self.state().cut.clear();
    }

    /// Changes how the links behave.
    pub(super) fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Resets every stream between two machines.
    pub(super) fn reset(&self, one: Host, other: Host) {
        self.state().reset_where(|hosts| {
            let both = [hosts[0].0, hosts[1].0];
            both == [one, other] || both == [other, one]
        });
    }
}

impl State {
    fn delay(&mut self) -> Duration {
        let (least, most) = self.weather.delay;
        let usual = least + (most - least).mul_f64(self.rng.f64());
        match self.weather.late_one_in {
            0 => usual,
            one_in if self.rng.u32(0..one_in) == 0 => usual + self.weather.late_by.mul_f64(self.rng.f64()),
            _ => usual,
        }
    }

    fn is_cut(&self, from: Host, to: Host) -> bool {
        self.cut.contains(&(from, to))
    }

    pub(super) fn life(&self, host: Host) -> u64 {
        self.machines[host].life
    }

    /// What an end receives.
    pub(super) fn incoming(&mut self, (id, connector): End) -> Option<&mut Direction> {
        self.connections.get_mut(&id).map(|connection| &mut connection.directions[usize::from(!connector)])
    }

    /// What an end sends.
    pub(super) fn outgoing(&mut self, (id, connector): End) -> Option<&mut Direction> {
        self.connections.get_mut(&id).map(|connection| &mut connection.directions[usize::from(connector)])
    }

    /// Sends a part from an end.
    pub(super) fn send(&mut self, end: End, part: Part) {
        let delay = self.delay();
        let at = self.now + delay;
        let Some(direction) = self.outgoing(end) else { return };
        // Nothing overtakes on a stream.
        let at = direction.under_way.back().map_or(at, |(last, _)| at.max(*last));
        if let Part::Bytes(bytes) = &part {
            direction.under_way_bytes += bytes.len();
        }
        direction.under_way.push_back((at, part));
        if direction.under_way.len() == 1 {
            self.due.insert((at, end));
        }
    }

    /// Both halves of an end that nobody has taken.
    fn drop_end(&mut self, end: End) {
        self.stop_reading(end);
        self.stop_writing(end);
    }

    pub(super) fn stop_reading(&mut self, end: End) {
        let Some(direction) = self.incoming(end) else { return };
        direction.unread = true;
        let unread = !direction.arrived.is_empty();
        direction.arrived.clear();
        if unread {
            self.send(end, Part::Reset);
        }
    }

    pub(super) fn stop_writing(&mut self, end: End) {
        let Some(direction) = self.outgoing(end) else { return };
        if !std::mem::replace(&mut direction.closed, true) {
            self.send(end, Part::Finish);
        }
    }

    fn reset_where(&mut self, is_meant: impl Fn(&[(Host, u64); 2]) -> bool) {
        let meant: Vec<u64> =
            self.connections.iter().filter(|(_, connection)| is_meant(&connection.hosts)).map(|(id, _)| *id).collect();
        for id in meant {
            self.send((id, true), Part::Reset);
            self.send((id, false), Part::Reset);
        }
    }

    /// Every part that is due arrives.
    fn deliver(&mut self) {
        while let Some((at, from)) = self.due.first().copied().filter(|(at, _)| *at <= self.now) {
            self.due.remove(&(at, from));
            self.deliver_one(from);
            self.forget_if_over(from.0);
        }
    }

    /// A stream is over when nobody holds an end of it and nothing is under way.
    fn forget_if_over(&mut self, id: u64) {
        let over = |direction: &Direction| direction.unread && direction.closed && direction.under_way.is_empty();
        if self.connections.get(&id).is_some_and(|connection| connection.directions.iter().all(over)) {
            self.connections.remove(&id);
        }
    }

    /// The first part that an end has sent is due.
    fn deliver_one(&mut self, from: End) {
        let now = self.now;
        let Some(connection) = self.connections.get(&from.0) else { return };
        let (sender, (receiver, life)) =
            (connection.hosts[usize::from(from.1)].0, connection.hosts[usize::from(!from.1)]);
        let machine = self.machines[receiver].clone();
        let held_back = self.is_cut(sender, receiver) || !machine.powered;
        let again = now + Duration::from_millis(self.rng.u64(40..200));
        let direction = self.outgoing(from).expect("the connection is there");
        if held_back {
            // It is sent again after a while.
            let Some((at, _)) = direction.under_way.front_mut() else { return };
            *at = again;
            self.due.insert((again, from));
            return;
        }
        let Some((_, part)) = direction.under_way.pop_front() else { return };
        if let Part::Bytes(bytes) = &part {
            direction.under_way_bytes -= bytes.len();
        }
        let next = direction.under_way.front().map(|(at, _)| (*at, from));
        self.due.extend(next);
        let direction = self.outgoing(from).expect("the connection is there");
        let of_the_dead = machine.life != life || !machine.runs;
        match part {
            // The process that it was for is gone, or nobody reads it: the sender is told.
            Part::Bytes(_) if of_the_dead || direction.unread => self.send((from.0, !from.1), Part::Reset),
            Part::Bytes(bytes) => direction.arrived.extend(bytes),
            Part::Finish => direction.finished = true,
            Part::Reset => {
                direction.reset = true;
                let (writer, closed) = {
                    let back = self.incoming(from).expect("the connection is there");
                    back.reset = true;
                    (back.writer.take(), back.reader.take())
                };
                self.woken.extend([writer, closed].into_iter().flatten());
            }
        }
        let direction = self.outgoing(from).expect("the connection is there");
        let woken = [direction.reader.take(), direction.writer.take()];
        self.woken.extend(woken.into_iter().flatten());
    }

    /// Connections that are due are made, or refused.
    fn connect(&mut self) -> Vec<(oneshot::Sender<io::Result<End>>, io::Result<End>)> {
        let mut settled = Vec::new();
        for mut attempt in std::mem::take(&mut self.attempts) {
            if attempt.answer.is_closed() {
                continue;
            }
            if attempt.at > self.now {
                self.attempts.push(attempt);
                continue;
            }
            let host = self.machines.iter().position(|machine| machine.address.ip() == attempt.to.ip());
            let Some(host) = host else {
                settled.push((attempt.answer, Err(io::ErrorKind::HostUnreachable.into())));
                continue;
            };
            if self.is_cut(attempt.from, host) || self.is_cut(host, attempt.from) || !self.machines[host].powered {
                attempt.at = self.now + Duration::from_millis(self.rng.u64(100..400));
                self.attempts.push(attempt);
                continue;
            }
            if !self.listening.contains_key(&attempt.to) {
                settled.push((attempt.answer, Err(io::ErrorKind::ConnectionRefused.into())));
                continue;
            }
            let end = self.open(attempt.from, host, attempt.to);
            settled.push((attempt.answer, Ok(end)));
        }
        settled
    }

    fn open(&mut self, from: Host, to: Host, address: SocketAddr) -> End {
        let id = self.next;
        self.next += 1;
        self.next_port = self.next_port.checked_add(1).unwrap_or(20_000);
        let peer = SocketAddr::new(self.machines[from].address.ip(), self.next_port);
        let hosts = [(to, self.life(to)), (from, self.life(from))];
        self.connections.insert(id, Connection { hosts, directions: Default::default() });
        let listening = self.listening.get_mut(&address).expect("somebody listens");
        listening.queue.push_back((Pipe2((id, false)), peer));
        self.woken.extend(listening.waker.take());
        (id, true)
    }

    /// The next connection at a listener.
    pub(super) fn accepted(&mut self, address: SocketAddr, waker: &Waker) -> Option<(End, SocketAddr)> {
        let listening = self.listening.get_mut(&address)?;
        if let Some((Pipe2(end), from)) = listening.queue.pop_front() {
            return Some((end, from));
        }
        listening.waker = Some(waker.clone());
        None
    }

    /// A listener is closed, if it is still that of this process.
    pub(super) fn unbind(&mut self, address: SocketAddr, life: u64) {
        let of = self.listening.get(&address).map(|listening| self.life(listening.host));
        if of == Some(life)
            && let Some(listening) = self.listening.remove(&address)
        {
            for (Pipe2(end), _) in listening.queue {
                self.drop_end(end);
            }
        }
    }

    /// Whether the process that has this end is still the one that opened it.
    pub(super) fn is_alive(&self, (id, connector): End) -> bool {
        self.connections.get(&id).is_some_and(|connection| {
            let (host, life) = connection.hosts[usize::from(connector)];
            let machine = &self.machines[host];
            machine.life == life && machine.runs
        })
    }
}
