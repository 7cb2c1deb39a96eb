//! Random commands that collide as often as possible: few users, few gateways, small serials, much that is late.

use std::sync::Arc;

use fastrand::Rng;
use switchboard::directory::limits::{NAME_BYTES_MAX, TEXT_BYTES_MAX};
use switchboard::directory::{
    Ban, Batch, Command, Disconnect, Entry, Epoch, GatewayAddresses, Handover, Op, OpenSession, Per, Policy, Reason,
    Register, Release, Whom,
};

use super::model::Model;
use super::places::State;

pub(crate) const USERS: [&str; 6] = ["ada", "bob", "cy", "dee", "eve", "fay"];
const GATEWAYS: [&str; 4] = ["gw-1", "gw-2", "gw-3", "gw-4"];
/// Addresses in the form in which they are printed, and not quite.
const ADDRESSES: [&str; 6] =
    ["203.0.113.7:4711", "203.0.113.7", "203.0.113.7:04711", "[2001:db8::1]:443", "[2001:DB8::1]:443", "::1"];
const REASONS: [Reason; 4] = [Reason::Closed, Reason::Expired, Reason::Died, Reason::Drained];

/// Makes entries that fit the present state of a model, more or less.
pub(crate) struct Generator {
    pub(crate) rng: Rng,
    /// Batches and registrations sent before, to be sent again.
    batches: Vec<Batch>,
    registers: Vec<(Epoch, Register)>,
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed), batches: Vec::new(), registers: Vec::new() }
    }

    pub(crate) fn entry(&mut self, model: &Model) -> Entry {
        let count = if self.one_in(4) { 1 + self.rng.usize(..4) } else { 1 };
        Entry { at_ms: self.rng.u64(..), commands: (0..count).map(|_| self.command(model)).collect() }
    }

    fn command(&mut self, model: &Model) -> Command {
        match self.rng.u32(..100) {
            0..10 => Command::OpenSession(self.open(model)),
            10..14 => {
                let epoch = if self.one_in(6) { self.ended(model) } else { self.epoch(model) };
                Command::EndSession { epoch, reason: self.pick(&REASONS), fenced: self.rng.bool() }
            }
            14..16 => Command::ReleaseClaims { epoch: self.ended(model) },
            16..18 => Command::Disconnect(self.disconnect(model)),
            18 => {
                let user = if self.one_in(4) { "".into() } else { self.pick(&USERS).into() };
                let reason = self.rng.bool().then(|| "spam".into());
                Command::Ban { user, ban: Ban { until_ms: self.rng.bool().then(|| self.rng.u64(..9)), reason } }
            }
            19..22 => {
                let user = self.pick(&USERS);
                let made = model.bans.get(user).map(|(made, _)| *made).filter(|_| self.rng.bool());
                Command::Unban { user: user.into(), made: if self.one_in(4) { Some(1) } else { made } }
            }
            22..24 => Command::Reclaim { epoch: self.ended(model), limit: self.rng.u32(..6) },
            24..34 if !self.batches.is_empty() => Command::Batch(self.late_batch()),
            _ => Command::Batch(self.batch(model)),
        }
    }

    fn open(&mut self, model: &Model) -> OpenSession {
        let gateway: Arc<str> = self.pick(&GATEWAYS).into();
        let known = model.gateways.get(&gateway);
        let nonce = match known {
            Some((nonce, ..)) if !self.one_in(3) => nonce.clone(),
            _ => self.pick(&["n1", "n2", "n3"]).into(),
        };
        let attempt = known.map_or(1, |(_, attempt, _)| *attempt) + self.rng.u64(..3);
        let mut open = OpenSession {
            gateway,
            nonce,
            attempt: attempt.saturating_sub(1),
            lease_ms: 3000,
            addresses: GatewayAddresses { peer: Some("127.0.0.1:8201".into()), ..GatewayAddresses::default() },
        };
        match self.rng.u32(..60) {
            0 => open.gateway = "".into(),
            1 => open.nonce = "n\u{7}".into(),
            2 => open.addresses.url = Some("u".repeat(TEXT_BYTES_MAX + 1).into()),
            _ => {}
        }
        open
    }

    fn batch(&mut self, model: &Model) -> Batch {
        let epoch = self.epoch(model);
        let next = model.sessions.get(&epoch).map_or(1, |session| session.done.len() as u64 + 1);
        let seq = match self.rng.u32(..20) {
            0..6 => None,
            6 => Some(next + 1 + self.rng.u64(..3)),
            7 => Some(self.rng.u64(..next)),
            _ => Some(next),
        };
        let mut serial = model.sessions.get(&epoch).and_then(|session| session.last_serial).map_or(0, |last| last + 1);
        let ops = (0..self.rng.usize(..7)).map(|_| self.op(model, epoch, &mut serial)).collect();
        let batch = Batch { epoch, seq, ops };
        self.batches.push(batch.clone());
        batch
    }

    /// One that was sent before, often just now, sometimes long ago.
    fn late_batch(&mut self) -> Batch {
        let age = if self.one_in(3) { self.rng.usize(..self.batches.len()) } else { self.rng.usize(..4) };
        self.batches[self.batches.len().saturating_sub(1 + age)].clone()
    }

    fn op(&mut self, model: &Model, epoch: Epoch, next_serial: &mut u64) -> Op {
        let old_serial = next_serial.saturating_sub(self.rng.u64(..24));
        match self.rng.u32(..10) {
            0..5 => {
                *next_serial += if self.one_in(8) { 60 } else { self.rng.u64(..2) };
                let mut register = self.register(*next_serial);
                if self.one_in(4) {
                    self.again(model, &mut register);
                }
                *next_serial += 1;
                self.registers.push((epoch, register.clone()));
                Op::Register(register)
            }
            5 => match self.registers.iter().rev().take(12).find(|(of, _)| *of == epoch && self.rng.bool()) {
                Some((_, register)) => {
                    let mut register = register.clone();
                    if self.one_in(4) {
                        register.device = "another".into();
                    }
                    Op::Register(register)
                }
                None => Op::Register(self.register(old_serial)),
            },
            6 if self.rng.bool() => {
                let mut topics: Vec<Arc<str>> =
                    (0..self.rng.usize(..4)).map(|_| self.pick(&["t1", "t2", "t:3", "u"]).into()).collect();
                if self.one_in(20) {
                    topics.push("".into());
                }
                if self.rng.bool() { Op::Join { topics } } else { Op::Leave { topics } }
            }
            6..8 => Op::Unregister { serial: old_serial, reason: self.pick(&REASONS) },
            _ => {
                let length = if self.one_in(20) { TEXT_BYTES_MAX + 1 } else { self.rng.usize(..9) };
                let if_version = self.rng.bool().then(|| self.rng.u32(1..4));
                Op::Meta { serial: old_serial, meta: "m".repeat(length).into(), if_version }
            }
        }
    }

    pub(crate) fn register(&mut self, serial: u64) -> Register {
        let text = |rng: &mut Rng| rng.bool().then(|| "t".repeat(rng.usize(..9)).into());
        let mut register = Register {
            serial,
            user: self.pick(&USERS).into(),
            device: self.pick(&["", "web", "ios"]).into(),
            policy: self.policy(),
            since: None,
            connected_at_ms: self.rng.u64(..3),
            remote: if self.one_in(3) { Some(self.pick(&ADDRESSES).into()) } else { text(&mut self.rng) },
            meta: text(&mut self.rng),
        };
        match self.rng.u32(..120) {
            0 => register.user = "".into(),
            1 => register.user = "u".repeat(NAME_BYTES_MAX + 1).into(),
            2 => register.device = "a\nb".into(),
            3 => register.meta = Some("m".repeat(TEXT_BYTES_MAX + 1).into()),
            _ => {}
        }
        register
    }

    fn policy(&mut self) -> Policy {
        let per = self.pick(&[Per::User, Per::Device]);
        match self.rng.u32(..8) {
            0..3 => Policy::Multi { max: self.rng.u32(..9), per },
            3..5 => Policy::OldestWins { per },
            5..7 => Policy::NewestWins { per, handover: Handover::Wait },
            _ => Policy::NewestWins { per, handover: Handover::Immediate },
        }
    }

    /// A socket that was or is registered, in whatever session, comes again.
    fn again(&mut self, model: &Model, register: &mut Register) {
        let known: Vec<_> = model.items.values().filter(|item| item.state != State::Taken).collect();
        if known.is_empty() {
            return;
        }
        let there = &known[self.rng.usize(..known.len())].connection;
        register.user = there.user.clone();
        register.device = there.device.clone();
        register.policy = match there.claim {
            None => Policy::multi(4),
            Some(per) if self.rng.bool() => Policy::OldestWins { per },
            Some(per) => Policy::NewestWins { per, handover: self.pick(&[Handover::Wait, Handover::Immediate]) },
        };
        register.since = Some(if self.one_in(9) { self.rng.u64(..=model.revision + 9) } else { there.granted });
    }

    fn disconnect(&mut self, model: &Model) -> Disconnect {
        let known: Vec<_> = model.items.keys().copied().collect();
        let release = Release { code: 4003, reason: self.rng.bool().then(|| "kicked".into()) };
        let some = (!known.is_empty()).then(|| self.pick(&known));
        let whom = match some {
            Some(id) if self.rng.bool() => Whom::Connection(id),
            except => {
                let devices = if self.rng.bool() { vec![self.pick(&["", "web", "ios"]).into()] } else { Vec::new() };
                Whom::User { user: self.pick(&USERS).into(), devices, except: except.into_iter().collect() }
            }
        };
        Disconnect { whom, release }
    }

    /// Mostly a live session.
    fn epoch(&mut self, model: &Model) -> Epoch {
        let live: Vec<Epoch> = model.sessions.keys().copied().collect();
        if live.is_empty() || self.one_in(12) { self.rng.u64(..=model.revision) } else { self.pick(&live) }
    }

    fn ended(&mut self, model: &Model) -> Epoch {
        let ended: Vec<Epoch> = model.ended.keys().copied().collect();
        if ended.is_empty() { self.epoch(model) } else { self.pick(&ended) }
    }

    pub(crate) fn one_in(&mut self, n: u32) -> bool {
        self.rng.u32(..n) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.rng.usize(..from.len())].clone()
    }
}
