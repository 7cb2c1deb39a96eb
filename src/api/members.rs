//! Who belongs to the group of directory nodes, and who leads it.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::answer::Shows;
use super::request::{self, Segment};
use super::{Api, Backend, Error};
use crate::directory::Revision;
use crate::directory::limits::TEXT_BYTES_MAX;
use crate::wire::http::{
    AddMemberBody, Applied, ErrorCode, LeaderAnswer, MemberAnswer, MemberRole, TransferLeaderBody,
};
use crate::wire::peer::{Answer, ChangeRefusal, ChangeRefused, GroupChange, RequestBody};

/// `POST /v1/cluster/members`
pub(super) async fn add<B: Backend>(State(api): State<Api<B>>, request: Request) -> Result<Response, Error> {
    let AddMemberBody { id, peer, role } = request::json(request, api.limits.body_bytes_max, &api.limits).await?;
    check_id(id)?;
    check_address(&peer)?;
    if role == MemberRole::Removed {
        return Err(Error::bad_request("role: learner or voter"));
    }
    let revision = change(&api, GroupChange::Add { id, peer }).await?.map_err(refused)?;
    if role == MemberRole::Learner {
        return Ok(member(StatusCode::OK, id, role, revision, None));
    }
    match change(&api, GroupChange::Promote { id }).await? {
        Ok(revision) => Ok(member(StatusCode::OK, id, role, revision, None)),
        Err(ChangeRefused { kind: ChangeRefusal::Behind, why }) => {
            Ok(member(StatusCode::ACCEPTED, id, MemberRole::Learner, revision, Some(why)))
        }
        Err(ChangeRefused { kind, why }) => {
            let why = format!("node {id} is a learner now, and was not promoted: {why}");
            // The first half was applied; a repetition finds that out.
            Err(refused(ChangeRefused { kind, why }).applied(Applied::Unknown))
        }
    }
}

/// `POST /v1/cluster/members/{id}/promote`
pub(super) async fn promote<B: Backend>(State(api): State<Api<B>>, id: Segment) -> Result<Response, Error> {
    let id = member_id(&id)?;
    let revision = change(&api, GroupChange::Promote { id }).await?.map_err(refused)?;
    Ok(member(StatusCode::OK, id, MemberRole::Voter, revision, None))
}

/// `DELETE /v1/cluster/members/{id}`
pub(super) async fn remove<B: Backend>(State(api): State<Api<B>>, id: Segment) -> Result<Response, Error> {
    let id = member_id(&id)?;
    let revision = change(&api, GroupChange::Remove { id }).await?.map_err(refused)?;
    Ok(member(StatusCode::OK, id, MemberRole::Removed, revision, None))
}

/// `POST /v1/cluster/transfer-leader`
pub(super) async fn transfer_leader<B: Backend>(
    State(api): State<Api<B>>,
    request: Request,
) -> Result<Response, Error> {
    let TransferLeaderBody { to } = request::json(request, api.limits.body_bytes_max, &api.limits).await?;
    check_id(to)?;
    let revision = change(&api, GroupChange::TransferLeader { to }).await?.map_err(refused)?;
    Ok(Shows::revision(revision).json(StatusCode::OK, &LeaderAnswer { leader: to, revision }))
}

/// Asks the leader for a change of the group.
async fn change<B: Backend>(api: &Api<B>, change: GroupChange) -> Result<Result<Revision, ChangeRefused>, Error> {
    match api.ask(RequestBody::Change(change)).await? {
        Answer::Changed(changed) => Ok(changed),
        other => Err(super::unexpected(&other).applied(Applied::Unknown)),
    }
}

fn member(status: StatusCode, id: u64, role: MemberRole, revision: Revision, message: Option<String>) -> Response {
    Shows::revision(revision).json(status, &MemberAnswer { id, role, revision, message })
}

fn refused(refused: ChangeRefused) -> Error {
    let code = match refused.kind {
        ChangeRefusal::NoMember => ErrorCode::NotFound,
        ChangeRefusal::Busy | ChangeRefusal::Behind | ChangeRefusal::Conflict => ErrorCode::Conflict,
    };
    let passes = matches!(refused.kind, ChangeRefusal::Busy | ChangeRefusal::Behind);
    Error::new(code, refused.why).temporary(passes).applied(Applied::No)
}

fn check_id(id: u64) -> Result<(), Error> {
    if id > 0 { Ok(()) } else { Err(Error::bad_request("id: 1 or more")) }
}

fn member_id(id: &Segment) -> Result<u64, Error> {
    let id = id.text().parse().map_err(|_| Error::bad_request(format!("member: {:?} is no node id", id.text())))?;
    check_id(id).map(|()| id)
}

fn check_address(peer: &str) -> Result<(), Error> {
    let has_port = peer
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
    if has_port && peer.len() <= TEXT_BYTES_MAX {
        return Ok(());
    }
    Err(Error::bad_request(format!(
        "peer: {peer:?} is no address; give host:port, where the new node listens for peers"
    )))
}
