//! The simulation: a bounded number of seeds, that a seed reproduces, and that planted bugs are found.

use std::process::{Command, Output};

/// Runs `jepsen simulate` with these arguments; whether it found nothing, and what it printed.
fn simulate(arguments: &[&str]) -> (bool, String) {
    let run = Command::new(env!("CARGO_BIN_EXE_jepsen")).arg("simulate").args(arguments).output();
    let Output { status, stdout, stderr } = run.expect("the program can be run");
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(matches!(status.code(), Some(0 | 1)), "the simulation itself failed: {text}");
    (status.success(), text)
}

/// The lines that begin as those of a trace do, which a second run must repeat.
fn trace(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with(' ')).collect()
}

#[test]
fn simulation_of_some_seeds_finds_nothing() {
    let (valid, text) = simulate(&["--seeds", "1..5", "--faults", "15s"]);
    assert!(valid, "{text}");
    assert!(text.contains("4 seeds valid"), "{text}");
}

#[test]
fn simulation_of_one_seed_is_the_same_byte_for_byte() {
    let run = || simulate(&["--seed", "7", "--faults", "8s", "--trace"]).1;
    let (first, second) = (run(), run());
    assert!(trace(&first).len() > 200, "{first}");
    assert_eq!(trace(&first), trace(&second));
    let other = simulate(&["--seed", "8", "--faults", "8s", "--trace"]).1;
    assert_ne!(trace(&first), trace(&other));
}

/// A leader that hands over turns reads away at once. Whoever asked again at once, and not after a pause, kept it so busy
/// that no time passed at all.
#[test]
fn simulation_goes_on_while_a_leader_hands_over() {
    let (valid, text) = simulate(&["--seeds", "11..12", "--faults", "5s"]);
    assert!(valid && text.contains("hand-overs 1"), "{text}");
}

/// Every planted bug is found within these seeds, for the reason that it should be.
fn finds(plant: &str, seeds: &str, faults: &str, invariant: &str) {
    let (valid, text) = simulate(&["--seeds", seeds, "--faults", faults, "--plant", plant, "--until-found"]);
    assert!(!valid, "{plant} was not found within {seeds}: {text}");
    let verdict = text.lines().find(|line| line.contains(": VIOLATION of ")).expect("a verdict names an invariant");
    assert!(verdict.contains(invariant), "{plant} was found as {verdict}");
    assert!(text.contains("reproduce with: cargo run -p jepsen -- simulate --seed "), "{text}");
}

#[test]
fn simulation_finds_disks_that_acknowledge_what_is_not_synced() {
    finds("acknowledges-unsynced", "1..9", "30s", "nodes go on");
}

#[test]
fn simulation_finds_renewals_without_a_quorum() {
    finds("renews-unconfirmed", "1..13", "40s", "I5");
}

#[test]
fn simulation_finds_leaders_that_forget_leases() {
    finds("forgets-leases", "1..5", "30s", "I5");
}

#[test]
fn simulation_finds_clocks_that_no_margin_allows_for() {
    finds("slow-clocks", "1..5", "30s", "I5");
}
