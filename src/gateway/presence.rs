//! Presence: who is subscribed to a topic, in the whole cluster, as its subscribers see it.
//!
//! A topic that some client here wants to see is watched by one task: it asks every gateway of the topic, each of which answers when
//! something has changed there, and tells the clients what has changed since they were last told. So changes of a short time
//! become one frame, and frames are in order. A gateway that can't be asked keeps those who were known there; when its session
//! ends they are gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::clients::{Hub, frame_text};
use super::questions;
use crate::chance::Hashing;
use crate::directory::{Epoch, Revision, Serial, Session};
use crate::view::{At, View};
use crate::wire::client::{Members, PresenceMember, ServerFrame};
use crate::wire::peer::{GatewayAnswer, GatewayAsk, Member, PRESENCE_MEMBERS_MAX};

/// Changes within this time are told together.
const WINDOW: Duration = Duration::from_millis(100);

/// A gateway answers after this time also if nothing has changed.
const ASK_FOR: Duration = Duration::from_secs(10);

/// Wait for all gateways before a first state is told without those that do not answer.
const FIRST_WITHIN: Duration = Duration::from_secs(2);

/// Topics that are watched by one gateway: each is a task, and a question under way to each gateway of the topic.
const WATCHED_MAX: usize = 10_000;

/// The topics whose subscribers clients of this gateway want to see.
#[derive(Debug, Default)]
pub(super) struct Presence {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Clients that see the topic, and those that have not been told anything yet.
    watched: HashMap<Arc<str>, Viewers, Hashing>,
    tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Viewers {
    told: BTreeSet<Serial>,
    new: BTreeSet<Serial>,
}

/// What is known of one gateway.
#[derive(Debug)]
struct Known {
    members: Members,
    count: u64,
    version: u64,
}

/// A question that is under way.
type Asked = BoxFuture<'static, (Epoch, Option<GatewayAnswer>)>;

/// What clients have been told.
#[derive(Debug, Clone, PartialEq)]
enum Told {
    Members(Members),
    /// There are too many of them.
    Count(u64),
}

impl Presence {
    /// Whether one more topic can be watched, if this one is not.
    pub(super) fn has_room(&self, topic: &str) -> bool {
        let state = self.state();
        state.watched.contains_key(topic) || state.watched.len() < WATCHED_MAX
    }

    /// A client that is subscribed to a topic sees who else is. It is told all, and then what changes.
    pub(super) fn show(self: &Arc<Self>, hub: &Arc<Hub>, topic: &Arc<str>, serial: Serial) {
        let mut state = self.state();
        while let Some(ended) = state.tasks.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(%error, "the task of a presence broke");
            }
        }
        let is_new = !state.watched.contains_key(topic);
        let viewers = state.watched.entry(Arc::clone(topic)).or_default();
        viewers.told.remove(&serial);
        viewers.new.insert(serial);
        if is_new {
            let watch = Watch {
                presence: Arc::downgrade(self),
                hub: Arc::downgrade(hub),
                topic: Arc::clone(topic),
                known: BTreeMap::new(),
                under_way: BTreeSet::new(),
                asked: FuturesUnordered::new(),
                told: None,
            };
            state.tasks.spawn(watch.run());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while holding this lock")
    }
}

/// The watch of one topic.
struct Watch {
    presence: Weak<Presence>,
    hub: Weak<Hub>,
    topic: Arc<str>,
    known: BTreeMap<Epoch, Known>,
    under_way: BTreeSet<Epoch>,
    asked: FuturesUnordered<Asked>,
    told: Option<Told>,
}

impl Watch {
    /// Works until nobody here wants to see the topic any more.
    async fn run(mut self) {
        let began = Instant::now();
        let mut ticks = interval(WINDOW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let (Some(presence), Some(hub)) = (self.presence.upgrade(), self.hub.upgrade()) else { return };
                    if !self.keep_viewers(&presence, &hub) {
                        return;
                    }
                    let complete = self.look_at_gateways(&hub);
                    if complete || self.told.is_some() || began.elapsed() >= FIRST_WITHIN {
                        self.tell(&presence, &hub);
                    }
                }
                Some((epoch, answer)) = self.asked.next() => {
                    self.under_way.remove(&epoch);
                    self.take(epoch, answer);
                }
            }
        }
    }

    /// Drops clients that are not subscribed any more; whether there are others.
    fn keep_viewers(&self, presence: &Presence, hub: &Hub) -> bool {
        let mut state = presence.state();
        let Some(viewers) = state.watched.get_mut(&self.topic) else { return false };
        let stays = |serial: &Serial| hub.table.subscriptions().has(*serial, &self.topic);
        viewers.told.retain(stays);
        viewers.new.retain(stays);
        let any = !viewers.told.is_empty() || !viewers.new.is_empty();
        if !any {
            state.watched.remove(&self.topic);
        }
        any
    }

    /// Asks every gateway of the topic that is not being asked, and forgets those that are none any more. Whether all that there
    /// are have answered.
    fn look_at_gateways(&mut self, hub: &Arc<Hub>) -> bool {
        let At { value: gateways, .. } = hub.replica.subscribed(&self.topic);
        self.known.retain(|epoch, _| gateways.iter().any(|(other, _)| other == epoch));
        for (epoch, session) in &gateways {
            if self.under_way.insert(*epoch) {
                self.ask(hub, *epoch, session);
            }
        }
        gateways.iter().all(|(epoch, _)| self.known.contains_key(epoch))
    }

    fn ask(&self, hub: &Arc<Hub>, epoch: Epoch, session: &Session) {
        let known = self.known.get(&epoch).map(|known| known.version);
        let timeout_ms = u32::try_from(ASK_FOR.as_millis()).unwrap_or(u32::MAX);
        let ask = GatewayAsk::Presence { topic: Arc::clone(&self.topic), known, timeout_ms };
        if hub.lease.epoch() == Some(epoch) {
            let here = Arc::downgrade(hub);
            self.asked.push(Box::pin(async move {
                let answer = match here.upgrade() {
                    Some(hub) => Some(questions::answer(&hub, ask).await),
                    None => None,
                };
                (epoch, answer)
            }));
            return;
        }
        let (asks, peer) = (hub.asks.clone(), session.addresses.peer.clone());
        self.asked.push(Box::pin(async move {
            let Some(peer) = peer else { return (epoch, None) };
            (epoch, asks.ask(&peer, ask, ASK_FOR * 2).await)
        }));
    }

    fn take(&mut self, epoch: Epoch, answer: Option<GatewayAnswer>) {
        // One that can't be asked is asked again with the next tick.
        let Some(GatewayAnswer::Presence { version, count, members }) = answer else { return };
        let Some(members) = members else { return };
        let members = members.into_iter().map(shown).collect();
        self.known.insert(epoch, Known { members, count, version });
    }

    /// Tells clients what they have not been told.
    fn tell(&mut self, presence: &Presence, hub: &Hub) {
        let count: u64 = self.known.values().map(|known| known.count).sum();
        let now = if count > PRESENCE_MEMBERS_MAX as u64 {
            Told::Count(count)
        } else {
            Told::Members(self.known.values().flat_map(|known| known.members.clone()).collect())
        };
        let revision = hub.replica.revision();
        let (told, new) = {
            let mut state = presence.state();
            let Some(viewers) = state.watched.get_mut(&self.topic) else { return };
            let new = std::mem::take(&mut viewers.new);
            let told = viewers.told.clone();
            viewers.told.extend(&new);
            (told, new)
        };
        if let Some(before) = &self.told
            && *before != now
        {
            let frame = match (before, &now) {
                (Told::Members(before), Told::Members(now)) => self.change(before, now, revision),
                _ => self.whole(&now, revision),
            };
            self.send(hub, &told, &frame);
        }
        if !new.is_empty() {
            self.send(hub, &new, &self.whole(&now, revision));
        }
        self.told = Some(now);
    }

    fn whole(&self, told: &Told, revision: Revision) -> ServerFrame {
        let (state, count) = match told {
            Told::Members(members) => (Some(members.clone()), None),
            Told::Count(count) => (None, Some(*count)),
        };
        ServerFrame::Presence { topic: self.topic.to_string(), state, joins: None, leaves: None, count, revision }
    }

    fn change(&self, before: &Members, now: &Members, revision: Revision) -> ServerFrame {
        let only = |one: &Members, other: &Members| -> Members {
            let differs = one.iter().filter(|(id, _)| !other.contains_key(*id));
            differs.map(|(id, member)| (id.clone(), member.clone())).collect()
        };
        let (joins, leaves) = (Some(only(now, before)), Some(only(before, now)));
        ServerFrame::Presence { topic: self.topic.to_string(), state: None, joins, leaves, count: None, revision }
    }

    fn send(&self, hub: &Hub, to: &BTreeSet<Serial>, frame: &ServerFrame) {
        let text: Arc<str> = frame_text(frame).into();
        for serial in to {
            // Once more, so that hardly anything comes after the end of the subscription was confirmed.
            if hub.table.subscriptions().has(*serial, &self.topic)
                && let Some(handle) = hub.table.get(*serial)
            {
                handle.notice(&text);
            }
        }
    }
}

fn shown(member: Member) -> (String, PresenceMember) {
    let Member { id, user, device } = member;
    (id.to_string(), PresenceMember { user: user.to_string(), device: device.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(users: &[&str]) -> Members {
        let member = |user: &str| PresenceMember { user: user.to_owned(), device: String::new() };
        users.iter().map(|user| (format!("c-1-{user}"), member(user))).collect()
    }

    fn watch() -> Watch {
        Watch {
            presence: Weak::new(),
            hub: Weak::new(),
            topic: "room".into(),
            known: BTreeMap::new(),
            under_way: BTreeSet::new(),
            asked: FuturesUnordered::new(),
            told: None,
        }
    }

    #[test]
    fn a_frame_tells_who_came_and_who_left_and_of_too_many_how_many() {
        let watch = watch();
        let change = watch.change(&members(&["a", "b"]), &members(&["b", "c", "d"]), 9);
        let frame: serde_json::Value = serde_json::from_str(&frame_text(&change)).unwrap();
        assert_eq!(
            frame,
            serde_json::json!({
                "type": "presence", "topic": "room", "revision": 9,
                "joins": {"c-1-c": {"user": "c"}, "c-1-d": {"user": "d"}}, "leaves": {"c-1-a": {"user": "a"}},
            })
        );
        let count: serde_json::Value = serde_json::from_str(&frame_text(&watch.whole(&Told::Count(1001), 9))).unwrap();
        assert_eq!(count, serde_json::json!({"type": "presence", "topic": "room", "count": 1001, "revision": 9}));
    }

    #[test]
    fn a_gateway_that_gives_no_answer_keeps_who_was_known_there() {
        let mut watch = watch();
        let id = crate::directory::ConnectionId { epoch: 1, serial: 2 };
        let member = Member { id, user: "a".into(), device: "".into() };
        watch.take(1, Some(GatewayAnswer::Presence { version: 5, count: 1, members: Some(vec![member]) }));
        watch.take(1, None);
        watch.take(1, Some(GatewayAnswer::Presence { version: 5, count: 1, members: None }));
        let known = &watch.known[&1];
        assert_eq!((known.members.len(), known.version), (1, 5));
        watch.take(1, Some(GatewayAnswer::Presence { version: 6, count: 0, members: Some(Vec::new()) }));
        assert!(watch.known[&1].members.is_empty());
    }
}
