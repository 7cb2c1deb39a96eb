//! Both checkers of registrations against a simple search, against each other, and against faults that are planted, on thousands of small
//! histories.

use fastrand::Rng;
use serde_json::{Value, json};

use super::made_up::right;
use super::user::{State, Step, users};
use super::{versioned, wgl};
use crate::history::{History, Kind};
use crate::verdict::Verdict;

const HISTORIES: u64 = 200;

fn refused(checker: super::Checker, history: &History) -> bool {
    match checker(history).verdict {
        Verdict::Valid => false,
        Verdict::Invalid => true,
        Verdict::Unknown => panic!("small histories are decided"),
    }
}

/// Tries every order, without any cleverness.
fn has_order(steps: &[&Step], state: &State) -> bool {
    if steps.iter().all(|step| step.ended.is_none()) {
        return true;
    }
    let first_end = steps.iter().filter_map(|step| step.ended).min().unwrap_or(usize::MAX);
    (0..steps.len()).any(|next| {
        let mut rest = steps.to_vec();
        let step = rest.remove(next);
        let may_be_next = step.began <= first_end;
        // One without an answer may also never take effect, which its absence from what follows stands for.
        may_be_next && state.after(&step.what).is_some_and(|after| has_order(&rest, &after))
            || step.ended.is_none() && has_order(&rest, state)
    })
}

/// The lookups with an answer, as positions of their last events.
fn lookups(history: &History) -> Vec<usize> {
    let answers = history.events.iter().filter(|event| event.f == "lookup" && event.kind == Kind::Ok);
    answers.map(|event| event.index).collect()
}

fn of_seed(seed: u64, operations: usize, unknown: u32) -> (Rng, History) {
    let mut rng = Rng::with_seed(seed);
    let history = right(&mut rng, operations, seed.is_multiple_of(2), unknown);
    (rng, history)
}

#[test]
fn what_is_right_is_not_refused() {
    for seed in 0..HISTORIES {
        for unknown in [0, 8] {
            let (_, history) = of_seed(seed, 60, unknown);
            assert!(!refused(wgl::check, &history), "seed {seed}, unknown {unknown}: {:?}", wgl::check(&history));
            let versioned = versioned::check(&history);
            assert_eq!(versioned.verdict, Verdict::Valid, "seed {seed}, unknown {unknown}: {versioned:?}");
        }
    }
}

#[test]
fn the_search_finds_an_order_exactly_where_there_is_one() {
    let (mut orders, mut none) = (0, 0);
    for seed in 0..4 * HISTORIES {
        let (mut rng, mut history) = of_seed(seed, 6, 4);
        spoil(&mut rng, &mut history);
        let all = users(&history);
        let Some(alice) = all.get("alice") else { continue };
        let steps: Vec<&Step> = alice.steps.iter().collect();
        let expected = has_order(&steps, &State::default());
        assert_eq!(!refused(wgl::check, &history), expected, "seed {seed}: {:#?}", alice.steps);
        *(if expected { &mut orders } else { &mut none }) += 1;
    }
    assert!(orders > 100 && none > 100, "{orders} with an order, {none} without: both are looked at");
}

#[test]
fn what_has_no_order_nearly_always_contradicts_its_revisions() {
    let (mut none, mut contradict) = (0, 0);
    for seed in 0..HISTORIES {
        let (mut rng, mut history) = of_seed(seed, 40, 0);
        spoil(&mut rng, &mut history);
        if refused(wgl::check, &history) {
            none += 1;
            contradict += u64::from(refused(versioned::check, &history));
        }
    }
    // Whom a newcomer replaced is not always known by the revisions alone.
    assert!(none > 50 && contradict * 20 >= none * 19, "{contradict} of {none}");
}

/// Changes one answer at random.
fn spoil(rng: &mut Rng, history: &mut History) {
    let answered: Vec<usize> =
        history.events.iter().filter(|event| event.kind == Kind::Ok).map(|event| event.index).collect();
    let Some(chosen) = answered.get(rng.usize(..answered.len().max(1))) else { return };
    let value = &mut history.events[*chosen].value;
    if let Some(existed) = value["existed"].as_bool() {
        value["existed"] = json!(!existed);
    } else if let Some(connections) = value["connections"].as_array_mut() {
        if connections.is_empty() || rng.bool() {
            connections.push(json!([format!("c-5-{}", rng.u64(1..6)), 11]));
        } else {
            connections.remove(0);
        }
    } else if value["limit"] == true {
        *value = json!({ "granted": value["revision"], "superseded": [], "revision": value["revision"] });
    } else {
        value["superseded"] = json!(["c-5-1"]);
    }
}

/// Plants a fault into each of many histories, and counts where it could be planted and who found it.
fn planted(unknown: u32, plant: impl Fn(&mut Rng, &mut History) -> bool) -> (u64, u64, u64) {
    let (mut tried, mut by_search, mut by_revisions) = (0, 0, 0);
    for seed in 0..HISTORIES {
        let (mut rng, mut history) = of_seed(seed, 80, unknown);
        if plant(&mut rng, &mut history) {
            tried += 1;
            by_search += u64::from(refused(wgl::check, &history));
            by_revisions += u64::from(refused(versioned::check, &history));
        }
    }
    assert!(tried > HISTORIES / 4, "it was planted {tried} times only");
    (tried, by_search, by_revisions)
}

#[test]
fn a_stale_read_is_found() {
    for unknown in [0, 20] {
        let (tried, by_search, by_revisions) = planted(unknown, |_, history| {
            // A lookup is answered as one was that had ended before it began, with other connections.
            let answers = lookups(history);
            let began = |at: usize| {
                let process = history.events[at].process;
                history.events.iter().position(|event| event.process == process).unwrap_or(at)
            };
            let stale = answers.iter().rev().find_map(|late| {
                let old = answers.iter().find(|old| **old < began(*late))?;
                let (old, late) = (*old, *late);
                (history.events[old].value["connections"] != history.events[late].value["connections"])
                    .then_some((old, late))
            });
            let Some((old, late)) = stale else { return false };
            history.events[late].value = history.events[old].value.clone();
            true
        });
        assert_eq!(by_revisions, tried, "{unknown}");
        assert!(
            by_search * 10 >= tried * 9,
            "{by_search} of {tried}: without revisions a lucky order may explain some"
        );
    }
}

#[test]
fn a_lost_registration_is_found() {
    for unknown in [0, 20] {
        let (tried, by_search, by_revisions) = planted(unknown, |rng, history| {
            let shown: Vec<usize> = lookups(history)
                .into_iter()
                .filter(|at| history.events[*at].value["connections"].as_array().is_some_and(|all| !all.is_empty()))
                .collect();
            let Some(chosen) = shown.get(rng.usize(..shown.len().max(1))) else { return false };
            history.events[*chosen].value["connections"] = json!([]);
            true
        });
        // Something without an answer may have removed it, where nothing shows it afterwards.
        assert!(by_revisions * 10 >= tried * 8, "{unknown}: {by_revisions} of {tried}");
        assert!(by_search * 10 >= tried * 7, "{unknown}: {by_search} of {tried}");
    }
}

#[test]
fn two_owners_are_found() {
    let (tried, by_search, by_revisions) = planted(8, |rng, history| {
        let exclusive = history.events.iter().any(|event| event.value["policy"] == "newest_wins");
        let answers = lookups(history);
        let last = history.events.iter().rev().find(|event| event.f == "register" && event.kind == Kind::Ok);
        let (true, Some(id)) = (exclusive && !answers.is_empty(), last.map(|event| event.process)) else {
            return false;
        };
        let asked = history.events.iter().find(|event| event.process == id).map(|event| &event.value["connection"]);
        let also: Value = json!([asked, 1]);
        let chosen = answers[rng.usize(..answers.len())];
        let connections = history.events[chosen].value["connections"].as_array_mut().expect("a lookup has them");
        if connections.is_empty() || connections[0][0] == also[0] {
            return false;
        }
        connections.push(also);
        true
    });
    assert_eq!((by_search, by_revisions), (tried, tried));
}

#[test]
fn a_revision_that_goes_back_is_found() {
    let (tried, _, by_revisions) = planted(8, |_, history| {
        let Some(last) = lookups(history).pop() else { return false };
        history.events[last].value["revision"] = json!(10);
        history.events[last].value["connections"] = json!([]);
        true
    });
    assert_eq!(by_revisions, tried);
}

#[test]
fn a_read_from_the_future_is_found() {
    let (tried, by_search, by_revisions) = planted(8, |_, history| {
        let answers = lookups(history);
        let (Some(first), Some(id)) = (
            answers.first(),
            history.events.iter().rev().find(|event| event.f == "register" && event.kind == Kind::Invoke),
        ) else {
            return false;
        };
        if id.index < *first {
            return false;
        }
        let granted = history.events[*first].value["revision"].clone();
        history.events[*first].value["connections"] = json!([[id.value["connection"], granted]]);
        true
    });
    assert_eq!((by_search, by_revisions), (tried, tried));
}
