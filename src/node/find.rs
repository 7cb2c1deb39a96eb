//! Where users are, for gateways that do not keep everybody in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::requests::Requests;
use crate::directory::{Directory, Revision};
use crate::wire::peer::{Answer, Failure, FoundUser, FoundUsers, Who};

/// Longest wait for a read to be confirmed, or for a revision to be applied.
const WITHIN: Duration = Duration::from_secs(2);

/// Who is looked for with one request.
const WHOM_MAX: usize = 1024;

/// Bytes of text in one answer; the rest of it is far below what one frame may have.
const ANSWER_BYTES_MAX: usize = 2 << 20;

impl Requests {
    /// Looks users up in a state that covers everything acknowledged before.
    pub(super) async fn find(&self, whom: &[Who]) -> Result<Answer, Failure> {
        check_count(whom.len())?;
        match tokio::time::timeout(WITHIN, self.raft.read_index()).await {
            Ok(Ok(_)) => find(&self.state.read(), whom).map(Answer::Found),
            Ok(Err(_)) | Err(_) => Err(Failure::NoQuorum),
        }
    }

    /// When users were last connected who are not now.
    pub(super) async fn last_seen(&self, users: &[Arc<str>], revision: Revision) -> Result<Answer, Failure> {
        check_count(users.len())?;
        if self.raft.wait_applied(revision, WITHIN).await.is_err() {
            return Err(Failure::NoQuorum);
        }
        self.hub.reached(revision).await;
        let users: Vec<&str> = users.iter().map(|user| &**user).collect();
        Ok(Answer::LastSeen(self.hub.last_seen(&users)))
    }
}

fn check_count(count: usize) -> Result<(), Failure> {
    let why = || format!("{count} users are looked for with one request; the limit is {WHOM_MAX}");
    if count > WHOM_MAX { Err(Failure::Refused { why: why() }) } else { Ok(()) }
}

/// Where users are in this state.
pub(super) fn find(directory: &Directory, whom: &[Who]) -> Result<FoundUsers, Failure> {
    let (mut sessions, mut users, mut bytes) = (BTreeMap::new(), Vec::with_capacity(whom.len()), 0);
    for who in whom {
        let user = match who {
            Who::User(user) => Some(Arc::clone(user)),
            Who::Holder(id) => directory.connection(*id).map(|live| Arc::clone(&live.connection.user)),
        };
        let live = user.as_deref().map_or_else(Vec::new, |user| directory.connections_of(user));
        let mut connections = Vec::with_capacity(live.len());
        for live in live {
            bytes += live.connection.user.len() + live.connection.meta.as_ref().map_or(0, |meta| meta.len()) + 128;
            sessions.entry(live.id.epoch).or_insert_with(|| Arc::clone(live.session));
            connections.push((live.id, live.connection));
        }
        users.push(FoundUser { user, connections });
        if bytes > ANSWER_BYTES_MAX {
            let why = "the users that are looked for have more connections than one answer holds; ask for fewer users";
            return Err(Failure::Refused { why: why.to_owned() });
        }
    }
    Ok(FoundUsers { revision: directory.revision(), sessions: sessions.into_iter().collect(), users })
}
