//! Everything at once while processes are restarted one after the other with another program: writers, watchers, users and pushes.

use std::time::Duration;

use tokio::task::JoinSet;

use super::watch::spawn_watchers;
use super::writers::{Style, Writer};
use super::{Context, Workload, last_look, push};
use crate::check;

/// Nothing is lost, nobody falsely called offline, all states equal.
pub(super) const UPGRADE: Workload = Workload {
    name: "upgrade",
    about: "writes, watches and pushes, while processes are replaced by those of another version",
    proves: &["I11", "I6", "I8", "I9", "I12"],
    plan: |_| {},
    act: |context| Box::pin(act(context)),
    settle: |context| Box::pin(last_look::everywhere(context)),
    checkers: &[check::push::check, check::watch::check, check::agreement::hashes],
};

const WRITERS: usize = 2;

const STYLE: Style = Style { users: 60, topics: 6, every: Duration::from_millis(100) };

async fn act(context: Context) {
    let mut clients = JoinSet::new();
    for nth in 1..=WRITERS {
        clients.spawn(Writer::new(&context, &format!("writer-{nth}"), STYLE).write());
    }
    push::spawn(&mut clients, &context);
    spawn_watchers(&mut clients, &context, 2, 2);
    clients.spawn(last_look::compare_hashes(context));
    while let Some(ended) = clients.join_next().await {
        ended.expect("no client panics");
    }
}
