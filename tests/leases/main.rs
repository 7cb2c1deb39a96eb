//! Model checks of the rules of leases, claims and handover: each small world is explored whole. With all rules nothing
//! bad can be reached; without any one of them it can, and the shortest way there is printed.
//!
//! A world is cut down to what its rules are about, and what it leaves out acts as the worst that it could do: a claim that
//! is free is granted at the same moment, and the newcomer serves at once. Messages are never used up: each may arrive late,
//! twice, after newer ones, or never. `docs/leases.md` tells the counter-examples in words.

mod claims;
mod deadlines;
mod handover;
mod leaders;
mod requests;
mod stalls;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;

use stateright::{Checker, HasDiscoveries, Model};

/// What is never to be reached: the names of the properties.
const ONE_SERVES: &str = "of two gateways that want one user, one serves";
const NOT_ENDED: &str = "nobody is ended who renews in time";
const GONE_IN_TIME: &str = "who is silent is gone in time";
const STAYS: &str = "an acknowledged registration stays visible";
const NO_GHOSTS: &str = "nobody is shown whose session is over";
const NEWEST_WINS: &str = "no connection gives way to an older one";
const NOT_BLOCKED: &str = "no handover is blocked for ever";

/// No world needs more steps to go wrong.
const STEPS_MAX: usize = 60;

/// Explores the whole world: nothing bad is reached, and whatever should be possible is.
fn holds<M>(world: &str, model: M)
where
    M: Model<State: Clone + Debug + Hash + PartialEq + Send + Sync, Action: Clone + Debug + PartialEq>
        + Send
        + Sync
        + 'static,
{
    let checker = model.checker().spawn_bfs().join();
    checker.assert_properties();
    println!("{world}: {} states, all of them good", checker.unique_state_count());
}

/// Finds the shortest way to what `property` forbids, and prints it.
fn breaks<M>(world: &str, model: impl Fn() -> M, property: &'static str)
where
    M: Model<State: Clone + Debug + Hash + PartialEq + Send + Sync, Action: Clone + Debug + PartialEq>
        + Send
        + Sync
        + 'static,
{
    let way = |steps: usize| {
        let found = HasDiscoveries::AnyOf(BTreeSet::from([property]));
        let checker = model().checker().finish_when(found).target_max_depth(steps + 2).spawn_bfs().join();
        checker.discovery(property).map(|way| way.into_actions())
    };
    // Whatever the checker finds last among ways of about one length is what it tells.
    let mut shortest = way(STEPS_MAX).unwrap_or_else(|| panic!("{world}: nothing breaks \"{property}\""));
    while let Some(shorter) = way(shortest.len() - 1) {
        shortest = shorter;
    }
    println!("{world}: against \"{property}\": {shortest:?}");
}
