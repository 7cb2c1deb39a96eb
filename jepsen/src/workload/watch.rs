//! Watchers on all processes beside writers: what they see is one and the same order of changes, and makes the state that everybody
//! lists.

use std::time::Duration;

use tokio::task::JoinSet;

use super::watchers::{Newest, Taste, Watcher};
use super::writers::{Style, Writer};
use super::{Context, Workload, last_look};
use crate::check;

/// Ordered, complete, resumable; and all states follow.
pub(super) const WATCH: Workload = Workload {
    name: "watch",
    about: "watches from everywhere, with filters and marks, leaves and comes back elsewhere, while others write",
    proves: &["I6", "I12"],
    plan: |_| {},
    act: |context| Box::pin(act(context)),
    settle: |context| Box::pin(last_look::everywhere(context)),
    checkers: &[check::watch::check, check::agreement::hashes],
};

const WRITERS: usize = 4;
const ANCHORS: usize = 2;
const WATCHERS: usize = 6;

/// Many users, so that some come first and go last and others join them.
const STYLE: Style = Style { users: 120, topics: 6, every: Duration::from_millis(60) };

async fn act(context: Context) {
    let mut clients = JoinSet::new();
    for nth in 1..=WRITERS {
        clients.spawn(Writer::new(&context, &format!("writer-{nth}"), STYLE).write());
    }
    clients.spawn(Writer::new(&context, "crowd", STYLE).crowd());
    spawn_watchers(&mut clients, &context, ANCHORS, WATCHERS);
    clients.spawn(last_look::compare_hashes(context));
    while let Some(ended) = clients.join_next().await {
        ended.expect("no client panics");
    }
}

/// Adds watchers of everything, and of anything.
pub(super) fn spawn_watchers(clients: &mut JoinSet<()>, context: &Context, all: usize, anything: usize) {
    let newest = Newest::default();
    for (count, taste, name) in [(all, Taste::All, "anchor"), (anything, Taste::Anything, "watcher")] {
        for nth in 1..=count {
            clients.spawn(Watcher::new(context, &format!("{name}-{nth}"), taste, &newest).watch());
        }
    }
}
