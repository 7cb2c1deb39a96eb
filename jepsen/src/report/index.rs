//! `index.html`: the verdict, why, and everything that helps to understand it.

use std::collections::BTreeMap;
use std::path::Path;

use super::bands::{Band, skipped};
use super::counts::{seconds, was_seen};
use super::latency::{took, unit};
use super::page::{badge, cut, escape, grouped, page, table, word};
use super::{rate, timeline};
use crate::history::{History, Kind};
use crate::nemesis;
use crate::run::Results;
use crate::verdict::Checked;

/// Most links into the timeline of one anomaly.
const LINKS_MAX: usize = 12;

/// Most faults in the list; the plots and the timeline show all.
const FAULTS_MAX: usize = 400;

/// The page, with both plots in it.
pub(super) fn html(folder: &Path, history: &History, bands: &[Band], results: &Results, plots: &[String]) -> String {
    let addresses = timeline::addresses(history);
    let mut body = head(results);
    body.push_str("<h2>Checkers</h2>\n");
    if results.checked.is_empty() {
        body.push_str("<p>None looked at this run, so nothing can be said.</p>\n");
    }
    results.checked.iter().for_each(|checked| body.push_str(&checker(checked, &addresses)));
    body.push_str("<h2>Over time</h2>\n");
    plots.iter().for_each(|plot| body.push_str(plot));
    body.push_str("<p><a href=\"timeline.html\">The timeline</a> shows who did what when.</p>\n");
    body.push_str(&figures(history, bands, results));
    body.push_str(&faults(history, bands));
    body.push_str(&files(folder));
    page(&format!("{}: {}", title(results), word(results.verdict)), &body)
}

/// What was run, in a few words.
pub(super) fn title(results: &Results) -> String {
    format!("{}, faults: {}", results.workload, nemesis::told(&results.nemesis))
}

fn head(results: &Results) -> String {
    let about = &results.about;
    let all = results.counts.all();
    let mut facts = vec![
        format!("{} s of faults, {:.0} s in all", results.time_s, results.counts.seconds),
        format!("{} operations, {} of them with an unknown outcome", grouped(all.asked()), grouped(all.info)),
        format!("seed {}", results.seed),
    ];
    let known = [("begun", &about.began), ("", &about.program), ("revision", &about.revision)];
    facts.extend(known.iter().filter(|(_, what)| !what.is_empty()).map(|(name, what)| format!("{name} {what}")));
    let facts: Vec<String> = facts.iter().map(|fact| escape(fact.trim())).collect();
    let command = if about.command.is_empty() {
        String::new()
    } else {
        format!("<p>The same again:</p>\n<pre>{}</pre>\n", escape(&about.command))
    };
    let (title, badge) = (escape(&title(results)), badge(results.verdict));
    format!("<h1>{title} {badge}</h1>\n<p class=\"soft\">{}</p>\n{command}", facts.join(" · "))
}

fn checker(checked: &Checked, addresses: &BTreeMap<usize, usize>) -> String {
    let figures: Vec<String> = checked
        .figures
        .iter()
        .map(|(name, value)| format!("{} <b>{}</b>", escape(name), escape(&value.to_string())))
        .collect();
    let mut html = format!(
        "<h3>{} {} <span class=\"soft\">{}</span></h3>\n<p>{}</p>\n<p class=\"soft\">{}</p>\n",
        badge(checked.verdict),
        escape(&checked.checker),
        escape(&checked.invariants.join(", ")),
        escape(&checked.summary),
        figures.join(" · ")
    );
    if !checked.anomalies.is_empty() {
        html.push_str("<ul>\n");
        for anomaly in &checked.anomalies {
            let links: Vec<String> =
                anomaly.events.iter().take(LINKS_MAX).map(|event| link(*event, addresses)).collect();
            let more = if anomaly.events.len() > LINKS_MAX { " …" } else { "" };
            let (name, what) = (escape(&anomaly.name), escape(&anomaly.what));
            html.push_str(&format!(
                "<li><b>{name}</b>: {what} <span class=\"soft\">[{}{more}]</span></li>\n",
                links.join(" ")
            ));
        }
        html.push_str("</ul>\n");
    }
    html
}

fn link(event: usize, addresses: &BTreeMap<usize, usize>) -> String {
    match addresses.get(&event) {
        Some(address) => format!("<a href=\"timeline.html#e{address}\">{event}</a>"),
        None => event.to_string(),
    }
}

fn figures(history: &History, bands: &[Band], results: &Results) -> String {
    let mut took_by: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for operation in history.operations().iter().filter(|o| o.kind() == Kind::Ok && !was_seen(o)) {
        took_by.entry(operation.f()).or_default().extend(took(operation));
    }
    took_by.values_mut().for_each(|took| took.sort_unstable_by(f64::total_cmp));
    let of = |f: &str, thousandth: usize| {
        let sorted = took_by.get(f).map(Vec::as_slice).unwrap_or_default();
        let nth = (sorted.len() * thousandth / 1_000).min(sorted.len().saturating_sub(1));
        sorted.get(nth).map_or_else(|| "-".to_owned(), |took| unit(*took))
    };
    let rows: Vec<Vec<String>> = results
        .counts
        .operations
        .iter()
        .map(|(f, ended)| {
            let mut row = vec![escape(f)];
            row.extend([ended.ok, ended.fail, ended.info, ended.seen].map(grouped));
            row.extend([500, 990, 1_000].map(|thousandth| of(f, thousandth)));
            row
        })
        .collect();
    let heads = ["operation", "ok", "did not happen", "not known", "seen", "median", "p99", "longest"];
    let parts: Vec<Vec<String>> = rate::parts(history, bands)
        .iter()
        .map(|part| vec![part.name.to_owned(), format!("{:.1} s", part.seconds), format!("{:.1}", part.ok_per_second)])
        .collect();
    let throughput = table(&["when", "how long", "ok each second"], &parts);
    format!("<h2>Figures</h2>\n{}{throughput}", table(&heads, &rows))
}

fn faults(history: &History, bands: &[Band]) -> String {
    let mut rows: Vec<(usize, Vec<String>)> = Vec::new();
    let time = |event: usize, time: u64| format!("<a href=\"timeline.html#e{event}\">{:.1} s</a>", seconds(time));
    for band in bands {
        let swatch =
            format!("<span class=\"swatch\" style=\"background:{}\"></span>{}", band.colour, escape(&band.fault));
        let long = format!("{:.1} s", seconds(band.end.saturating_sub(band.begin)));
        let what = escape(&cut(&band.what.to_string(), 200));
        rows.push((band.event, vec![time(band.event, band.begin), swatch, long, what]));
    }
    for (event, at, fault, why) in skipped(history) {
        let why = escape(&format!("left out: {}", why.as_str().map_or_else(|| why.to_string(), str::to_owned)));
        rows.push((event, vec![time(event, at), escape(&fault), "-".to_owned(), why]));
    }
    rows.sort_by_key(|(event, _)| *event);
    let more = rows.len().saturating_sub(FAULTS_MAX);
    let rows: Vec<Vec<String>> = rows.into_iter().take(FAULTS_MAX).map(|(_, row)| row).collect();
    let list =
        if rows.is_empty() { "<p>None.</p>\n".to_owned() } else { table(&["at", "fault", "for", "what"], &rows) };
    let more = if more > 0 {
        format!("<p class=\"soft\">And {more} more; the timeline has them all.</p>\n")
    } else {
        String::new()
    };
    format!("<h2>Faults</h2>\n{list}{more}")
}

fn files(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| {
            let slash = if entry.path().is_dir() { "/" } else { "" };
            format!("{}{slash}", entry.file_name().to_string_lossy())
        })
        .filter(|name| !name.ends_with(".html"))
        .collect();
    names.sort_unstable();
    let links: Vec<String> = names.iter().map(|name| format!("<a href=\"{0}\">{0}</a>", escape(name))).collect();
    format!("<h2>Files</h2>\n<p>{}</p>\n", links.join(" · "))
}
