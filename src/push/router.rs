//! From a target to its gateways, by the resolve rule: use what is known; on a miss, or where a gateway says gone or
//! fenced, or can't be reached, read once linearizably, retry once, then answer.
//!
//! *Order.* Pushes that are given together and are for one user, or for connections of one user, are resolved together, sent in order,
//! and retried in order after all first attempts have answered. So a later one can't overtake an earlier one that has to be
//! resolved again: what both went to, both find gone.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};

use super::deliver_url;
use super::links::{Links, OnItsWay};
use super::{Order, PushRefused, Pushed, Target, TargetResult};
use crate::directory::{ConnectionId, Epoch, GatewayAddresses, Revision};
use crate::net::http::Client;
use crate::view::{At, Found, Stale, View};
use crate::wire::peer::{Deliver, Delivery, Message, TargetStatus, Targets};

/// Where this process delivers to itself. Two implementors: a gateway's own sockets, and a directory node, which has none.
pub trait Local: Send + Sync + 'static {
    /// The session of the gateway that this is, if it is one and has one.
    fn epoch(&self) -> Option<Epoch>;

    /// A message that has entered the outboxes.
    type Entered: Send;

    /// Puts a message into the outboxes of sockets of this process: when this returns, no later one can overtake it.
    fn enter(&self, delivery: Deliver) -> impl Future<Output = Self::Entered> + Send;

    /// What became of it.
    fn outcome(&self, entered: Self::Entered) -> impl Future<Output = Delivery> + Send;
}

/// Resolves targets in a view and sends one message per gateway.
#[derive(Debug)]
pub struct Router<V, L> {
    pub(super) view: Arc<V>,
    pub(super) local: Arc<L>,
    links: Links,
    http: Client,
    process: Arc<str>,
}

/// A target in one attempt: where it is, and what became of it. No status: nothing is known.
pub(super) type Tried = (Found, Option<TargetStatus>);

/// Where each target is.
type Resolved = BTreeMap<Target, At<Vec<Found>>>;

/// What goes to one gateway: the place of the order among those that were given, the order, the revision at which it was
/// resolved, and its targets there.
type Lane<'o> = Vec<(usize, &'o Order, Revision, Vec<Found>)>;

impl<V: View, L: Local> Router<V, L> {
    /// Reads `view`, delivers to `local` sockets directly, to gateways over `links`, to those of one's own by `http`.
    /// Metrics carry `process`.
    pub fn new(view: Arc<V>, local: Arc<L>, links: Links, http: Client, process: Arc<str>) -> Self {
        Self { view, local, links, http, process }
    }

    /// Pushes, and answers when every target has answered or the message's time is over.
    ///
    /// # Errors
    /// When nothing was pushed, see [`PushRefused`].
    pub async fn push(&self, order: Order) -> Result<Pushed, PushRefused> {
        let pushed = match order.target.is_many() {
            true => self.spread(&[order]).await,
            false => self.push_together(vec![order]).await,
        };
        pushed.into_iter().next().expect("there is one answer per order")
    }

    /// Pushes in order; one answer per order. Those that reach one connection arrive there in this order.
    pub async fn push_many(&self, orders: Vec<Order>) -> Vec<Result<Pushed, PushRefused>> {
        if !orders.iter().any(|order| order.target.is_many()) {
            return self.push_to_users(orders).await;
        }
        // What goes to many may go to anybody, so what comes after it waits for it.
        let mut answers = Vec::with_capacity(orders.len());
        for run in orders.chunk_by(|one, next| one.target.is_many() == next.target.is_many()) {
            answers.extend(match run[0].target.is_many() {
                true => self.spread(run).await,
                false => self.push_to_users(run.to_vec()).await,
            });
        }
        answers
    }

    /// As `push_many`, for users and connections.
    async fn push_to_users(&self, orders: Vec<Order>) -> Vec<Result<Pushed, PushRefused>> {
        let owners = self.owners(&orders).await;
        let mut groups: BTreeMap<Target, (Vec<usize>, Vec<Order>)> = BTreeMap::new();
        for (position, order) in orders.into_iter().enumerate() {
            let subject = owners.get(&order.target).unwrap_or(&order.target).clone();
            let group = groups.entry(subject).or_default();
            group.0.push(position);
            group.1.push(order);
        }
        let pushed = groups.into_values().map(|(positions, orders)| async move {
            positions.into_iter().zip(self.push_together(orders).await).collect::<Vec<_>>()
        });
        let mut answers: Vec<_> = join_all(pushed).await.into_iter().flatten().collect();
        answers.sort_unstable_by_key(|(position, _)| *position);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    /// The users of the connections that are pushed to, where pushes to users are among the orders: what goes to a user goes to its
    /// connections, too, and has an order with what goes to one of them.
    async fn owners(&self, orders: &[Order]) -> BTreeMap<Target, Target> {
        let is_user = |order: &&Order| matches!(order.target, Target::User(_));
        let mut owners = BTreeMap::new();
        let mut is_confirmed = !orders.iter().any(|order| is_user(&order));
        if is_confirmed {
            return owners;
        }
        for Order { target, .. } in orders.iter().filter(|order| !is_user(order)) {
            let mut found = self.resolve(target).await;
            if !is_confirmed && !found.as_ref().is_ok_and(|at| !at.value.is_empty()) {
                // One that was welcomed a moment ago may be missing here, and not be when it is looked for again.
                is_confirmed = true;
                if self.view.linearize().await.is_ok() {
                    found = self.resolve(target).await;
                }
            }
            let owner = found.ok().and_then(|at| Some(Arc::clone(&at.value.first()?.connection.user)));
            owners.extend(owner.map(|user| (target.clone(), Target::User(user))));
        }
        owners
    }

    /// Pushes for one user, or for one connection.
    async fn push_together(&self, orders: Vec<Order>) -> Vec<Result<Pushed, PushRefused>> {
        let at = match self.resolve_all(&orders).await {
            Ok(at) => at,
            Err(stale) => return orders.iter().map(|_| Err(PushRefused::Unavailable(stale))).collect(),
        };
        let first = self.attempt(orders.iter().map(|order| {
            let at = &at[&order.target];
            (order, at.revision, order.select(&at.value))
        }));
        let first = first.await;
        if first.iter().all(|tried| is_settled(tried)) {
            let answers = orders.iter().zip(first);
            return answers.map(|(order, tried)| conclude(order, &at[&order.target], tried)).collect();
        }
        self.retry(&orders, &at, first).await
    }

    /// Reads linearizably and sends again to whom it has not reached.
    async fn retry(
        &self,
        orders: &[Order],
        before: &Resolved,
        first: Vec<Vec<Tried>>,
    ) -> Vec<Result<Pushed, PushRefused>> {
        self.count_reresolve(reason(&first));
        let confirmed = match self.view.linearize().await {
            Ok(()) => self.resolve_all(orders).await,
            Err(stale) => Err(stale),
        };
        let at = match confirmed {
            Ok(at) => at,
            Err(stale) => {
                let answers = orders.iter().zip(first);
                return answers
                    .map(|(order, tried)| conclude_unconfirmed(order, &before[&order.target], tried, stale))
                    .collect();
            }
        };
        let again = orders.iter().zip(&first).map(|(order, tried)| {
            let settled =
                |id: ConnectionId| tried.iter().any(|(found, status)| found.id == id && !wants_retry(*status));
            let at = &at[&order.target];
            let wanted = order.select(&at.value).into_iter().filter(|found| !settled(found.id));
            (order, at.revision, wanted.collect())
        });
        let second = self.attempt(again).await;
        let answers = orders.iter().zip(first.into_iter().zip(second));
        answers
            .map(|(order, (first, second))| {
                // What was not reached at first and is no longer there by now was not a target.
                let mut tried: Vec<Tried> = first.into_iter().filter(|(_, status)| !wants_retry(*status)).collect();
                tried.extend(second);
                conclude(order, &at[&order.target], tried)
            })
            .collect()
    }

    pub(super) fn count_reresolve(&self, reason: &'static str) {
        let labels = [("process", Arc::clone(&self.process)), ("reason", reason.into())];
        metrics::counter!("switchboard_push_reresolve_total", &labels).increment(1);
    }

    /// Looks for each target once.
    async fn resolve_all(&self, orders: &[Order]) -> Result<Resolved, Stale> {
        let mut resolved = Resolved::new();
        for Order { target, .. } in orders {
            if !resolved.contains_key(target) {
                resolved.insert(target.clone(), self.resolve(target).await?);
            }
        }
        Ok(resolved)
    }

    async fn resolve(&self, target: &Target) -> Result<At<Vec<Found>>, Stale> {
        match target {
            Target::User(user) => self.view.user(user).await,
            Target::Connection(id) => {
                let At { value, revision } = self.view.connection(*id).await?;
                Ok(At { value: value.into_iter().collect(), revision })
            }
            Target::Topic(_) | Target::All => unreachable!("what goes to many is not resolved to connections"),
        }
    }

    /// Sends each message to its targets, one copy per gateway, and waits for all answers. Each gateway gets its messages in
    /// order; none of them waits for another gateway.
    async fn attempt<'o>(&self, orders: impl Iterator<Item = (&'o Order, Revision, Vec<Found>)>) -> Vec<Vec<Tried>> {
        let mut lanes: BTreeMap<Epoch, Lane<'_>> = BTreeMap::new();
        let mut count = 0;
        for (position, (order, resolved, targets)) in orders.enumerate() {
            for group in by_gateway(targets) {
                lanes.entry(group[0].id.epoch).or_default().push((position, order, resolved, group));
            }
            count = position + 1;
        }
        let lanes = lanes.into_values().map(|lane| async move {
            let mut answers = Vec::new();
            for (position, order, resolved, group) in lane {
                let answer = self.start(&order.message, resolved, group).await;
                answers.push(async move { (position, answer.await) });
            }
            join_all(answers).await
        });
        let mut tried = vec![Vec::new(); count];
        for (position, of_gateway) in join_all(lanes).await.into_iter().flatten() {
            tried[position].extend(of_gateway);
        }
        tried
    }

    /// Sends one message to one gateway; the future that comes back has its answer. When this returns, no later message can
    /// overtake it.
    async fn start(&self, message: &Arc<Message>, resolved: Revision, group: Vec<Found>) -> BoxFuture<'_, Vec<Tried>> {
        let session = Arc::clone(&group[0].session);
        let targets: Vec<ConnectionId> = group.iter().map(|found| found.id).collect();
        let here = self.local.epoch() == Some(targets[0].epoch);
        let delivery = Deliver { id: 0, message: Arc::clone(message), targets: Targets::Each(targets), resolved };
        if here {
            let entered = self.local.enter(delivery).await;
            return Box::pin(async move { known_or_not(group, Some(self.local.outcome(entered).await)) });
        }
        if let (None, Some(url)) = (&session.addresses.peer, &session.addresses.deliver_url) {
            // Only an answer shows that a request has arrived, and requests may overtake each other.
            let tried = deliver_url::deliver(&self.http, url, delivery, group).await;
            return Box::pin(std::future::ready(tried));
        }
        match self.send_to(&session.addresses, delivery).await {
            Some(sent) => Box::pin(async move { known_or_not(group, sent.outcome().await) }),
            None => Box::pin(async move { unreachable(group) }),
        }
    }

    /// Sends a message to a gateway over its link. When this returns, no later one can overtake it. `None`: it was not sent.
    pub(super) async fn send_to(&self, addresses: &GatewayAddresses, delivery: Deliver) -> Option<OnItsWay> {
        let address = addresses.peer.as_ref()?;
        // A gateway that does not read fills its link. What finds no room in the message's own time was not sent.
        let room = Duration::from_millis(delivery.message.timeout_ms.into());
        tokio::time::timeout(room, self.links.send(address, delivery)).await.ok().flatten()
    }
}

/// Targets of one session each. The order of the sessions does not matter, that of the targets stays.
fn by_gateway(targets: Vec<Found>) -> impl Iterator<Item = Vec<Found>> {
    let mut groups: BTreeMap<Epoch, Vec<Found>> = BTreeMap::new();
    for found in targets {
        groups.entry(found.id.epoch).or_default().push(found);
    }
    groups.into_values()
}

pub(super) fn unreachable(group: Vec<Found>) -> Vec<Tried> {
    group.into_iter().map(|found| (found, Some(TargetStatus::Unreachable))).collect()
}

fn known_or_not(group: Vec<Found>, delivery: Option<Delivery>) -> Vec<Tried> {
    match delivery {
        Some(Delivery::Each(statuses)) if statuses.len() == group.len() => {
            group.into_iter().zip(statuses.into_iter().map(Some)).collect()
        }
        // An answer to another question counts as none.
        Some(_) | None => group.into_iter().map(|found| (found, None)).collect(),
    }
}

/// Nothing was written, and a newer resolution may find the target elsewhere. A silent gateway is not asked again: it may
/// have written the message.
fn wants_retry(status: Option<TargetStatus>) -> bool {
    matches!(status, Some(TargetStatus::Gone | TargetStatus::Fenced | TargetStatus::Unreachable))
}

fn is_settled(tried: &[Tried]) -> bool {
    !tried.is_empty() && !tried.iter().any(|(_, status)| wants_retry(*status))
}

/// Why a resolution was repeated, for the metric.
fn reason(first: &[Vec<Tried>]) -> &'static str {
    match first.iter().flatten().find(|(_, status)| wants_retry(*status)) {
        Some((_, Some(TargetStatus::Gone))) => "gone",
        Some((_, Some(TargetStatus::Fenced))) => "fenced",
        Some(_) => "unreachable",
        None => "miss",
    }
}

/// The answer after a resolution that needs no doubt: either every target took it, or the view was linearizable.
fn conclude(order: &Order, at: &At<Vec<Found>>, tried: Vec<Tried>) -> Result<Pushed, PushRefused> {
    if tried.is_empty() {
        if let Some(epoch) = order.other_epoch(&at.value) {
            return Err(PushRefused::Fenced { epoch });
        }
        if order.is_offline(&at.value) {
            return Err(PushRefused::Offline { as_of: at.revision });
        }
    } else if tried.iter().all(|(_, status)| status.is_none()) {
        return Err(PushRefused::Timeout);
    }
    Ok(pushed(at.revision, tried))
}

/// The answer when a second resolution was needed and could not be had: what is known, but never that somebody is offline.
/// That it is fenced, a gateway has said itself: nothing was written there.
fn conclude_unconfirmed(
    order: &Order,
    at: &At<Vec<Found>>,
    tried: Vec<Tried>,
    stale: Stale,
) -> Result<Pushed, PushRefused> {
    if tried.iter().all(|(_, status)| wants_retry(*status) && *status != Some(TargetStatus::Fenced)) {
        return Err(PushRefused::Unavailable(stale));
    }
    conclude(order, at, tried)
}

fn pushed(revision: Revision, tried: Vec<Tried>) -> Pushed {
    let results = tried.into_iter().map(|(found, status)| TargetResult {
        id: found.id,
        gateway: Arc::clone(&found.session.gateway),
        status: status.unwrap_or(TargetStatus::Timeout),
    });
    Pushed { revision, results: results.collect(), spread: None }
}
