//! Who the members are: nodes that join, leave and take the place of others, asked for as an operator would.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Addresses, Cluster, NotStarted};

/// Longest wait for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(100);

/// The members as they are, and as they shall be: the id of the node at each place.
#[derive(Debug)]
pub(super) struct Group {
    founders: BTreeMap<String, u64>,
    members: BTreeMap<String, u64>,
    wanted: BTreeMap<String, u64>,
    /// Ids are never used again.
    next_id: u64,
}

impl Group {
    pub(super) fn new(addresses: &Addresses) -> Self {
        let founders: BTreeMap<String, u64> =
            addresses.nodes.iter().zip(1..).map(|(place, id)| (place.name.clone(), id)).collect();
        let next_id = founders.len() as u64 + 1;
        Self { members: founders.clone(), wanted: founders.clone(), founders, next_id }
    }

    /// Whether the node at a place is the one that founded the group there.
    pub(super) fn founded(&self, name: &str) -> bool {
        self.founders.get(name) == Some(&self.id(name))
    }

    /// The id of the node that is at a place, or shall be; 0 if nobody shall.
    pub(super) fn id(&self, name: &str) -> u64 {
        self.wanted.get(name).or_else(|| self.members.get(name)).copied().unwrap_or_default()
    }
}

/// What an answer to a change of the group says.
enum Answered {
    Done,
    /// It may pass.
    Again(String),
    Refused(String),
}

impl Cluster {
    /// Places of the members; all of them vote.
    pub fn members(&self) -> Vec<String> {
        self.group.members.keys().cloned().collect()
    }

    /// Places of the members that are under no fault.
    pub fn free_members(&self) -> Vec<String> {
        self.group.members.keys().filter(|name| !self.claims.holds(name)).cloned().collect()
    }

    /// Gateways that are under no fault.
    pub fn free_gateways(&self) -> Vec<String> {
        let names = self.addresses.gateways.iter().map(|place| &place.name);
        names.filter(|name| !self.claims.holds(name)).cloned().collect()
    }

    /// How many members may get out of order, so that a majority of them stays in order.
    pub fn spare(&self) -> usize {
        self.claims.spare(self.group.members.keys())
    }

    /// Where the leader is, as the member sees it that knows of the latest term.
    pub async fn leader(&self) -> Option<String> {
        let mut latest: Option<(u64, u64)> = None;
        for name in self.free_members() {
            let answer = self.ask(Method::GET, &name, "/v1/cluster", &Value::Null, Duration::from_secs(1)).await;
            let Some((200, body)) = answer else { continue };
            let known = (body["term"].as_u64(), body["leader"].as_u64());
            if let (Some(term), Some(leader)) = known {
                latest = latest.max(Some((term, leader)));
            }
        }
        let (_, leader) = latest?;
        self.group.members.iter().find(|(_, id)| **id == leader).map(|(name, _)| name.clone())
    }

    /// Wants a new node at a place, where nobody is, or in the place of the one that is there. [`Self::regroup`] does it.
    pub fn want_new(&mut self, name: &str) -> u64 {
        let id = self.group.next_id;
        self.group.next_id += 1;
        self.group.wanted.insert(name.to_owned(), id);
        id
    }

    /// Wants nobody at a place any more. [`Self::regroup`] does it.
    pub fn want_nobody(&mut self, name: &str) {
        self.group.wanted.remove(name);
    }

    /// Whether the members are those that are wanted.
    pub fn is_regrouped(&self) -> bool {
        self.group.members == self.group.wanted
    }

    /// Removes and adds until the members are those that are wanted. A node is removed before it is replaced.
    ///
    /// # Errors
    /// Why it is not done in time; it may be tried again later.
    pub async fn regroup(&mut self, within: Duration) -> Result<(), String> {
        let give_up = Instant::now() + within;
        for (name, id) in self.group.members.clone() {
            if self.group.wanted.get(&name) != Some(&id) {
                self.change(Method::DELETE, &format!("/v1/cluster/members/{id}"), &Value::Null, give_up).await?;
                self.group.members.remove(&name);
                let mut process = self.processes.remove(&name).ok_or("a member has no process")?;
                process.kill().await.map_err(|error| error.0)?;
                let _ = std::fs::remove_dir_all(self.disk_of(&name).join(format!("id-{id}")));
            }
        }
        for (name, id) in self.group.wanted.clone() {
            if self.group.members.contains_key(&name) {
                continue;
            }
            if !self.processes.contains_key(&name) {
                self.start_process(&name).await.map_err(|not| match not {
                    NotStarted::Failed(error) => error.0,
                    NotStarted::Ended(why) => why,
                })?;
            }
            let body = json!({ "id": id, "peer": self.addresses.place(&name).peer, "role": "voter" });
            self.change(Method::POST, "/v1/cluster/members", &body, give_up).await?;
            self.group.members.insert(name, id);
        }
        Ok(())
    }

    /// Lets another member lead.
    ///
    /// # Errors
    /// Why it does not in time.
    pub async fn transfer_leader(&mut self, name: &str, within: Duration) -> Result<(), String> {
        let to = json!({ "to": self.group.id(name) });
        self.change(Method::POST, "/v1/cluster/transfer-leader", &to, Instant::now() + within).await
    }

    /// Asks for a change of the group, of one process after the other, until it is done. Repeating it is safe.
    async fn change(&self, method: Method, path: &str, body: &Value, give_up: Instant) -> Result<(), String> {
        let mut last = "nobody could be asked".to_owned();
        loop {
            let mut names = self.free_members();
            names.extend(self.free_gateways());
            for name in names.iter().filter(|name| self.processes.contains_key(*name)) {
                let answer = self.ask(method.clone(), name, path, body, ANSWER_WITHIN).await;
                match answered(answer) {
                    Answered::Done => return Ok(()),
                    Answered::Again(why) => last = format!("{name}: {why}"),
                    Answered::Refused(why) => return Err(format!("{method} {path} {body}: {name}: {why}")),
                }
                if Instant::now() > give_up {
                    return Err(format!("{method} {path} {body}: not done in time; the last answer was: {last}"));
                }
                tokio::time::sleep(PAUSE).await;
            }
            if names.is_empty() {
                return Err(last);
            }
        }
    }
}

fn answered(answer: Option<(u16, Value)>) -> Answered {
    let Some((status, body)) = answer else { return Answered::Again("no answer".to_owned()) };
    let passes = body["error"]["temporary"] == true || body["error"]["code"] == "unavailable";
    match status {
        200 => Answered::Done,
        202 => Answered::Again(body.to_string()),
        _ if passes => Answered::Again(body.to_string()),
        _ => Answered::Refused(format!("{status} {body}")),
    }
}
