//! Whether the processes behaved: none panicked, none ended by itself, and all came back from everything.

use std::path::Path;

use serde_json::Value;

use crate::history::History;
use crate::nemesis::VIOLATION;
use crate::verdict::{Anomaly, Checked};

/// What a process says when it panics.
const PANIC: &str = "panicked at";

/// Looks at what the nemesis has noted, and at the logs in the folder of the run.
pub fn check(history: &History, folder: &Path) -> Checked {
    let mut anomalies = Vec::new();
    for event in history.events.iter().filter(|event| event.f == VIOLATION) {
        let what = event.value.as_str().map_or_else(|| event.value.to_string(), str::to_owned);
        anomalies.push(Anomaly { name: "misbehaved process".to_owned(), what, events: vec![event.index] });
    }
    let (mut logs, mut lines) = (0_u64, 0_u64);
    for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = file.path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let text = std::fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let name = file.file_name().to_string_lossy().into_owned();
        logs += 1;
        lines += text.lines().count() as u64;
        for line in text.lines().filter(|line| line.contains(PANIC)) {
            let what = format!("{name}: {line}");
            anomalies.push(Anomaly { name: "panic".to_owned(), what, events: Vec::new() });
        }
    }
    let summary = match anomalies.len() {
        0 => format!("No process panicked, ended by itself or did not come back; {logs} logs were read."),
        count => format!("{count} times a process panicked, ended by itself, or did not do what it must."),
    };
    let checked = Checked::new("processes", &[], summary, anomalies);
    checked.figure("logs", Value::from(logs)).figure("log_lines", Value::from(lines))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::history::{Kind, Recorder};
    use crate::verdict::Verdict;

    #[test]
    fn panics_and_violations_are_anomalies() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder::default();
        std::fs::write(folder.path().join("node-1.log"), "INFO all is well\n").unwrap();
        std::fs::write(folder.path().join("history.jsonl"), "panicked at\n").unwrap();
        let checked = check(&recorder.history(), folder.path());
        assert_eq!((checked.verdict, &checked.figures["logs"]), (Verdict::Valid, &json!(1)));
        recorder.fault(Kind::Info, VIOLATION, json!("node-2 did not come back"));
        std::fs::write(folder.path().join("node-1.log"), "thread 'main' panicked at src/main.rs:1:1:\nwhy\n").unwrap();
        let checked = check(&recorder.history(), folder.path());
        assert_eq!((checked.verdict, checked.anomalies.len()), (Verdict::Invalid, 2));
        assert!(checked.anomalies[0].what.contains("node-2") && checked.anomalies[1].what.contains("node-1.log"));
    }
}
