//! What everyone did and saw, in the order in which it was noted.
//!
//! An operation is two events: `invoke`, then `ok`, `fail` (it certainly did not happen) or `info` (nobody knows). A process does
//! one operation at a time; after an `info` it goes on under a new number, because the old one may still be at work.
//! What merely happened to a client (a frame, an event of a watch) is noted as an operation that took no time.

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Who acts: a client by number, or the nemesis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Process {
    /// A client; numbers are never used twice.
    Client(u32),
    /// Whoever breaks and heals.
    Nemesis(Nemesis),
}

/// The one name that is not a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Nemesis {
    /// As histories spell it.
    Nemesis,
}

/// What an event says about its operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It begins.
    Invoke,
    /// It happened; the value is its result.
    Ok,
    /// It did not happen and never will.
    Fail,
    /// It may have happened, may happen yet, or never.
    Info,
}

/// One line of a history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Position in the history.
    pub index: usize,
    /// Nanoseconds since the run began.
    pub time: u64,
    /// Who.
    pub process: Process,
    /// Which end of an operation.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// What: the name of the operation.
    pub f: String,
    /// On what; operations on different keys are independent of each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Arguments, or results.
    #[serde(default)]
    pub value: Value,
    /// Why it failed, or is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It happened, with this result.
    Ok(Value),
    /// It did not happen, and why.
    Fail(String),
    /// Nobody knows, and why.
    Info(String),
}

/// An operation: its two events together.
#[derive(Debug, Clone, Copy)]
pub struct Operation<'a> {
    /// Its first event.
    pub invoked: &'a Event,
    /// Its second one; `None` while it had not ended when the history did, which is as good as `info`.
    pub ended: Option<&'a Event>,
}

impl<'a> Operation<'a> {
    /// What it was.
    pub fn f(&self) -> &'a str {
        &self.invoked.f
    }

    /// On what; empty when it is on nothing in particular.
    pub fn key(&self) -> &'a str {
        self.invoked.key.as_deref().unwrap_or_default()
    }

    /// `Ok`, `Fail` or `Info`.
    pub fn kind(&self) -> Kind {
        self.ended.map_or(Kind::Info, |ended| ended.kind)
    }

    /// Its result, if it happened.
    pub fn result(&self) -> Option<&'a Value> {
        self.ended.filter(|ended| ended.kind == Kind::Ok).map(|ended| &ended.value)
    }

    /// When it began, nanoseconds since the run did.
    pub fn began(&self) -> u64 {
        self.invoked.time
    }

    /// When it was known to have happened or not; `None` if it never was.
    pub fn known(&self) -> Option<u64> {
        self.ended.filter(|ended| ended.kind != Kind::Info).map(|ended| ended.time)
    }
}

/// All that was noted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// In the order of their indexes.
    pub events: Vec<Event>,
}

impl History {
    /// The operations of clients, in the order in which they began.
    pub fn operations(&self) -> Vec<Operation<'_>> {
        self.pairs(|process| matches!(process, Process::Client(_)))
    }

    /// What the nemesis did, in the order in which it did.
    pub fn faults(&self) -> Vec<Operation<'_>> {
        self.pairs(|process| matches!(process, Process::Nemesis(_)))
    }

    fn pairs(&self, of: impl Fn(Process) -> bool) -> Vec<Operation<'_>> {
        let mut operations: Vec<Operation<'_>> = Vec::new();
        let mut open: BTreeMap<Process, usize> = BTreeMap::new();
        for event in self.events.iter().filter(|event| of(event.process)) {
            if event.kind == Kind::Invoke {
                open.insert(event.process, operations.len());
                operations.push(Operation { invoked: event, ended: None });
            } else if let Some(nth) = open.remove(&event.process) {
                operations[nth].ended = Some(event);
            }
        }
        operations
    }

    /// Operations of one name.
    pub fn of(&self, f: &str) -> Vec<Operation<'_>> {
        self.operations().into_iter().filter(|operation| operation.f() == f).collect()
    }

    /// One event a line.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        let mut out = BufWriter::new(File::create(file)?);
        for event in &self.events {
            serde_json::to_writer(&mut out, event)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    }

    /// What [`Self::write`] wrote.
    ///
    /// # Errors
    /// When the file can't be read, or a line of it is no event; the error names the line.
    pub fn read(file: &Path) -> io::Result<Self> {
        let mut events = Vec::new();
        for (nth, line) in BufReader::new(File::open(file)?).lines().enumerate() {
            let event = serde_json::from_str(&line?).map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{}, line {}: {error}", file.display(), nth + 1))
            })?;
            events.push(event);
        }
        Ok(Self { events })
    }
}

/// Where events are noted; clones note into the same history.
#[derive(Debug, Clone)]
pub struct Recorder {
    began: Instant,
    events: Arc<Mutex<Vec<Event>>>,
    processes: Arc<AtomicU32>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { began: Instant::now(), events: Arc::default(), processes: Arc::default() }
    }
}

impl Recorder {
    /// A client with a number of its own.
    pub fn client(&self) -> Client {
        Client { recorder: self.clone(), process: self.next_process() }
    }

    fn next_process(&self) -> u32 {
        self.processes.fetch_add(1, Ordering::Relaxed)
    }

    /// Nanoseconds since the run began.
    pub fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Notes something that the nemesis does; the end is noted by the same call with another kind.
    pub fn fault(&self, kind: Kind, f: &str, value: Value) {
        self.note(Process::Nemesis(Nemesis::Nemesis), kind, f, None, value, None);
    }

    /// What was noted so far.
    pub fn history(&self) -> History {
        History { events: self.lock().clone() }
    }

    fn note(&self, process: Process, kind: Kind, f: &str, key: Option<&str>, value: Value, error: Option<String>) {
        let mut events = self.lock();
        // Read under the lock, so that times never go back along the history.
        let (index, time) = (events.len(), self.now());
        events.push(Event { index, time, process, kind, f: f.to_owned(), key: key.map(str::to_owned), value, error });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Event>> {
        self.events.lock().expect("nobody panics while noting")
    }
}

/// One who acts, one operation at a time.
#[derive(Debug)]
pub struct Client {
    recorder: Recorder,
    process: u32,
}

impl Client {
    /// Notes that an operation begins, does it, and notes how it ended: as unknown if that takes longer than `within`.
    /// Dropped meanwhile, it stays open, which is as good as unknown.
    pub async fn perform(
        &mut self,
        (f, key): (&str, &str),
        value: Value,
        within: Duration,
        doing: impl Future<Output = Outcome>,
    ) -> Outcome {
        let process = Process::Client(self.process);
        self.recorder.note(process, Kind::Invoke, f, Some(key), value.clone(), None);
        let outcome = tokio::time::timeout(within, doing)
            .await
            .unwrap_or_else(|_| Outcome::Info(format!("no answer within {within:?}")));
        let (kind, value, error) = match outcome.clone() {
            Outcome::Ok(result) => (Kind::Ok, result, None),
            Outcome::Fail(why) => (Kind::Fail, value, Some(why)),
            Outcome::Info(why) => (Kind::Info, value, Some(why)),
        };
        self.recorder.note(process, kind, f, Some(key), value, error);
        if kind == Kind::Info {
            self.process = self.recorder.next_process();
        }
        outcome
    }

    /// Notes what happened to the client without its doing.
    pub fn observe(&self, f: &str, key: &str, value: Value) {
        let process = Process::Client(self.process);
        self.recorder.note(process, Kind::Invoke, f, Some(key), Value::Null, None);
        self.recorder.note(process, Kind::Ok, f, Some(key), value, None);
    }

    /// Nanoseconds since the run began.
    pub fn now(&self) -> u64 {
        self.recorder.now()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn outcomes_end_operations_and_unknown_ones_end_processes() {
        let recorder = Recorder::default();
        let mut client = recorder.client();
        let second = Duration::from_secs(1);
        client.perform(("read", "a"), json!(1), second, async { Outcome::Ok(json!(2)) }).await;
        client.perform(("read", "a"), json!(1), second, async { Outcome::Fail("refused".into()) }).await;
        client.perform(("read", "a"), json!(1), second, std::future::pending()).await;
        client.observe("frame", "a", json!("hello"));
        recorder.fault(Kind::Invoke, "kill", json!(["node-1"]));
        let history = recorder.history();
        let operations = history.operations();
        let kinds: Vec<Kind> = operations.iter().map(Operation::kind).collect();
        assert_eq!(kinds, [Kind::Ok, Kind::Fail, Kind::Info, Kind::Ok]);
        assert_eq!(operations[0].result(), Some(&json!(2)));
        assert_eq!(operations[2].known(), None, "nobody knows when it happens");
        assert_ne!(operations[2].invoked.process, operations[3].invoked.process, "the old one may still be at work");
        assert_eq!(history.faults().len(), 1);
    }

    #[test]
    fn a_history_is_read_as_it_was_written() {
        let recorder = Recorder::default();
        recorder.client().observe("event", "7", json!({ "revision": 7 }));
        recorder.fault(Kind::Info, "heal", Value::Null);
        let file = tempfile::NamedTempFile::new().unwrap();
        recorder.history().write(file.path()).unwrap();
        assert_eq!(History::read(file.path()).unwrap(), recorder.history());
        std::fs::write(file.path(), "{}\n").unwrap();
        assert!(History::read(file.path()).unwrap_err().to_string().contains("line 1"));
    }
}
