//! Users who come and go by WebSocket, and services that push to them through any process.

use std::time::Duration;

use tokio::task::JoinSet;

use super::pushers::{Pusher, Recent};
use super::users::User;
use super::watch::spawn_watchers;
use super::{Context, Workload, last_look};
use crate::check;

/// To the right ones, once and in order; and offline only who is.
pub(super) const PUSH: Workload = Workload {
    name: "push",
    about: "pushes to users who come and go on all gateways: to users, to connections, in batches, with every kind of acknowledgement",
    proves: &["I8", "I9"],
    plan: |_| {},
    act: |context| Box::pin(act(context)),
    settle: |context| Box::pin(last_look::everywhere(context)),
    checkers: &[check::push::check],
};

/// Users with one device, and users with two.
const SINGLE: u64 = 5;
const DOUBLE: u64 = 3;

const PUSHERS: u64 = 4;

/// Mean wait of a caller between two pushes.
const EVERY: Duration = Duration::from_millis(60);

async fn act(context: Context) {
    let mut clients = JoinSet::new();
    spawn(&mut clients, &context);
    spawn_watchers(&mut clients, &context, 2, 0);
    while let Some(ended) = clients.join_next().await {
        ended.expect("no client panics");
    }
}

/// Adds users, and services that push to them.
pub(super) fn spawn(clients: &mut JoinSet<()>, context: &Context) {
    let recent = Recent::default();
    let devices =
        (0..SINGLE).map(|user| (user, 0)).chain((SINGLE..SINGLE + DOUBLE).flat_map(|user| [(user, 0), (user, 1)]));
    let mut sockets = 0;
    for (user, device) in devices {
        // Each device numbers its sockets in a range of its own.
        sockets += 1_000_000;
        clients.spawn(User::new(context, &format!("p{user}"), device, sockets, &recent).come_and_go());
    }
    for caller in 0..PUSHERS {
        let users = (0..SINGLE + DOUBLE).map(|user| format!("p{user}")).collect();
        clients.spawn(Pusher::new(context, caller, users, EVERY, &recent).push());
    }
}
