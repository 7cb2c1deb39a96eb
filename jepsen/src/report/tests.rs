//! A small run that never was, with text that wants to be markup, and what its report shows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::bands::bands;
use super::layout::{SHOWN_MAX, layout};
use super::rate::{Part, parts};
use super::*;
use super::{Ended, runs};
use crate::history::{Event, Kind, Nemesis, Process};
use crate::verdict::{Anomaly, Checked, Verdict};

const HOSTILE: &str = "</a><script>alert(\"1\")</script>'&";

fn note(history: &mut History, ms: u64, process: Option<u32>, kind: Kind, f: &str, value: Value) -> usize {
    let process = process.map_or(Process::Nemesis(Nemesis::Nemesis), Process::Client);
    let error = (kind == Kind::Fail || kind == Kind::Info).then(|| HOSTILE.to_owned());
    let (index, key) = (history.events.len(), Some(HOSTILE.to_owned()));
    history.events.push(Event { index, time: ms * 1_000_000, process, kind, f: f.to_owned(), key, value, error });
    index
}

/// Four seconds: a kill from 1 s to 2 s, a fault that could not be, and a pause that is never healed, from 3 s on.
fn history() -> History {
    let mut history = History::default();
    let mut at = |ms, process, kind, f: &str, value| note(&mut history, ms, process, kind, f, value);
    at(100, Some(0), Kind::Invoke, "register", json!({ "user": HOSTILE }));
    at(150, Some(0), Kind::Ok, "register", json!({ "user": HOSTILE }));
    at(1_000, None, Kind::Invoke, "kill", Value::Null);
    at(1_010, None, Kind::Ok, "kill", json!([HOSTILE]));
    at(1_020, Some(0), Kind::Invoke, "lookup", json!(1));
    at(1_030, Some(1), Kind::Invoke, "register", json!(1));
    at(1_040, Some(1), Kind::Fail, "register", json!(1));
    at(1_520, Some(0), Kind::Info, "lookup", json!(1));
    at(1_990, None, Kind::Invoke, "kill-end", Value::Null);
    at(2_000, None, Kind::Ok, "kill-end", Value::Null);
    at(2_100, Some(2), Kind::Invoke, "lookup", json!(1));
    at(2_110, Some(2), Kind::Ok, "lookup", json!(2));
    at(2_500, None, Kind::Invoke, "clock", Value::Null);
    at(2_501, None, Kind::Fail, "clock", json!(HOSTILE));
    at(3_000, None, Kind::Invoke, "pause", Value::Null);
    at(3_000, None, Kind::Ok, "pause", json!(["gw-1"]));
    at(3_100, Some(2), Kind::Invoke, "frame", Value::Null);
    at(3_100, Some(2), Kind::Ok, "frame", json!(1));
    at(3_500, Some(2), Kind::Invoke, "lookup", json!(1));
    at(4_000, Some(1), Kind::Invoke, "register", json!(1));
    history
}

fn told(history: &History) -> Results {
    let anomaly = Anomaly { name: HOSTILE.to_owned(), what: HOSTILE.to_owned(), events: vec![11, 7, 3, 9_999] };
    let checked = Checked::new(HOSTILE, &["I1"], HOSTILE.to_owned(), vec![anomaly]).figure(HOSTILE, HOSTILE);
    let about = About { began: "2026-01-02T03:04:05Z".to_owned(), command: HOSTILE.to_owned(), ..About::default() };
    Results {
        verdict: Verdict::Invalid,
        workload: "register".to_owned(),
        nemesis: vec!["kill".to_owned(), "pause".to_owned()],
        time_s: 4,
        seed: 7,
        about,
        counts: Counts::of(history),
        checked: vec![checked],
    }
}

fn written() -> (tempfile::TempDir, BTreeMap<&'static str, String>) {
    let folder = tempfile::tempdir().unwrap();
    let history = history();
    std::fs::write(folder.path().join("node-1.log"), "").unwrap();
    keep(folder.path(), &history).unwrap();
    write(folder.path(), &history, &told(&history)).unwrap();
    let names = ["index.html", "timeline.html", "latency.svg", "rate.svg"];
    let texts = names.map(|name| (name, std::fs::read_to_string(folder.path().join(name)).unwrap()));
    (folder, texts.into())
}

/// Names of the tags in their order, a `/` before those that close, and none for those that close themselves.
fn tags(text: &str) -> Vec<String> {
    let mut tags = Vec::new();
    for rest in text.split('<').skip(1) {
        let tag = rest.split('>').next().unwrap();
        let name = tag.split([' ', '\n']).next().unwrap();
        if !tag.ends_with('/') && !["!doctype", "meta"].contains(&name) {
            tags.push(name.to_owned());
        }
    }
    tags
}

#[test]
fn every_page_is_well_formed_and_takes_no_text_for_markup() {
    let (_folder, pages) = written();
    for (name, text) in &pages {
        assert!(!text.contains("<script") && !text.contains("alert(\""), "{name}");
        let mut open: Vec<String> = Vec::new();
        for tag in tags(text) {
            match tag.strip_prefix('/') {
                Some(closed) => assert_eq!(open.pop().as_deref(), Some(closed), "{name}"),
                None => open.push(tag),
            }
        }
        assert!(open.is_empty(), "{name}: {open:?}");
    }
}

#[test]
fn the_pages_lead_to_each_other_and_to_what_is_wrong() {
    let (folder, pages) = written();
    let (index, timeline) = (&pages["index.html"], &pages["timeline.html"]);
    let anchors: Vec<&str> = index.split("timeline.html#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    // The end of the lookup, the one that nobody knows, the kill; then the kill, the clock and the pause in the list of faults.
    assert_eq!(anchors, ["e10", "e4", "e2", "e2", "e12", "e14"]);
    assert!(anchors.iter().all(|anchor| timeline.contains(&format!("id=\"{anchor}\""))), "{anchors:?}");
    assert!(index.contains(">invalid</span>") && index.contains("node-1.log") && index.contains("history.jsonl"));
    assert!(index.contains(&pages["rate.svg"]) && index.contains(&pages["latency.svg"]), "both plots are in the page");
    assert_eq!(timeline.matches(" bad\"").count(), 2, "the two operations that the anomaly names");
    assert_eq!(timeline.matches("class=\"o info").count(), 3, "one that ended so, and two that never ended");
    let again = results(folder.path()).unwrap();
    write(folder.path(), &kept(folder.path()).unwrap(), &again).unwrap();
    for (name, text) in &pages {
        let second = std::fs::read_to_string(folder.path().join(name)).unwrap();
        let same = *name == "index.html" || second == *text;
        assert!(same && second.len() >= text.len(), "{name}: judged again, it is the same");
    }
}

#[test]
fn plots_show_each_outcome_and_each_fault() {
    let (_folder, pages) = written();
    let latency = &pages["latency.svg"];
    assert_eq!(latency.matches("class=\"band\"").count(), 2);
    assert!(latency.contains("#E9A4A0") && latency.contains("#A0B1E9"), "in the colours of their faults");
    let dots = |outcome: &str| latency.matches(&format!("<path class=\"{outcome} dots\" d=")).count();
    assert_eq!([dots("ok"), dots("fail"), dots("info"), dots("seen")], [1, 1, 1, 0], "what was seen has no latency");
    let rate = &pages["rate.svg"];
    assert!(
        ["ok", "fail", "info", "seen"].iter().all(|o| rate.contains(&format!("<path class=\"{o} step\""))),
        "{rate}"
    );
}

#[test]
fn faults_last_until_they_are_healed() {
    let history = history();
    let told: Vec<(String, u64, u64)> =
        bands(&history).into_iter().map(|band| (band.fault, band.begin / 1_000_000, band.end / 1_000_000)).collect();
    assert_eq!(told, [("kill".to_owned(), 1_000, 2_000), ("pause".to_owned(), 3_000, 4_000)]);
    let counts = Counts::of(&history);
    assert_eq!(counts.faults, [("kill".to_owned(), 1), ("pause".to_owned(), 1)].into());
    assert_eq!(counts.operations["register"], Ended { ok: 1, fail: 1, info: 1, seen: 0 });
    assert_eq!(counts.operations["frame"], Ended { seen: 1, ..Ended::default() });
    assert_eq!(counts.all().asked(), 6);
    let part = |name, seconds, ok_per_second| Part { name, seconds, ok_per_second };
    let expected =
        [part("before the first fault", 1.0, 1.0), part("during faults", 2.0, 0.0), part("between faults", 1.0, 1.0)];
    assert_eq!(parts(&history, &bands(&history)), expected);
}

#[test]
fn a_timeline_keeps_the_order_and_covers_nothing() {
    let history = history();
    let page = layout(&history, &BTreeSet::new());
    assert_eq!(page.placed.len(), 7);
    for (nth, placed) in page.placed.iter().enumerate() {
        assert!(placed.bottom >= placed.top + 15, "it can be read");
        let others = page.placed[..nth].iter().filter(|other| other.column == placed.column);
        assert!(others.clone().all(|other| other.bottom < placed.top), "it covers nothing");
    }
    assert!(page.placed.is_sorted_by_key(|placed| placed.top), "in the order in which they began");
    assert_eq!(page.columns.iter().map(Vec::len).sum::<usize>(), 3, "each process has one column");
    assert_eq!(page.columns.len(), 2, "the one after an unknown outcome goes on in a column that is free");
}

#[test]
fn a_long_history_is_shown_around_what_is_wrong() {
    let mut history = History::default();
    for nth in 0..25_000 {
        note(&mut history, nth, Some(0), Kind::Invoke, "lookup", json!(nth));
        note(&mut history, nth, Some(0), Kind::Ok, "lookup", json!(nth));
    }
    let page = layout(&history, &[40_001].into());
    assert_eq!(page.placed.len(), SHOWN_MAX);
    assert!(page.placed.iter().any(|placed| placed.operation.invoked.index == 40_000), "what is wrong is there");
    let first = page.placed[0].operation.invoked.index;
    assert_eq!(page.gaps.iter().map(|(hidden, _)| *hidden).sum::<usize>(), 15_000);
    assert_eq!(first, 30_000, "and as much on its other side");
}

#[test]
fn runs_become_a_table() {
    let store = tempfile::tempdir().unwrap();
    let history = history();
    for name in ["a", "b"] {
        let folder = store.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let mut results = told(&history);
        if name == "a" {
            results.about.began = "2026-02-02T03:04:05Z".to_owned();
            results.verdict = Verdict::Valid;
        }
        write(&folder, &history, &results).unwrap();
    }
    let found = runs::found(&[store.path().to_owned()]).unwrap();
    let order: Vec<PathBuf> = found.iter().map(|(folder, _)| folder.clone()).collect();
    assert_eq!(order, [store.path().join("b"), store.path().join("a")], "in the order in which they began");
    let table = runs::markdown(&found);
    assert!(table.contains("| 2026-01-02 | register | kill, pause | 2 | 0.1 | 6 | 3 | invalid | 7 |"), "{table}");
    assert!(table.contains("2 runs, 0 minutes, 12 operations, 4 faults."), "{table}");
    runs::write_index(store.path()).unwrap();
    let page = std::fs::read_to_string(store.path().join("index.html")).unwrap();
    assert!(page.contains("href=\"a/index.html\"") && page.contains("href=\"b/index.html\""));
    let missing = runs::found(&[store.path().join("c")]).unwrap_err().to_string();
    assert!(missing.contains("/c"), "{missing}");
}
