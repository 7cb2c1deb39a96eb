//! Operations of a session's batch: from their JSON form and back.

use serde_json::value::RawValue;
use std::sync::Arc;

use super::Error;
use crate::clock;
use crate::directory::limits::OP_TOPICS_MAX;
use crate::directory::{
    BatchDone, ConnectionId, Epoch, Handover, Op, OpOutcome, Per, Policy, Reason, Register, Serial,
};
use crate::wire::http::{BatchAnswer, OpAnswer, OpBody};

/// Connections of a user at most, unless the operation says another number.
const CONNECTIONS_MAX: u32 = 16;

/// The operation that the `index`-th body asks for. What can't be meant refuses the whole batch before any of it is
/// proposed; names outside their limits are the directory's to refuse, one by one.
pub(super) fn op(index: usize, body: OpBody) -> Result<Op, Error> {
    let refused = |why: &str| Error::bad_request(format!("ops[{index}]: {why}"));
    let serial = body.serial.ok_or_else(|| refused("serial is missing"));
    match body.op.as_str() {
        "register" => Ok(Op::Register(register(index, serial?, body)?)),
        "unregister" => Ok(Op::Unregister { serial: serial?, reason: body.reason.unwrap_or(Reason::Closed) }),
        "meta" => {
            let meta = body.meta.as_deref().ok_or_else(|| refused("meta is missing"))?;
            let meta = object(meta).ok_or_else(|| refused("meta is not a JSON object"))?;
            Ok(Op::Meta { serial: serial?, meta, if_version: body.if_version })
        }
        // Who of the session's connections subscribes is its own business, so a serial says nothing here.
        "join" => Ok(Op::Join { topics: topics(index, body.topics)? }),
        "leave" => Ok(Op::Leave { topics: topics(index, body.topics)? }),
        other => {
            let why = format!("op: {other:?} is none of register, unregister, meta, join, leave");
            Err(refused(&why))
        }
    }
}

fn topics(index: usize, topics: Option<Vec<String>>) -> Result<Vec<Arc<str>>, Error> {
    let topics = topics.unwrap_or_default();
    match topics.len() {
        0 => Err(Error::bad_request(format!("ops[{index}]: topics is missing, or names none"))),
        1..=OP_TOPICS_MAX => Ok(topics.into_iter().map(Arc::from).collect()),
        many => Err(Error::too_large(format!("ops[{index}]: topics: {many}; at most {OP_TOPICS_MAX} an operation"))),
    }
}

fn register(index: usize, serial: Serial, body: OpBody) -> Result<Register, Error> {
    let refused = |why: &str| Error::bad_request(format!("ops[{index}]: {why}"));
    let policy = policy(&body).map_err(refused)?;
    let meta = match body.meta.as_deref() {
        None => None,
        Some(meta) => Some(object(meta).ok_or_else(|| refused("meta is not a JSON object"))?),
    };
    Ok(Register {
        serial,
        user: body.user.ok_or_else(|| refused("user is missing"))?.into(),
        device: body.device.unwrap_or_default().into(),
        policy,
        connected_at_ms: clock::wall_ms(),
        remote: body.remote.map(Arc::from),
        meta,
        since: body.since,
    })
}

/// A field that the policy does not look at is checked all the same: a misspelt word is never passed over.
fn policy(body: &OpBody) -> Result<Policy, &'static str> {
    let per = match body.per.as_deref() {
        None | Some("user") => Per::User,
        Some("device") => Per::Device,
        Some(_) => return Err("per is neither user nor device"),
    };
    let handover = match body.handover.as_deref() {
        None | Some("wait") => Handover::Wait,
        Some("immediate") => Handover::Immediate,
        Some(_) => return Err("handover is neither wait nor immediate"),
    };
    let max = body.max.unwrap_or(CONNECTIONS_MAX);
    if max == 0 {
        return Err("max is at least 1");
    }
    match body.policy.as_deref() {
        None | Some("multi") => Ok(Policy::Multi { max, per }),
        Some("newest_wins") => Ok(Policy::NewestWins { per, handover }),
        Some("oldest_wins") => Ok(Policy::OldestWins { per }),
        Some(_) => Err("policy is none of multi, newest_wins, oldest_wins"),
    }
}

/// The text of a JSON object.
pub(super) fn object(meta: &RawValue) -> Option<Arc<str>> {
    meta.get().starts_with('{').then(|| meta.get().into())
}

/// What became of the operations on these serials.
pub(super) fn answer(epoch: Epoch, serials: &[Option<Serial>], done: &BatchDone) -> BatchAnswer {
    let results = serials.iter().zip(done.ops.iter()).map(|(serial, outcome)| {
        let ok = OpAnswer { ok: Some(true), ..OpAnswer::default() };
        let connection = || serial.map(|serial| ConnectionId { epoch, serial }.to_string());
        match outcome {
            OpOutcome::Registered { granted, superseded } => OpAnswer {
                connection: connection(),
                granted: Some(*granted),
                superseded: Some(superseded.iter().map(ToString::to_string).collect()),
                ..ok
            },
            OpOutcome::Unregistered { existed } => OpAnswer { existed: Some(*existed), ..ok },
            OpOutcome::MetaSet { version } => OpAnswer { meta_version: Some(*version), ..ok },
            OpOutcome::Pending => OpAnswer { connection: connection(), pending: Some(true), ..ok },
            OpOutcome::Topics { .. } => ok,
            OpOutcome::Refused(why) => OpAnswer { error: Some(Error::of_op(why)), ..OpAnswer::default() },
        }
    });
    BatchAnswer { revision: done.revision, results: results.collect() }
}
