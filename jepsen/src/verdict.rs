//! What a run shows: that the promises held, that one was broken, or neither.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Ordered: the worst of several is the verdict on all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every promise that was looked at held, and enough happened to say so.
    Valid,
    /// Nothing wrong was found, but too little happened, or the checker ran out of time.
    Unknown,
    /// A promise was broken.
    Invalid,
}

impl Verdict {
    /// Exit code of the command: 0, 2 or 1.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Valid => 0,
            Self::Invalid => 1,
            Self::Unknown => 2,
        }
    }
}

/// What one checker says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// Name of the checker.
    pub checker: String,
    /// What it proves, as DESIGN numbers it: `I1`.
    pub invariants: Vec<String>,
    /// What it found.
    pub verdict: Verdict,
    /// One sentence: what was looked at, and what came of it.
    pub summary: String,
    /// Counts and times, by name with unit: `reads`, `longest_ms`.
    pub figures: BTreeMap<String, Value>,
    /// What is wrong.
    pub anomalies: Vec<Anomaly>,
}

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Anomaly {
    /// What kind: `stale read`.
    pub name: String,
    /// What exactly, in one sentence that can be read alone.
    pub what: String,
    /// Indexes of the events that show it.
    pub events: Vec<usize>,
}

/// Most anomalies that are kept of one checker; the figures tell how many there were.
pub const ANOMALIES_MAX: usize = 50;

impl Checked {
    /// Invalid if there are anomalies, else valid.
    pub fn new(checker: &str, invariants: &[&str], summary: String, anomalies: Vec<Anomaly>) -> Self {
        let verdict = if anomalies.is_empty() { Verdict::Valid } else { Verdict::Invalid };
        let mut checked = Self {
            checker: checker.to_owned(),
            invariants: invariants.iter().map(|i| (*i).to_owned()).collect(),
            verdict,
            summary,
            figures: BTreeMap::new(),
            anomalies,
        };
        checked.figures.insert("anomalies".to_owned(), checked.anomalies.len().into());
        checked.anomalies.truncate(ANOMALIES_MAX);
        checked
    }

    /// With a figure.
    #[must_use]
    pub fn figure(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.figures.insert(name.to_owned(), value.into());
        self
    }

    /// Not valid unless so much happened: a run in which nothing happens proves nothing.
    #[must_use]
    pub fn at_least(mut self, what: &str, wanted: usize, had: usize) -> Self {
        if had < wanted {
            self.verdict = self.verdict.max(Verdict::Unknown);
            self.summary = format!("{} Only {had} {what}, {wanted} are wanted.", self.summary);
        }
        self.figure(what, had)
    }
}
