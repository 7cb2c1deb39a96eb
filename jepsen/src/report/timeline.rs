//! `timeline.html`: who did what when, one column a process, faults behind. It needs no script: hovering shows an event whole, and
//! anomalies link to theirs by address.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::bands::Band;
use super::counts::{seconds, was_seen};
use super::latency::{class, took, unit};
use super::layout::{Layout, Placed, layout};
use super::page::{cut, escape, grouped, page};
use super::plot::told;
use crate::history::{Event, History, Process};
use crate::verdict::Checked;

/// Where columns begin, and how far they are apart, pixels.
const LEFT: usize = 220;
const APART: usize = 148;

/// Longest value that is shown, characters.
const VALUE_MAX: usize = 300;

/// Names of anomalies by the index of the event that shows them.
type Wrong<'a> = BTreeMap<usize, BTreeSet<&'a str>>;

/// The page.
pub(super) fn html(history: &History, bands: &[Band], checked: &[Checked]) -> String {
    let wrong = wrong(checked);
    let faults = history.events.iter().filter(|event| matches!(event.process, Process::Nemesis(_)));
    // What is wrong is looked at first; where nothing is, what broke.
    let centres = if wrong.is_empty() { faults.map(|e| e.index).collect() } else { wrong.keys().copied().collect() };
    let shown = layout(history, &centres);
    let mut body = head(history, &shown);
    let mut put = |text: std::fmt::Arguments<'_>| body.write_fmt(text).expect("writing to a string can't fail");
    let width = LEFT + APART * shown.columns.len();
    put(format_args!(
        "<div class=\"columns\" style=\"width:{width}px\"><b style=\"left:0\">time</b><b style=\"left:76px\">nemesis</b>"
    ));
    for (nth, processes) in shown.columns.iter().enumerate() {
        let names: Vec<String> = processes.iter().map(|process| name(*process)).collect();
        let names = escape(&names.join(" · "));
        put(format_args!("<b style=\"left:{}px\" title=\"{names}\">{names}</b>", LEFT + nth * APART));
    }
    put(format_args!("</div>\n<div class=\"line\" style=\"width:{width}px;height:{}px\">\n", shown.height));
    for band in bands {
        let (top, bottom) = (shown.y(band.begin), shown.y(band.end));
        let style = format!("top:{top}px;height:{}px;background:{}", (bottom - top).max(2), band.colour);
        put(format_args!("<i class=\"band\" style=\"{style}\" title=\"{}\"></i>\n", escape(&told(band))));
    }
    for (time, y) in &shown.times {
        put(format_args!("<i class=\"t\" style=\"top:{y}px\">{:.3} s</i>\n", seconds(*time)));
    }
    for (hidden, y) in &shown.gaps {
        let hidden = grouped(u64::try_from(*hidden).unwrap_or(u64::MAX));
        put(format_args!("<i class=\"gap\" style=\"top:{y}px\">{hidden} operations are not shown here</i>\n"));
    }
    for (fault, y) in &shown.faults {
        let (event, what) = (fault.invoked.index, escape(&event_told(fault.ended.unwrap_or(fault.invoked))));
        put(format_args!(
            "<b class=\"n\" id=\"e{event}\" style=\"top:{y}px\" title=\"{what}\">{}</b>\n",
            escape(fault.f())
        ));
    }
    shown.placed.iter().for_each(|placed| put(format_args!("{}", operation(placed, &wrong))));
    body.push_str("</div>\n");
    page("Timeline", &format!("<style>body{{max-width:none}}</style>\n{body}"))
}

/// The address of an event on this page: that of the operation that it belongs to.
pub(super) fn addresses(history: &History) -> BTreeMap<usize, usize> {
    let operations = history.operations().into_iter().chain(history.faults());
    let ends = operations
        .flat_map(|o| [Some((o.invoked.index, o.invoked.index)), o.ended.map(|e| (e.index, o.invoked.index))]);
    ends.flatten().collect()
}

fn wrong(checked: &[Checked]) -> Wrong<'_> {
    let mut wrong = Wrong::new();
    for anomaly in checked.iter().flat_map(|checked| &checked.anomalies) {
        for event in &anomaly.events {
            wrong.entry(*event).or_default().insert(anomaly.name.as_str());
        }
    }
    wrong
}

fn head(history: &History, shown: &Layout<'_>) -> String {
    let all = history.operations().len();
    let left_out = all - shown.placed.len();
    let what = if left_out == 0 { "All" } else { "The closest to anomalies, or to faults where there are none:" };
    let count = |number: usize| grouped(u64::try_from(number).unwrap_or(u64::MAX));
    format!(
        "<h1>Timeline</h1>\n<p class=\"soft\"><a href=\"index.html\">Back to the report.</a> {what} {} of {} operations. A pixel is a \
         millisecond, but empty time is cut short and crowded time is stretched. Hover to see an event whole; a red frame marks \
         what an anomaly names. A column goes on under a new number after an outcome that nobody knows.</p>\n",
        count(shown.placed.len()),
        count(all)
    )
}

fn operation(placed: &Placed<'_>, wrong: &Wrong<'_>) -> String {
    let Placed { operation, column, top, bottom } = placed;
    let ended = operation.ended.map_or(usize::MAX, |ended| ended.index);
    let names: BTreeSet<&str> =
        [operation.invoked.index, ended].iter().filter_map(|event| wrong.get(event)).flatten().copied().collect();
    let class = if was_seen(operation) { "seen" } else { class(operation.kind()) };
    let bad = if names.is_empty() { "" } else { " bad" };
    let value = operation.ended.map_or(&operation.invoked.value, |ended| &ended.value);
    let shown = if value.is_null() { String::new() } else { format!(" {}", cut(&value.to_string(), 24)) };
    let mut title = event_told(operation.invoked);
    match operation.ended {
        Some(ended) => title.push_str(&format!("\n{}", event_told(ended))),
        None => title.push_str("\nit had not ended when the history did"),
    }
    if let Some(took) = took(operation) {
        title.push_str(&format!("\ntook {}", unit(took)));
    }
    names.iter().for_each(|name| title.push_str(&format!("\nANOMALY: {name}")));
    format!(
        "<a class=\"o {class}{bad}\" id=\"e{}\" style=\"left:{}px;top:{top}px;height:{}px\" title=\"{}\">{}</a>\n",
        operation.invoked.index,
        LEFT + column * APART,
        bottom - top,
        escape(&title),
        escape(&format!("{} {}{shown}", operation.f(), operation.key()))
    )
}

fn name(process: Process) -> String {
    match process {
        Process::Client(number) => number.to_string(),
        Process::Nemesis(_) => "nemesis".to_owned(),
    }
}

fn event_told(event: &Event) -> String {
    let key = event.key.as_deref().map(|key| format!(" {key}")).unwrap_or_default();
    let kind = serde_json::to_string(&event.kind).expect("a word");
    let value = cut(&event.value.to_string(), VALUE_MAX);
    let error = event.error.as_deref().map(|error| format!(" because: {error}")).unwrap_or_default();
    let (index, time, f) = (event.index, seconds(event.time), &event.f);
    format!("{index}: {time:.6} s, {} {} {f}{key} {value}{error}", name(event.process), kind.trim_matches('"'))
}
