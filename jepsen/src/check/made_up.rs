//! Histories that never happened, for tests of checkers: what a correct directory would have answered to many clients at once, and what a
//! wrong one would.

use fastrand::Rng;
use serde_json::{Value, json};

use crate::history::{Event, History, Kind, Nemesis, Process};

/// Writes a history line by line; an operation is one process.
#[derive(Debug, Clone, Default)]
pub(super) struct Story {
    events: Vec<Event>,
    processes: u32,
    /// Milliseconds that passed between lines.
    passed: u64,
}

impl Story {
    /// An operation begins; what ends it needs the number.
    pub(super) fn begin(&mut self, f: &str, key: &str, value: Value) -> u32 {
        let process = self.processes;
        self.processes += 1;
        self.note(Process::Client(process), Kind::Invoke, f, key, value, None);
        process
    }

    /// It ends so.
    pub(super) fn end(&mut self, process: u32, kind: Kind, value: Value, error: Option<&str>) {
        let begun = self.events.iter().find(|event| event.process == Process::Client(process));
        let (f, key) = begun.map(|event| (event.f.clone(), event.key.clone())).expect("it began");
        self.note(Process::Client(process), kind, &f, &key.expect("it has one"), value, error);
    }

    /// An operation that nothing else overlaps.
    pub(super) fn ok(&mut self, f: &str, key: &str, asked: Value, answer: Value) -> &mut Self {
        let process = self.begin(f, key, asked);
        self.end(process, Kind::Ok, answer, None);
        self
    }

    /// Session 5 shows that it is alive.
    pub(super) fn lives(&mut self) {
        self.ok("renew", "s-5", Value::Null, Value::Null);
    }

    /// What was written; a millisecond passes from line to line.
    pub(super) fn history(&self) -> History {
        History { events: self.events.clone() }
    }

    /// So many milliseconds pass.
    pub(super) fn pass(&mut self, ms: u64) {
        self.passed += ms;
    }

    /// The nemesis breaks something.
    pub(super) fn fault(&mut self, f: &str, what: Value) {
        let nemesis = Process::Nemesis(Nemesis::Nemesis);
        self.note(nemesis, Kind::Invoke, f, "", Value::Null, None);
        self.note(nemesis, Kind::Ok, f, "", what, None);
    }

    fn note(&mut self, process: Process, kind: Kind, f: &str, key: &str, value: Value, error: Option<&str>) {
        let index = self.events.len();
        self.events.push(Event {
            index,
            time: (index as u64 + self.passed) * 1_000_000,
            process,
            kind,
            f: f.to_owned(),
            key: Some(key.to_owned()),
            value,
            error: error.map(str::to_owned),
        });
    }
}

/// An operation that is under way in a made-up directory.
struct Under {
    process: u32,
    f: &'static str,
    connection: String,
    answer: Option<Value>,
}

/// A directory that does everything right, and clients that overlap at random. Each operation takes effect at some moment between
/// its two events. One in `unknown` is never answered; 0: all are.
pub(super) fn right(rng: &mut Rng, operations: usize, exclusive: bool, unknown: u32) -> History {
    let mut directory = Directory { live: Vec::new(), superseded: Vec::new(), revision: 10, exclusive };
    let mut story = Story::default();
    story.ok("open", "own-1", json!({ "nonce": "n" }), json!({ "epoch": 5 }));
    let mut under: Vec<Under> = Vec::new();
    let (mut begun, mut serial, mut known) = (0, 0, Vec::new());
    while begun < operations || !under.is_empty() {
        let may_begin = begun < operations && under.len() < 5;
        match rng.u32(..3) {
            0 if may_begin => {
                begun += 1;
                under.push(begin(&mut story, rng, exclusive, &mut serial, &mut known));
            }
            1 if !under.is_empty() => {
                let chosen = rng.usize(..under.len());
                if under[chosen].answer.is_none() {
                    let Under { f, connection, .. } = &under[chosen];
                    under[chosen].answer = Some(directory.apply(f, connection));
                }
            }
            2 if !under.is_empty() => {
                let chosen = rng.usize(..under.len());
                let lost = unknown > 0 && under[chosen].f != "lookup" && rng.u32(..unknown) == 0;
                if lost {
                    // Whether it took effect until now, takes effect later, or never does.
                    let process = under[chosen].process;
                    story.end(process, Kind::Info, Value::Null, Some("no answer"));
                    let Under { f, connection, answer, .. } = under.swap_remove(chosen);
                    if answer.is_none() && rng.bool() {
                        directory.apply(f, &connection);
                    }
                } else if let Some(answer) = under[chosen].answer.clone() {
                    story.end(under.swap_remove(chosen).process, Kind::Ok, answer, None);
                }
            }
            _ => {}
        }
    }
    story.lives();
    story.history()
}

fn begin(story: &mut Story, rng: &mut Rng, exclusive: bool, serial: &mut u64, known: &mut Vec<String>) -> Under {
    let f = ["register", "register", "unregister", "lookup", "lookup", "lookup"][rng.usize(..6)];
    let connection = match f {
        "unregister" if known.is_empty() => "c-5-0".to_owned(),
        "unregister" => known[rng.usize(known.len().saturating_sub(4)..known.len())].clone(),
        _ => {
            *serial += 1;
            format!("c-5-{serial}")
        }
    };
    if f == "register" {
        known.push(connection.clone());
    }
    let policy = if exclusive { "newest_wins" } else { "multi" };
    let asked = json!({ "connection": connection, "policy": policy, "max": 3 });
    let process = story.begin(f, "alice", if f == "lookup" { Value::Null } else { asked });
    Under { process, f, connection, answer: None }
}

struct Directory {
    live: Vec<(String, u64)>,
    /// Those that lost their place and were not unregistered yet.
    superseded: Vec<String>,
    revision: u64,
    exclusive: bool,
}

impl Directory {
    fn apply(&mut self, f: &str, connection: &str) -> Value {
        self.revision += u64::from(f != "lookup");
        let revision = self.revision;
        match f {
            "register" if !self.exclusive && self.live.len() >= 3 => json!({ "limit": true, "revision": revision }),
            "register" => {
                let superseded: Vec<_> = if self.exclusive { self.live.drain(..).collect() } else { Vec::new() };
                let superseded: Vec<String> = superseded.into_iter().map(|(id, _)| id).collect();
                self.superseded.extend(superseded.iter().cloned());
                self.live.push((connection.to_owned(), revision));
                json!({ "granted": revision, "superseded": superseded, "revision": revision })
            }
            "unregister" => {
                let before = self.live.len() + self.superseded.len();
                self.live.retain(|(id, _)| id != connection);
                self.superseded.retain(|id| id != connection);
                json!({ "existed": self.live.len() + self.superseded.len() < before, "revision": revision })
            }
            _ => json!({ "connections": self.live, "revision": revision }),
        }
    }
}
