//! What the directory costs at a million connections, in memory alone: `cargo bench --bench directory [-- COUNT]`.
//!
//! The floor, in the same run, is an insertion into a plain `HashMap<Arc<str>, u64>`: no sessions, no order, no events, no
//! frozen copies. The peer in memory is Redis with the same connections.

mod redis;

use std::collections::HashMap;
use std::hint::black_box;
use std::ops::Range;
use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant};

use switchboard::directory::{
    Applied, Batch, Command, Directory, Entry, Epoch, GatewayAddresses, Op, OpenSession, Policy, Reason, Register,
};
use switchboard::memory;

/// Registrations of one entry: what a gateway gathers in a few milliseconds under load.
const BATCH: u64 = 64;

/// The part that has a process of its own, because what memory comes back is told by what the process holds.
const MASS_DEATH: &str = "mass-death";

fn main() {
    let count = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(1_000_000);
    if std::env::args().any(|arg| arg == MASS_DEATH) {
        return mass_death(count);
    }
    println!("{count} connections, {BATCH} an entry, 4 gateways; a user is {} bytes", user(0).len());
    let mut run = Run::begin();
    run.fill(count, 1..5);
    run.memory("resident memory a connection");
    run.look_up(count);
    run.churn("unregister and register, nothing frozen", count, 100_000);
    run.age(count);
    run.freeze(count);
    run.beside_a_snapshot();
    run.snapshot();
    run.end(count);
    run.hot_user(count / 10);
    drop(run);
    let program = std::env::current_exe().expect("it is running");
    let done = process::Command::new(program).args([MASS_DEATH, &count.to_string()]).status();
    assert!(done.is_ok_and(|status| status.success()), "the part {MASS_DEATH} failed");
    floor(count);
    redis::compare(count);
}

struct Run {
    directory: Directory,
    random: u64,
    /// Of each session, by epoch; from the beginning above all serials of `fill`.
    last_serials: [u64; 6],
    /// Resident memory of the process before there was anything.
    before: u64,
}

impl Run {
    fn begin() -> Self {
        let mut run =
            Self { directory: Directory::new(), random: 7, last_serials: [1 << 40; 6], before: resident_bytes() };
        for gateway in 0..5 {
            run.apply(open(gateway));
        }
        run
    }

    fn apply(&mut self, command: Command) -> Applied {
        self.directory.apply(self.directory.revision() + 1, &Entry { at_ms: 0, commands: vec![command] })
    }

    fn fill(&mut self, count: u64, sessions: Range<Epoch>) {
        // One batch at a time, as they arrive: their texts end up between those of the state.
        let (mut spent, mut slowest) = (Duration::ZERO, Duration::ZERO);
        for first in (0..count).step_by(BATCH as usize) {
            let epoch = sessions.start + (first / BATCH) % (sessions.end - sessions.start);
            let ops = (first..(first + BATCH).min(count)).map(|n| register(n, &user(n))).collect();
            let command = Command::Batch(Batch { epoch, seq: None, ops });
            let start = Instant::now();
            black_box(self.apply(command));
            spent += start.elapsed();
            slowest = slowest.max(start.elapsed());
        }
        row("register", spent, count);
        println!("{:>52} {:>10.1?}", "slowest entry", slowest);
    }

    /// What a connection takes beyond its user's name, and what the metric says of it.
    fn memory(&self, what: &str) {
        let count = self.directory.stats().connections;
        let bytes = resident_bytes().saturating_sub(self.before);
        let beyond = (bytes / count) as i64 - user(0).len() as i64;
        println!("{what:>52} {:>10} B, {beyond} B beyond the user", bytes / count);
        let estimate = self.directory.state_bytes();
        let percent = estimate as f64 * 100.0 / bytes as f64;
        println!("{:>52} {:>10} B, {percent:.0} % of it", "... as state_bytes() estimates it", estimate / count);
    }

    fn look_up(&mut self, count: u64) {
        let users: Vec<String> = (0..100_000).map(|_| user(self.random() % count)).collect();
        let start = Instant::now();
        let found: usize = users.iter().map(|user| self.directory.connections_of(user).len()).sum();
        row("look up a user", start.elapsed(), 100_000);
        assert_eq!(found, users.len());
        let start = Instant::now();
        assert_eq!(self.directory.scan(None).count() as u64, count);
        row("scan", start.elapsed(), count);
    }

    /// Connections go and come again under new serials, at random places.
    fn churn(&mut self, what: &str, count: u64, ops: u64) {
        let (mut spent, mut done) = (Duration::ZERO, 0);
        while done < ops {
            let mut ops = Vec::new();
            let start = self.random() % count;
            let found: Vec<_> = (0..BATCH / 2)
                .filter_map(|n| {
                    let n = (start + n * 7919) % count;
                    let id = self.directory.connections_of(&user(n)).first()?.id;
                    Some((n, id))
                })
                .collect();
            let Some(epoch) = found.first().map(|(_, id)| id.epoch) else { continue };
            for (n, id) in found.into_iter().filter(|(_, id)| id.epoch == epoch) {
                ops.push(Op::Unregister { serial: id.serial, reason: Reason::Closed });
                ops.push(register(self.next_serial(epoch), &user(n)));
            }
            done += ops.len() as u64;
            let start = Instant::now();
            black_box(self.apply(Command::Batch(Batch { epoch, seq: None, ops })));
            spent += start.elapsed();
        }
        row(what, spent, done);
    }

    fn freeze(&mut self, count: u64) {
        let start = Instant::now();
        let frozen = self.directory.clone();
        println!("{:>52} {:>10.1?}", "clone", start.elapsed());
        let before = resident_bytes();
        self.churn("... right after a clone", count, 100_000);
        let bytes = resident_bytes().saturating_sub(before);
        println!("{:>52} {:>10} MB", "copied for 100,000 changes", bytes / 1_000_000);
        let start = Instant::now();
        drop(frozen);
        println!("{:>52} {:>10.1?}", "dropping the clone", start.elapsed());
    }

    /// Pages are full after `fill`. With time most of their connections go, and others come on other pages.
    fn age(&mut self, count: u64) {
        self.churn("replace each three times on average", count, 6 * count);
        self.memory("resident memory a connection then");
    }

    /// What entries wait for while a snapshot is taken, and written and dropped on another thread.
    fn beside_a_snapshot(&mut self) {
        const ENTRIES: usize = 50_000;
        let mut left = ENTRIES;
        let (quiet, _) = self.slowest_entry(|| {
            left -= 1;
            left > 0
        });
        let start = Instant::now();
        let frozen = self.directory.clone();
        let cloned = start.elapsed();
        let writer = std::thread::spawn(move || frozen.write_to(&mut std::io::sink()).expect("a sink takes all bytes"));
        let (beside, entries) = self.slowest_entry(|| !writer.is_finished());
        writer.join().expect("the writer does not panic");
        println!("{:>52} {:>10.1?}", "slowest entry of one registration", quiet);
        let what = format!("... of {entries} while a snapshot is written");
        println!("{what:>52} {:>10.1?}", beside.max(cloned));
    }

    /// Applies entries of one registration for as long as it is told to; returns the longest time and their number.
    fn slowest_entry(&mut self, mut go_on: impl FnMut() -> bool) -> (Duration, usize) {
        let epoch = self.directory.connections_of(&user(1)).first().map(|live| live.id.epoch).expect("it is connected");
        let (mut slowest, mut entries) = (Duration::ZERO, 0);
        while go_on() {
            let serial = self.next_serial(epoch);
            let ops = vec![register(serial, &format!("late-{serial}"))];
            let start = Instant::now();
            black_box(self.apply(Command::Batch(Batch { epoch, seq: None, ops })));
            slowest = slowest.max(start.elapsed());
            entries += 1;
        }
        (slowest, entries)
    }

    fn snapshot(&mut self) {
        let mut bytes = Vec::new();
        let start = Instant::now();
        self.directory.write_to(&mut bytes).expect("a Vec takes all bytes");
        println!("{:>52} {:>10.1?} {:>6} MB", "write a snapshot", start.elapsed(), bytes.len() / 1_000_000);
        let start = Instant::now();
        let read = Directory::read_from(&mut bytes.as_slice()).expect("it was just written");
        println!("{:>52} {:>10.1?}", "read it", start.elapsed());
        let start = Instant::now();
        assert_eq!(read.digest(), self.directory.digest());
        println!("{:>52} {:>10.1?}", "digest", start.elapsed() / 2);
    }

    /// Everybody under one name: the index must not become slow by it.
    fn hot_user(&mut self, count: u64) {
        let mut spent = Duration::ZERO;
        for first in (0..count).step_by(BATCH as usize) {
            let ops = (first..first + BATCH).map(|n| register(n, "anonymous")).collect();
            let start = Instant::now();
            black_box(self.apply(Command::Batch(Batch { epoch: 5, seq: None, ops })));
            spent += start.elapsed();
        }
        row("register under one name", spent, count);
        let start = Instant::now();
        let frozen = self.directory.clone();
        let ops = (0..BATCH).map(|n| Op::Unregister { serial: n * (count / BATCH), reason: Reason::Closed }).collect();
        black_box(self.apply(Command::Batch(Batch { epoch: 5, seq: None, ops })));
        row("unregister under one name, after a clone", start.elapsed(), BATCH);
        drop(frozen);
    }

    fn end(&mut self, count: u64) {
        for epoch in 1..=4 {
            let start = Instant::now();
            let applied = self.apply(Command::EndSession { epoch, reason: Reason::Died, fenced: true });
            println!("{:>52} {:>10.1?}", format!("end a session of about {}", count / 4), start.elapsed());
            if epoch == 4 {
                let start = Instant::now();
                let closed = applied.ends[0].frozen.closed_by(epoch, None).count() as u64;
                row("list what it closed", start.elapsed(), closed);
            }
        }
        self.reclaim();
    }

    fn reclaim(&mut self) {
        let (mut spent, mut slowest, mut freed) = (Duration::ZERO, Duration::ZERO, 0);
        for epoch in 1..=4 {
            while let Some(held) = self.held(epoch) {
                let start = Instant::now();
                black_box(self.apply(Command::Reclaim { epoch, limit: 1000 }));
                slowest = slowest.max(start.elapsed());
                spent += start.elapsed();
                freed += held.min(1000);
            }
        }
        row("reclaim", spent, freed);
        println!("{:>52} {:>10.1?}", "slowest slice of 1,000", slowest);
        assert_eq!(self.directory.stats().connections, 0);
    }

    fn held(&self, epoch: Epoch) -> Option<u64> {
        self.directory.ended_sessions().find(|ended| ended.epoch == epoch).map(|ended| ended.held)
    }

    fn next_serial(&mut self, epoch: Epoch) -> u64 {
        let last = &mut self.last_serials[epoch as usize];
        *last += 1;
        *last
    }

    /// xorshift: repeatable, and no dependency.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// One gateway with everything dies.
fn mass_death(count: u64) {
    let mut run = Run::begin();
    run.fill(count, 1..2);
    let with = resident_bytes();
    let start = Instant::now();
    run.apply(Command::EndSession { epoch: 1, reason: Reason::Died, fenced: true });
    println!("{:>52} {:>10.1?}", format!("end a session of {count}"), start.elapsed());
    run.reclaim();
    let reclaimed = resident_bytes();
    let start = Instant::now();
    memory::give_back();
    let (given_back, took) = (resident_bytes(), start.elapsed());
    run.fill(count, 2..3);
    let resident = [run.before, with, reclaimed, given_back, resident_bytes()];
    let [before, with, reclaimed, given_back, again] = resident.map(|bytes| bytes >> 20);
    let what = "resident memory without it, with it, reclaimed";
    println!("{what:>52} {before:>10} MB, {with} MB, {reclaimed} MB; given back within {took:.1?}: {given_back} MB");
    println!("{:>52} {again:>10} MB", "with as many anew");
}

fn floor(count: u64) {
    let mut map: HashMap<Arc<str>, u64> = HashMap::new();
    let mut spent = Duration::ZERO;
    for first in (0..count).step_by(BATCH as usize) {
        let users: Vec<Arc<str>> = (first..(first + BATCH).min(count)).map(|n| user(n).into()).collect();
        let start = Instant::now();
        for (n, user) in users.into_iter().enumerate() {
            map.insert(user, n as u64);
        }
        spent += start.elapsed();
    }
    row("floor: insert into a std HashMap", spent, count);
}

fn row(what: &str, spent: Duration, count: u64) {
    println!("{what:>52} {:>10.0} ns each", spent.as_nanos() as f64 / count as f64);
}

fn user(n: u64) -> String {
    // Spread, so that neither names nor hashes arrive in order.
    format!("user:{:016x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// Where a client comes from: any address, any port.
fn address(n: u64) -> String {
    let [a, b, c, d, e, f, ..] = n.wrapping_mul(0xD6E8_FEB8_6659_FD93).to_be_bytes();
    format!("{a}.{b}.{c}.{d}:{}", u16::from_be_bytes([e, f]))
}

fn open(n: u64) -> Command {
    Command::OpenSession(OpenSession {
        gateway: format!("gw-{n}").into(),
        nonce: "nonce".into(),
        attempt: 1,
        lease_ms: 3000,
        addresses: GatewayAddresses::default(),
    })
}

fn register(serial: u64, user: &str) -> Op {
    Op::Register(Register {
        serial,
        user: user.into(),
        device: "web".into(),
        policy: Policy::multi(16_000_000),
        since: None,
        connected_at_ms: 1_700_000_000_000 + serial / 50,
        remote: Some(address(serial).into()),
        meta: None,
    })
}

/// Resident memory of this process; 0 where the system does not say.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}
