//! A history in the form that Knossos reads, so that somebody else's checker can judge it: `history.edn`.
//!
//! One map a line, in a vector: `{:process 7, :type :invoke, :f :register, :value […], :key "user-3", :time 12, :index 4}`. Values of
//! registrations and lookups are short vectors (below); all others are as in `history.jsonl`. The end of a session is noted nowhere, so
//! for each user whom it concerns an operation `:session-end` is put in where it may have happened.
//!
//! | `:f` | value when it is invoked | and when it is answered |
//! |---|---|---|
//! | `:register` | `[id policy max nil nil]` | `[id policy max granted [superseded …]]`, or `:limit` for granted |
//! | `:unregister` | `[id policy nil]` | `[id policy existed]` |
//! | `:lookup` | `nil` | `[[id granted] …]` |
//! | `:session-end` | `epoch` | `epoch` |
//!
//! `jepsen/knossos/lease_register.clj` is the model that goes with it.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use super::user::{What, users};
use crate::history::{Event, History, Kind, Process};

/// Processes from here on are those that end sessions.
const SESSIONS: usize = 1_000_000;

/// The whole history.
pub fn text(history: &History) -> String {
    let mut put_in = ends(history);
    let asked = asked(history);
    let mut text = String::from("[");
    for event in &history.events {
        let value = value(event, asked[event.index]);
        text.push_str(&line(event, &value));
        for line in put_in.remove(&event.index).unwrap_or_default() {
            text.push_str(&line);
        }
    }
    text.push_str("]\n");
    text
}

/// For each event the one that began its operation.
fn asked(history: &History) -> Vec<&Event> {
    let mut open: BTreeMap<Process, &Event> = BTreeMap::new();
    let each = history.events.iter().map(|event| {
        if event.kind == Kind::Invoke {
            open.insert(event.process, event);
        }
        open.get(&event.process).copied().unwrap_or(event)
    });
    each.collect()
}

/// The lines about ends of sessions, by the event after which each comes.
fn ends(history: &History) -> BTreeMap<usize, Vec<String>> {
    let mut lines: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let mut process = SESSIONS;
    for (user, known) in users(history) {
        for step in &known.steps {
            let What::End { epoch } = step.what else { continue };
            process += 1;
            let mut put = |at: usize, kind: &str| {
                let time = history.events.get(at).map_or(0, |event| event.time);
                let key = string(&user);
                lines.entry(at).or_default().push(format!(
                    "{{:process {process}, :type :{kind}, :f :session-end, :value {epoch}, :key {key}, :time {time}}}\n"
                ));
            };
            put(step.began, "invoke");
            if let Some(ended) = step.ended {
                put(ended, "ok");
            }
        }
    }
    lines
}

fn line(event: &Event, value: &str) -> String {
    let Event { index, time, process, kind, f, key, error, .. } = event;
    let process = match process {
        Process::Client(number) => number.to_string(),
        Process::Nemesis(_) => ":nemesis".to_owned(),
    };
    let kind = match kind {
        Kind::Invoke => "invoke",
        Kind::Ok => "ok",
        Kind::Fail => "fail",
        Kind::Info => "info",
    };
    let mut line = format!("{{:process {process}, :type :{kind}, :f :{f}, :value {value}");
    let key = key.as_deref().map_or_else(|| "nil".to_owned(), string);
    let _ = write!(line, ", :key {key}, :time {time}, :index {index}");
    if let Some(error) = error {
        let _ = write!(line, ", :error {}", string(error));
    }
    line.push_str("}\n");
    line
}

/// The value of an event, whose operation began with `asked`.
fn value(event: &Event, asked: &Event) -> String {
    let (of, answer) = (&asked.value, if event.kind == Kind::Ok { &event.value } else { &Value::Null });
    match event.f.as_str() {
        "register" if !of["policy"].is_null() => {
            let granted = if answer["limit"] == true { ":limit".to_owned() } else { edn(&answer["granted"]) };
            let (id, policy, max) = (edn(&of["connection"]), edn(&of["policy"]), edn(&of["max"]));
            format!("[{id} {policy} {max} {granted} {}]", edn(&answer["superseded"]))
        }
        "unregister" => {
            format!("[{} {} {}]", edn(&of["connection"]), edn(&of["policy"]), edn(&answer["existed"]))
        }
        "lookup" => edn(&answer["connections"]),
        _ => edn(&event.value),
    }
}

/// JSON as EDN: names of fields become keywords where they can.
fn edn(value: &Value) -> String {
    match value {
        Value::Null => "nil".to_owned(),
        Value::String(text) => string(text),
        Value::Array(all) => format!("[{}]", all.iter().map(edn).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let is_word = |name: &str| {
                name.starts_with(|c: char| c.is_ascii_alphabetic())
                    && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
            };
            let name = |name: &str| if is_word(name) { format!(":{name}") } else { string(name) };
            let fields: Vec<String> =
                fields.iter().map(|(key, value)| format!("{} {}", name(key), edn(value))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        other => other.to_string(),
    }
}

/// A string; EDN knows fewer escapes than JSON, and takes every other character as it is.
fn string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::made_up::Story;

    #[test]
    fn registrations_have_the_values_that_the_model_reads() {
        let mut story = Story::default();
        let asked = json!({ "connection": "c-5-1", "policy": "multi", "max": 3 });
        story.ok("register", "alice", asked, json!({ "granted": 11, "superseded": [], "revision": 11 }));
        story.ok("lookup", "alice", json!(null), json!({ "connections": [["c-5-1", 11]], "revision": 11 }));
        let process = story.begin("unregister", "alice", json!({ "connection": "c-5-1", "policy": "multi" }));
        story.end(process, Kind::Info, json!(null), Some("no \"answer\""));
        let text = text(&story.history());
        let expected = [
            "[{:process 0, :type :invoke, :f :register, :value [\"c-5-1\" \"multi\" 3 nil nil], :key \"alice\", :time 0, :index 0}",
            "{:process 1000001, :type :invoke, :f :session-end, :value 5, :key \"alice\", :time 0}",
            "{:process 0, :type :ok, :f :register, :value [\"c-5-1\" \"multi\" 3 11 []], :key \"alice\", :time 1000000, :index 1}",
            "{:process 1, :type :invoke, :f :lookup, :value nil, :key \"alice\", :time 2000000, :index 2}",
            "{:process 1, :type :ok, :f :lookup, :value [[\"c-5-1\" 11]], :key \"alice\", :time 3000000, :index 3}",
            "{:process 2, :type :invoke, :f :unregister, :value [\"c-5-1\" \"multi\" nil], :key \"alice\", :time 4000000, :index 4}",
            "{:process 2, :type :info, :f :unregister, :value [\"c-5-1\" \"multi\" nil], :key \"alice\", :time 5000000, :index 5, \
             :error \"no \\\"answer\\\"\"}",
            "]",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn other_values_are_as_they_were() {
        let value = json!({ "a_b": [1, null, true], "with space": "line\nbreak\u{1}" });
        assert_eq!(edn(&value), "{:a_b [1 nil true], \"with space\" \"line\\nbreak\u{1}\"}");
    }
}
