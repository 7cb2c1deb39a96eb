//! Many runs: as a table for a document, and as the page that leads to each of them.

use std::path::{Path, PathBuf};

use super::page::{badge, escape, grouped, page, table, word};
use super::{failed, index, results};
use crate::cluster::HarnessError;
use crate::nemesis;
use crate::run::Results;

/// Runs in these folders, or in folders right below them, in the order in which they began.
///
/// # Errors
/// When a folder can't be read, or has results that can't.
pub fn found(folders: &[PathBuf]) -> Result<Vec<(PathBuf, Results)>, HarnessError> {
    let mut runs = Vec::new();
    for folder in folders {
        let here = std::fs::read_dir(folder).map_err(failed(folder, ""))?.flatten().map(|entry| entry.path());
        let run = |folder: &PathBuf| folder.join(super::RESULTS).exists();
        for place in std::iter::once(folder.clone()).chain(here).filter(run) {
            let told = results(&place)?;
            runs.push((place, told));
        }
    }
    runs.sort_by(|a, b| (&a.1.about.began, &a.0).cmp(&(&b.1.about.began, &b.0)));
    Ok(runs)
}

/// The table "what was run", as Markdown, and what it comes to.
pub fn markdown(runs: &[(PathBuf, Results)]) -> String {
    let mut text = String::from(
        "| date | workload | nemesis | faults | minutes | operations | not known | verdict | seed |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for (_, results) in runs {
        text.push_str(&format!("| {} |\n", cells(results).join(" | ")));
    }
    let minutes: f64 = runs.iter().map(|(_, results)| results.counts.seconds / 60.0).sum();
    let asked = runs.iter().map(|(_, results)| results.counts.all().asked()).sum();
    let faults = runs.iter().flat_map(|(_, results)| results.counts.faults.values()).sum();
    let (asked, faults) = (grouped(asked), grouped(faults));
    text.push_str(&format!("\n{} runs, {minutes:.0} minutes, {asked} operations, {faults} faults.\n", runs.len()));
    text
}

fn cells(results: &Results) -> [String; 9] {
    let all = results.counts.all();
    [
        results.about.began.split('T').next().unwrap_or_default().to_owned(),
        results.workload.clone(),
        nemesis::told(&results.nemesis),
        grouped(results.counts.faults.values().sum()),
        format!("{:.1}", results.counts.seconds / 60.0),
        grouped(all.asked()),
        grouped(all.info),
        word(results.verdict).to_owned(),
        results.seed.to_string(),
    ]
}

/// Writes `index.html` of a folder of runs, the newest first.
///
/// # Errors
/// When the folder can't be read or written.
pub fn write_index(store: &Path) -> Result<(), HarnessError> {
    let runs = found(&[store.to_owned()])?;
    let rows: Vec<Vec<String>> = runs
        .iter()
        .rev()
        .map(|(folder, results)| {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            let title = escape(&index::title(results));
            let mut row = vec![badge(results.verdict), format!("<a href=\"{}/index.html\">{title}</a>", escape(&name))];
            let [_, _, _, faults, minutes, asked, unknown, _, seed] = cells(results).map(|cell| escape(&cell));
            row.extend([escape(&results.about.began), minutes, faults, asked, unknown, seed]);
            row
        })
        .collect();
    let heads = ["verdict", "run", "begun", "minutes", "faults", "operations", "not known", "seed"];
    let body = format!("<h1>Runs</h1>\n{}", table(&heads, &rows));
    std::fs::write(store.join(super::INDEX), page("Runs", &body)).map_err(failed(store, super::INDEX))
}
