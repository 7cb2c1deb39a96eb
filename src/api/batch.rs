//! Operations of a session's batch: from their JSON form and back.

use serde_json::value::RawValue;
use std::sync::Arc;

use super::Error;
use crate::clock;
use crate::directory::{BatchDone, ConnectionId, Epoch, Op, OpOutcome, Policy, Reason, Register, Serial};
use crate::wire::http::{BatchAnswer, OpAnswer, OpBody};

/// Connections of a user at most, unless the operation says another number.
const CONNECTIONS_MAX: u32 = 16;

/// The operation that the `index`-th body asks for. What can't be meant refuses the whole batch before any of it is
/// proposed; names outside their limits are the directory's to refuse, one by one.
pub(super) fn op(index: usize, body: OpBody) -> Result<Op, Error> {
    let refused = |why: &str| Error::bad_request(format!("ops[{index}]: {why}"));
    match body.op.as_str() {
        "register" => Ok(Op::Register(register(index, body)?)),
        "unregister" => Ok(Op::Unregister { serial: body.serial, reason: body.reason.unwrap_or(Reason::Closed) }),
        "meta" => {
            let meta = body.meta.as_deref().ok_or_else(|| refused("meta is missing"))?;
            let meta = object(meta).ok_or_else(|| refused("meta is not a JSON object"))?;
            Ok(Op::Meta { serial: body.serial, meta, if_version: body.if_version })
        }
        "join" | "leave" => Err(Error::not_offered(&format!("ops[{index}]: a topic"))),
        other => {
            let why = format!("op: {other:?} is none of register, unregister, meta, join, leave");
            Err(refused(&why))
        }
    }
}

fn register(index: usize, body: OpBody) -> Result<Register, Error> {
    let refused = |why: &str| Error::bad_request(format!("ops[{index}]: {why}"));
    let later = |what: &str| Error::not_offered(&format!("ops[{index}]: {what}"));
    match body.policy.as_deref() {
        None | Some("multi") => {}
        Some("newest_wins" | "oldest_wins") => return Err(later("a policy other than multi")),
        Some(_) => return Err(refused("policy is none of multi, newest_wins, oldest_wins")),
    }
    match body.per.as_deref() {
        None | Some("user") => {}
        Some("device") => return Err(later("a policy per device")),
        Some(_) => return Err(refused("per is neither user nor device")),
    }
    match body.handover.as_deref() {
        None | Some("wait") => {}
        Some("immediate") => return Err(later("an immediate handover")),
        Some(_) => return Err(refused("handover is neither wait nor immediate")),
    }
    let max = body.max.unwrap_or(CONNECTIONS_MAX);
    if max == 0 {
        return Err(refused("max is at least 1"));
    }
    let meta = match body.meta.as_deref() {
        None => None,
        Some(meta) => Some(object(meta).ok_or_else(|| refused("meta is not a JSON object"))?),
    };
    Ok(Register {
        serial: body.serial,
        user: body.user.ok_or_else(|| refused("user is missing"))?.into(),
        device: body.device.unwrap_or_default().into(),
        policy: Policy::multi(max),
        connected_at_ms: clock::wall_ms(),
        remote: body.remote.map(Arc::from),
        meta,
        since: None,
    })
}

fn object(meta: &RawValue) -> Option<Arc<str>> {
    meta.get().starts_with('{').then(|| meta.get().into())
}

/// What became of the operations on these serials.
pub(super) fn answer(epoch: Epoch, serials: &[Serial], done: &BatchDone) -> BatchAnswer {
    let results = serials.iter().zip(done.ops.iter()).map(|(serial, outcome)| {
        let ok = OpAnswer { ok: Some(true), ..OpAnswer::default() };
        match outcome {
            OpOutcome::Registered { granted, superseded } => OpAnswer {
                connection: Some(ConnectionId { epoch, serial: *serial }.to_string()),
                granted: Some(*granted),
                superseded: Some(superseded.iter().map(ToString::to_string).collect()),
                ..ok
            },
            OpOutcome::Unregistered { existed } => OpAnswer { existed: Some(*existed), ..ok },
            OpOutcome::MetaSet { version } => OpAnswer { meta_version: Some(*version), ..ok },
            OpOutcome::Pending => OpAnswer {
                connection: Some(ConnectionId { epoch, serial: *serial }.to_string()),
                pending: Some(true),
                ..ok
            },
            OpOutcome::Topics { .. } => ok,
            OpOutcome::Refused(why) => OpAnswer { error: Some(Error::of_op(why)), ..OpAnswer::default() },
        }
    });
    BatchAnswer { revision: done.revision, results: results.collect() }
}
