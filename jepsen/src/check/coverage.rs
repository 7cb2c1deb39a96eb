//! Whether enough was broken to say anything: a fault that was asked for and never injected proves nothing.

use serde_json::Value;

use crate::history::{History, Kind};
use crate::verdict::{Checked, Verdict};

/// What the history calls the end of a run before its time.
pub const INTERRUPTED: &str = "interrupted";

/// Every fault that was asked for was injected at least once, and the run went to its end.
pub fn check(history: &History, asked: &[String]) -> Checked {
    let faults = history.faults();
    let injected = |name: &String| faults.iter().filter(|fault| fault.f() == name && fault.kind() == Kind::Ok).count();
    let missing: Vec<&String> = asked.iter().filter(|name| injected(name) == 0).collect();
    let interrupted = history.events.iter().any(|event| event.f == INTERRUPTED);
    let mut summary = match (asked.len(), missing.as_slice()) {
        (0, _) => "Nothing was to be broken.".to_owned(),
        (_, []) => "Each fault that was asked for was injected.".to_owned(),
        (_, missing) => {
            let reasons = missing.iter().map(|name| format!("{name} ({})", reason(history, name)));
            format!("Never injected: {}.", reasons.collect::<Vec<_>>().join("; "))
        }
    };
    if interrupted {
        summary = format!("The run was interrupted. {summary}");
    }
    let mut checked = Checked::new("coverage", &[], summary, Vec::new());
    if interrupted || !missing.is_empty() {
        checked.verdict = Verdict::Unknown;
    }
    for name in asked {
        checked = checked.figure(name, injected(name));
    }
    checked
}

/// Why a fault was not injected the last time.
fn reason(history: &History, name: &str) -> String {
    let faults = history.faults();
    let last = faults.iter().rev().filter(|fault| fault.f() == name).find_map(|fault| fault.ended);
    match last.map(|event| &event.value) {
        None => "its turn never came".to_owned(),
        Some(Value::String(why)) => why.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::history::Recorder;

    fn asked(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_fault_that_never_was_makes_the_verdict_unknown() {
        let recorder = Recorder::default();
        recorder.fault(Kind::Invoke, "kill", Value::Null);
        recorder.fault(Kind::Ok, "kill", json!(["node-1"]));
        recorder.fault(Kind::Invoke, "grow", Value::Null);
        recorder.fault(Kind::Fail, "grow", json!("no room"));
        let history = recorder.history();
        assert_eq!(check(&history, &asked(&["kill"])).verdict, Verdict::Valid);
        let checked = check(&history, &asked(&["kill", "grow", "pause"]));
        assert_eq!(checked.verdict, Verdict::Unknown);
        assert!(checked.summary.contains("grow (no room); pause (its turn never came)"), "{}", checked.summary);
        assert_eq!(check(&history, &[]).verdict, Verdict::Valid);
    }

    #[test]
    fn an_interrupted_run_says_nothing() {
        let recorder = Recorder::default();
        recorder.fault(Kind::Info, INTERRUPTED, json!("SIGINT"));
        let checked = check(&recorder.history(), &[]);
        assert_eq!(checked.verdict, Verdict::Unknown);
        assert!(checked.summary.contains("interrupted"), "{}", checked.summary);
    }
}
