//! Sequences of commands, drawn so that they meet: few users, few gateways, small serials.
//!
//! A copy that is restored from a snapshot in the middle must make of the rest exactly what the original makes of it.

use arbitrary::{Arbitrary, Unstructured};

use crate::directory::{
    Applied, Ban, Batch, Command, ConnectionId, Directory, Disconnect, Entry, Epoch, GatewayAddresses, Handover, Op,
    OpenSession, Outcome, Per, Policy, Reason, Register, Release, Whom,
};

/// Steps of one sequence at most: each is checked in full, so longer ones only take longer.
const STEPS_MAX: usize = 64;

const USERS: [&str; 4] = ["ada", "bob", "cy", ""];
const DEVICES: [&str; 4] = ["", "web", "ios", "a\nb"];
const GATEWAYS: [&str; 4] = ["gw-1", "gw-2", "gw-3", ""];
const NONCES: [&str; 3] = ["n1", "n2", "n\u{7}"];
const TOPICS: [&str; 4] = ["t1", "t2", "t:3", ""];
const REMOTES: [&str; 5] = ["203.0.113.7:4711", "203.0.113.7", "[2001:db8::1]:443", "[2001:DB8::1]:443", "unix"];

#[derive(Debug, Arbitrary)]
struct Sequence {
    restore_at: u8,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary)]
struct Step {
    /// Revisions that are passed over.
    skip: u8,
    commands: Vec<Drawn>,
}

/// A command; sessions are those that were ever opened, counted from the latest.
#[derive(Debug, Arbitrary)]
enum Drawn {
    Open { gateway: u8, nonce: u8, attempt: u8 },
    End { session: u8, reason: u8, fenced: bool },
    Release { session: u8 },
    Reclaim { session: u8, limit: u8 },
    Batch { session: u8, seq: Option<u8>, ops: Vec<DrawnOp> },
    Disconnect { whom: DrawnWhom, code: u16 },
    Ban { user: u8, until: Option<u8> },
    Unban { user: u8, made: Option<u8> },
}

#[derive(Debug, Arbitrary)]
enum DrawnWhom {
    Connection { session: u8, serial: u8 },
    User { user: u8, device: Option<u8>, except: Option<(u8, u8)> },
}

#[derive(Debug, Arbitrary)]
enum DrawnOp {
    Register {
        serial: u8,
        user: u8,
        device: u8,
        policy: u8,
        max: u8,
        since: Option<u8>,
        remote: Option<u8>,
        meta: Option<u8>,
    },
    Unregister {
        serial: u8,
        reason: u8,
    },
    Meta {
        serial: u8,
        length: u16,
        version: Option<u8>,
    },
    Join {
        topics: u8,
    },
    Leave {
        topics: u8,
    },
}

/// A sequence of commands, applied to a directory and, from some place on, to a copy that was restored from its snapshot.
pub fn commands(data: &[u8]) {
    let Ok(Sequence { restore_at, steps }) = Sequence::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let restore_at = usize::from(restore_at) % STEPS_MAX;
    let mut directory = Directory::new();
    let mut copy: Option<Directory> = None;
    let mut frozen = None;
    let mut epochs = Vec::new();
    for (nth, step) in steps.iter().take(STEPS_MAX).enumerate() {
        if nth == restore_at {
            copy = Some(restored(&directory));
            frozen = Some((directory.clone(), directory.digest()));
        }
        let revision = directory.revision() + 1 + u64::from(step.skip % 4);
        let entry = Entry { at_ms: 0, commands: step.commands.iter().map(|drawn| drawn.command(&epochs)).collect() };
        let applied = directory.apply(revision, &entry);
        assert_eq!(directory.check_invariants(), Ok(()), "after {entry:?}");
        if let Some(copy) = &mut copy {
            let again = copy.apply(revision, &entry);
            assert_eq!(seen(&again), seen(&applied), "a restored copy makes the same of {entry:?}");
        }
        epochs.extend(applied.outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Opened(Ok(epoch)) => Some(*epoch),
            _ => None,
        }));
    }
    if let Some(copy) = copy {
        assert_eq!(copy.check_invariants(), Ok(()));
        assert_eq!(copy.digest(), directory.digest(), "a restored copy stays the same");
    }
    if let Some((frozen, digest)) = frozen {
        assert_eq!(frozen.digest(), digest, "a clone does not change");
    }
    let begun = directory.clone().begin_anew().expect("there are revisions left");
    assert_eq!(begun.check_invariants(), Ok(()), "a new cluster begins in order");
    assert_eq!(begun.stats().connections, 0, "of an old cluster no connection is left");
}

/// What its snapshot gives.
fn restored(directory: &Directory) -> Directory {
    let mut snapshot = Vec::new();
    directory.write_to(&mut snapshot).expect("memory takes all bytes");
    let copy = Directory::read_from(&mut snapshot.as_slice()).expect("what was written can be read");
    assert_eq!(copy.check_invariants(), Ok(()), "a restored copy is in order");
    assert_eq!(copy.digest(), directory.digest(), "a restored copy is the same");
    copy
}

/// All that an entry gave, the ends of sessions spelled out.
fn seen(applied: &Applied) -> String {
    let ends: Vec<_> = applied
        .ends
        .iter()
        .map(|end| {
            let closed: Vec<_> = end.frozen.closed_by(end.epoch, None).collect();
            let left: Vec<_> = end.frozen.left_by(end.epoch, None).collect();
            (end.n, end.epoch, closed, left)
        })
        .collect();
    format!("{:?} {:?} {ends:?}", applied.outcomes, applied.events)
}

/// A directory with something of everything: connections of both kinds, one that waits, an ended session, a ban, topics.
pub(super) fn populated() -> Directory {
    let register = |serial, user, policy| DrawnOp::Register {
        serial,
        user,
        device: 1,
        policy,
        max: 3,
        since: None,
        remote: Some(0),
        meta: Some(2),
    };
    let open = |gateway| Drawn::Open { gateway, nonce: 0, attempt: 1 };
    let sessions = [vec![open(0)], vec![open(1)], vec![open(2)]];
    let batch = |session, ops| vec![Drawn::Batch { session, seq: Some(1), ops }];
    let rest = [
        batch(2, vec![register(1, 0, 0), register(2, 1, 4), DrawnOp::Join { topics: 3 }]),
        batch(1, vec![register(1, 0, 0), register(2, 1, 4), DrawnOp::Join { topics: 6 }]),
        batch(0, vec![register(1, 2, 2), DrawnOp::Join { topics: 1 }]),
        vec![Drawn::End { session: 0, reason: 0, fenced: false }, Drawn::Ban { user: 2, until: Some(9) }],
    ];
    let mut directory = Directory::new();
    for commands in sessions.iter().chain(&rest) {
        let epochs: Vec<Epoch> = (1..=directory.revision().min(3)).collect();
        let commands = commands.iter().map(|drawn| drawn.command(&epochs)).collect();
        directory.apply(directory.revision() + 1, &Entry { at_ms: 0, commands });
    }
    directory
}

fn pick<T: Copy>(from: &[T], nth: u8) -> T {
    from[usize::from(nth) % from.len()]
}

/// One that was opened, or else one that was not.
fn epoch(epochs: &[Epoch], back: u8) -> Epoch {
    epochs.iter().rev().nth(usize::from(back) % 8).copied().unwrap_or(back.into())
}

fn reason(nth: u8) -> Reason {
    pick(&[Reason::Closed, Reason::Expired, Reason::Died, Reason::Drained], nth)
}

impl Drawn {
    fn command(&self, epochs: &[Epoch]) -> Command {
        match self {
            Drawn::Open { gateway, nonce, attempt } => Command::OpenSession(OpenSession {
                gateway: pick(&GATEWAYS, *gateway).into(),
                nonce: pick(&NONCES, *nonce).into(),
                attempt: (*attempt).into(),
                lease_ms: 3000,
                addresses: GatewayAddresses::default(),
            }),
            Drawn::End { session, reason: why, fenced } => {
                Command::EndSession { epoch: epoch(epochs, *session), reason: reason(*why), fenced: *fenced }
            }
            Drawn::Release { session } => Command::ReleaseClaims { epoch: epoch(epochs, *session) },
            Drawn::Reclaim { session, limit } => {
                Command::Reclaim { epoch: epoch(epochs, *session), limit: (*limit).into() }
            }
            Drawn::Batch { session, seq, ops } => {
                let ops = ops.iter().take(STEPS_MAX).map(|op| op.op(epochs)).collect();
                Command::Batch(Batch { epoch: epoch(epochs, *session), seq: seq.map(Into::into), ops })
            }
            Drawn::Disconnect { whom, code } => {
                let release = Release { code: *code, reason: None };
                Command::Disconnect(Disconnect { whom: whom.whom(epochs), release })
            }
            Drawn::Ban { user, until } => {
                let ban = Ban { until_ms: until.map(Into::into), reason: None };
                Command::Ban { user: pick(&USERS, *user).into(), ban }
            }
            Drawn::Unban { user, made } => {
                Command::Unban { user: pick(&USERS, *user).into(), made: made.map(Into::into) }
            }
        }
    }
}

impl DrawnWhom {
    fn whom(&self, epochs: &[Epoch]) -> Whom {
        let id = |session, serial: u8| ConnectionId { epoch: epoch(epochs, session), serial: serial.into() };
        match self {
            DrawnWhom::Connection { session, serial } => Whom::Connection(id(*session, *serial)),
            DrawnWhom::User { user, device, except } => Whom::User {
                user: pick(&USERS, *user).into(),
                devices: device.iter().map(|nth| pick(&DEVICES, *nth).into()).collect(),
                except: except.iter().map(|(session, serial)| id(*session, *serial)).collect(),
            },
        }
    }
}

impl DrawnOp {
    fn op(&self, epochs: &[Epoch]) -> Op {
        match self {
            DrawnOp::Register { serial, user, device, policy, max, since, remote, meta } => Op::Register(Register {
                serial: (*serial).into(),
                user: pick(&USERS, *user).into(),
                device: pick(&DEVICES, *device).into(),
                policy: policy_of(*policy, (*max).into()),
                // Grants follow the sessions closely.
                since: since.map(|back| epoch(epochs, back) + u64::from(back / 8)),
                connected_at_ms: 5,
                remote: remote.map(|nth| pick(&REMOTES, nth).into()),
                meta: meta.map(|length| "m".repeat(length.into()).into()),
            }),
            DrawnOp::Unregister { serial, reason: why } => {
                Op::Unregister { serial: (*serial).into(), reason: reason(*why) }
            }
            DrawnOp::Meta { serial, length, version } => Op::Meta {
                serial: (*serial).into(),
                meta: "m".repeat(usize::from(*length) % 5000).into(),
                if_version: version.map(Into::into),
            },
            DrawnOp::Join { topics } => Op::Join { topics: topics_of(*topics) },
            DrawnOp::Leave { topics } => Op::Leave { topics: topics_of(*topics) },
        }
    }
}

fn policy_of(nth: u8, max: u32) -> Policy {
    let per = if nth.is_multiple_of(2) { Per::User } else { Per::Device };
    match nth / 2 % 4 {
        0 => Policy::Multi { max: max % 8, per },
        1 => Policy::OldestWins { per },
        2 => Policy::NewestWins { per, handover: Handover::Wait },
        _ => Policy::NewestWins { per, handover: Handover::Immediate },
    }
}

/// Those whose bit is set.
fn topics_of(bits: u8) -> Vec<std::sync::Arc<str>> {
    let named = TOPICS.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1);
    named.map(|(_, topic)| (*topic).into()).collect()
}
