//! Asking a directory node for users that a replica does not hold.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

use crate::client::Directory;
use crate::directory::{Epoch, Session};
use crate::view::{At, Found, Stale};
use crate::wire::peer::{Answer, Failure, FoundUser, FoundUsers, RequestBody, Who};

/// Users that are asked for with one request.
const WHOM_MAX: usize = 256;

/// Longest wait for an answer. An election fits into it.
const WITHIN: Duration = Duration::from_secs(2);

/// Answers that wait to be taken over. What does not find room was answered all the same, and is asked for again.
const ANSWERS_MAX: usize = 1024;

/// Who is asked, and what was answered.
#[derive(Debug)]
pub(super) struct Asked {
    directory: Directory,
    users_max: usize,
    /// To be taken over by the replica.
    answers: Mutex<VecDeque<FoundUsers>>,
    /// There is one more of them.
    pub(super) answered: Notify,
}

impl Asked {
    pub(super) fn new(directory: Directory, users_max: usize) -> Self {
        Self { directory, users_max, answers: Mutex::default(), answered: Notify::new() }
    }

    /// How many users the replica may hold.
    pub(super) fn users_max(&self) -> usize {
        self.users_max
    }

    /// Where they are, by linearizable reads; one value for each, in order.
    pub(super) async fn find(&self, whom: &[Who]) -> Result<Vec<At<Vec<Found>>>, Stale> {
        let mut found = Vec::with_capacity(whom.len());
        for whom in whom.chunks(WHOM_MAX) {
            let answer = match self.ask(whom).await {
                // They have more connections than one answer holds, together.
                Err(Stale::TooMany) if whom.len() > 1 => {
                    for who in whom {
                        found.extend(self.keep(self.ask(std::slice::from_ref(who)).await?));
                    }
                    continue;
                }
                answer => answer?,
            };
            found.extend(self.keep(answer));
        }
        Ok(found)
    }

    async fn ask(&self, whom: &[Who]) -> Result<FoundUsers, Stale> {
        match self.directory.ask(RequestBody::Find(whom.to_vec()), WITHIN).await {
            Ok(Answer::Found(found)) if found.users.len() == whom.len() => Ok(found),
            Err(Failure::Refused { .. }) => Err(Stale::TooMany),
            Ok(_) | Err(_) => Err(Stale::NoQuorum),
        }
    }

    /// Hands an answer to the replica, and reads it.
    pub(super) fn keep(&self, answer: FoundUsers) -> Vec<At<Vec<Found>>> {
        let found = read(&answer);
        let mut answers = self.answers();
        if answers.len() < ANSWERS_MAX {
            answers.push_back(answer);
            self.answered.notify_one();
        }
        found
    }

    /// The answers that came since the last call.
    pub(super) fn take(&self) -> VecDeque<FoundUsers> {
        std::mem::take(&mut *self.answers())
    }

    fn answers(&self) -> MutexGuard<'_, VecDeque<FoundUsers>> {
        self.answers.lock().expect("no code panics while holding this lock")
    }
}

fn read(answer: &FoundUsers) -> Vec<At<Vec<Found>>> {
    let sessions: BTreeMap<Epoch, &Arc<Session>> =
        answer.sessions.iter().map(|(epoch, session)| (*epoch, session)).collect();
    let of_user = |user: &FoundUser| {
        let found = user.connections.iter().filter_map(|(id, connection)| {
            let session = Arc::clone(sessions.get(&id.epoch)?);
            Some(Found { id: *id, connection: Arc::clone(connection), session })
        });
        At { value: found.collect(), revision: answer.revision }
    };
    answer.users.iter().map(of_user).collect()
}
