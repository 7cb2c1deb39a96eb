//! What clients do during a run: one file a workload, which says what it proves and how it is judged.

mod cache;
mod last_look;
mod membership;
mod push;
mod pushers;
mod register;
mod topics;
mod upgrade;
mod users;
mod watch;
mod watchers;
mod writers;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use switchboard::net::http::Client as HttpClient;
use tokio::sync::watch::Receiver;

use crate::check::Checker;
use crate::cluster::{Addresses, Plan};
use crate::history::Recorder;

/// What a workload works with.
#[derive(Clone)]
pub struct Context {
    /// Where it notes everything.
    pub recorder: Recorder,
    /// Where everything is.
    pub addresses: Addresses,
    /// One pool of connections for all.
    pub http: Arc<HttpClient>,
    /// Of the run; whatever is by chance derives from it.
    pub seed: u64,
    /// Becomes true when clients shall stop.
    pub stop: Receiver<bool>,
}

/// One kind of clients.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    /// As the command line spells it.
    pub name: &'static str,
    /// What clients do, for `--help`.
    pub about: &'static str,
    /// Invariants of DESIGN §8 that it proves: `I1`.
    pub proves: &'static [&'static str],
    /// What it needs of the cluster.
    pub plan: fn(&mut Plan),
    /// Acts until it is told to stop, while things break.
    pub act: fn(Context) -> BoxFuture<'static, ()>,
    /// Looks once more when all is healed.
    pub settle: fn(Context) -> BoxFuture<'static, ()>,
    /// Judge the history.
    pub checkers: &'static [Checker],
}

/// Every workload that there is.
pub const WORKLOADS: &[Workload] = &[
    register::REGISTER,
    watch::WATCH,
    cache::CACHE,
    push::PUSH,
    topics::TOPICS,
    membership::MEMBERSHIP,
    upgrade::UPGRADE,
];
