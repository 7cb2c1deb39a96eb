//! Pushes to a topic, or to everybody: one message for each gateway, which knows its own subscribers.
//!
//! The rule is that of other pushes: use what is known; where that shows nobody, or a gateway can't be reached, read once
//! linearizably, retry there once, then answer. A gateway that is reached twice for one message would write it twice, so only those
//! are asked again that have not answered. *Order.* Messages that are given together go to each gateway in their order; what has
//! to be retried is retried in order, after all first attempts.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::{BoxFuture, join_all};

use super::router::{Local, Router};
use super::{Order, PushRefused, Pushed, Spread, Target, TargetResult};
use crate::directory::{ConnectionId, Epoch, Revision, Session};
use crate::view::{At, Stale, View};
use crate::wire::peer::{Deliver, Delivery, Pick, RESULTS_MAX, Reached, Targets};

/// A gateway that has subscribers, and its part of the rate.
#[derive(Debug, Clone)]
struct Gateway {
    epoch: Epoch,
    session: Arc<Session>,
    rate_per_s: u32,
}

/// What a gateway said.
#[derive(Debug)]
enum Told {
    Reached(Reached),
    /// It runs as many paced pushes as it may.
    Busy,
    /// Nothing was sent.
    Unreachable,
    /// It may have written the message.
    Silent,
}

/// What is known of one message by now.
#[derive(Debug, Default)]
struct Known {
    told: Vec<(Gateway, Told)>,
}

impl<V: View, L: Local> Router<V, L> {
    /// Pushes in order to topics or everybody; one answer per order.
    pub(super) async fn spread(&self, orders: &[Order]) -> Vec<Result<Pushed, PushRefused>> {
        let before: Vec<_> = orders.iter().map(|order| self.gateways(order)).collect();
        let mut known: Vec<Known> = orders.iter().map(|_| Known::default()).collect();
        self.send_all(orders, before.iter().map(|at| at.value.clone()), &mut known).await;
        if known.iter().all(Known::is_settled) {
            let answers = orders.iter().zip(known).zip(before);
            return answers.map(|((order, known), at)| known.conclude(order, at.revision, Ok(()))).collect();
        }
        self.count_reresolve(if known.iter().any(|known| known.told.is_empty()) { "miss" } else { "unreachable" });
        let confirmed = self.view.linearize().await;
        let after: Vec<_> = orders.iter().map(|order| self.gateways(order)).collect();
        if confirmed.is_ok() {
            let again =
                known.iter_mut().zip(&after).map(|(known, at)| known.begin_again(&at.value)).collect::<Vec<_>>();
            self.send_all(orders, again.into_iter(), &mut known).await;
        }
        let answers = orders.iter().zip(known).zip(after);
        answers.map(|((order, known), at)| known.conclude(order, at.revision, confirmed)).collect()
    }

    /// The gateways that have to be asked.
    fn gateways(&self, order: &Order) -> At<Vec<Gateway>> {
        let rate = u64::from(order.rate_per_s);
        let part = |share: u64, of: u64| match rate {
            0 => 0,
            rate => u32::try_from(rate * share / of.max(1)).unwrap_or(u32::MAX).max(1),
        };
        match &order.target {
            Target::Topic(topic) => {
                let At { value, revision } = self.view.subscribed(topic);
                let rate_per_s = part(1, value.len() as u64);
                let gateway = |(epoch, session)| Gateway { epoch, session, rate_per_s };
                At { value: value.into_iter().map(gateway).collect(), revision }
            }
            _ => {
                let At { mut value, revision } = self.view.sessions();
                if self.view.holds_all() {
                    // One that can't be asked does not matter where nobody is.
                    value.retain(|(_, session, count)| *count > 0 || session.addresses.peer.is_some());
                }
                // Who has connections is known only where everybody is.
                let counts = self.view.holds_all().then(|| value.iter().map(|(.., count)| count).sum::<u64>());
                let everybody = value.len() as u64;
                let gateway = |(epoch, session, count)| {
                    let rate_per_s = counts.map_or_else(|| part(1, everybody), |all| part(count, all));
                    Gateway { epoch, session, rate_per_s }
                };
                At { value: value.into_iter().map(gateway).collect(), revision }
            }
        }
    }

    /// Sends each message to its gateways, and waits for all answers. Each gateway gets them in order.
    async fn send_all(&self, orders: &[Order], to: impl Iterator<Item = Vec<Gateway>>, known: &mut [Known]) {
        let mut lost = BTreeSet::new();
        let mut answers = Vec::new();
        for (order, gateways) in orders.iter().zip(to) {
            let started = gateways.into_iter().map(|gateway| {
                // What comes later does not overtake what could not be sent.
                let skip = lost.contains(&gateway.epoch);
                async move {
                    let told = if skip { ready(Told::Unreachable) } else { self.send_one(order, &gateway).await };
                    (gateway, told)
                }
            });
            let mut told = Vec::new();
            for (gateway, answer) in join_all(started).await {
                match answer {
                    Started::Now(now) => {
                        lost.extend(matches!(now, Told::Unreachable).then_some(gateway.epoch));
                        told.push((gateway, Started::Now(now)));
                    }
                    later @ Started::Later(_) => told.push((gateway, later)),
                }
            }
            answers.push(join_all(
                told.into_iter().map(|(gateway, answer)| async move { (gateway, answer.wait().await) }),
            ));
        }
        for (known, told) in known.iter_mut().zip(join_all(answers).await) {
            known.told.extend(told);
        }
    }

    /// Sends one message to one gateway. When this returns, no later message can overtake it.
    async fn send_one(&self, order: &Order, gateway: &Gateway) -> Started<'_> {
        let pick =
            Pick { devices: order.devices.clone(), except: order.except.clone(), rate_per_s: gateway.rate_per_s };
        let deliver = Deliver { id: 0, message: Arc::clone(&order.message), targets: Targets::Many(pick), resolved: 0 };
        if self.local.epoch() == Some(gateway.epoch) {
            let entered = self.local.enter(deliver).await;
            return Started::Later(Box::pin(async move { told(Some(self.local.outcome(entered).await)) }));
        }
        match self.send_to(&gateway.session.addresses, deliver).await {
            Some(sent) => Started::Later(Box::pin(async move { told(sent.outcome().await) })),
            None => ready(Told::Unreachable),
        }
    }
}

/// The answer of a gateway, or the wait for it.
enum Started<'a> {
    Now(Told),
    Later(BoxFuture<'a, Told>),
}

impl Started<'_> {
    async fn wait(self) -> Told {
        match self {
            Self::Now(told) => told,
            Self::Later(later) => later.await,
        }
    }
}

fn ready<'a>(told: Told) -> Started<'a> {
    Started::Now(told)
}

fn told(delivery: Option<Delivery>) -> Told {
    match delivery {
        Some(Delivery::Many(reached)) => Told::Reached(reached),
        Some(Delivery::Busy) => Told::Busy,
        // An answer to another question counts as none.
        Some(Delivery::Each(_)) | None => Told::Silent,
    }
}

impl Known {
    /// Connections that were there, written to or not.
    fn present(&self) -> u64 {
        let of = |told: &Told| match told {
            Told::Reached(reached) => reached.delivered + reached.failed + reached.excepted,
            Told::Busy | Told::Unreachable | Told::Silent => 0,
        };
        self.told.iter().map(|(_, told)| of(told)).sum()
    }

    /// Whether a newer read could change nothing.
    fn is_settled(&self) -> bool {
        self.present() > 0 && !self.told.iter().any(|(_, told)| matches!(told, Told::Unreachable))
    }

    /// The gateways that have to be asked now: those that were not reached, and those that were not known. Of those that were
    /// not reached and are gone nothing is kept: their subscribers are gone with them.
    fn begin_again(&mut self, now: &[Gateway]) -> Vec<Gateway> {
        if self.is_settled() {
            return Vec::new();
        }
        self.told.retain(|(_, told)| !matches!(told, Told::Unreachable));
        let asked: BTreeSet<Epoch> = self.told.iter().map(|(gateway, _)| gateway.epoch).collect();
        now.iter().filter(|gateway| !asked.contains(&gateway.epoch)).cloned().collect()
    }

    fn conclude(self, order: &Order, revision: Revision, confirmed: Result<(), Stale>) -> Result<Pushed, PushRefused> {
        let present = self.present();
        let mut spread = Spread::default();
        let (mut results, mut well) = (Vec::new(), Vec::new());
        let (mut busy, mut silent) = (None, false);
        for (gateway, told) in self.told {
            let name = Arc::clone(&gateway.session.gateway);
            match told {
                Told::Reached(reached) => {
                    spread.delivered += reached.delivered;
                    spread.failed += reached.failed;
                    // Those that were not reached come first.
                    let of_failed = usize::try_from(reached.failed).unwrap_or(usize::MAX).min(reached.results.len());
                    let result = |(id, status): &(ConnectionId, _)| TargetResult {
                        id: *id,
                        gateway: Arc::clone(&name),
                        status: *status,
                    };
                    results.extend(reached.results[..of_failed].iter().map(result));
                    well.extend(reached.results[of_failed..].iter().map(result));
                }
                Told::Busy => busy = Some(name),
                Told::Unreachable => spread.unanswered.push(name),
                Told::Silent => {
                    silent = true;
                    spread.unanswered.push(name);
                }
            }
        }
        if present == 0 {
            return match (busy, confirmed) {
                (Some(gateway), _) => Err(PushRefused::Busy { gateway }),
                _ if silent => Err(PushRefused::Timeout),
                (None, Err(stale)) => Err(PushRefused::Unavailable(stale)),
                (None, Ok(())) if spread.unanswered.is_empty() => Err(PushRefused::Offline { as_of: revision }),
                (None, Ok(())) => Err(PushRefused::Unreached { gateways: spread.unanswered }),
            };
        }
        spread.unanswered.extend(busy);
        spread.unanswered.sort();
        // What can't be asked has one subscriber at least.
        spread.failed += spread.unanswered.len() as u64;
        results.extend(well);
        results.truncate(RESULTS_MAX);
        tracing::trace!(target = ?order.target, delivered = spread.delivered, failed = spread.failed, "a push was spread");
        Ok(Pushed { revision, results, spread: Some(spread) })
    }
}
