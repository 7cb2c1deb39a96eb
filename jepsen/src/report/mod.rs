//! The folder of a run: what was noted, what it shows, and pages that let people see it. The history is the source; everything
//! else is made from it, again whenever it is judged again.
//!
//! `history.jsonl`, `history.edn` (for Knossos) and `results.json` are for programs, `index.html`, `timeline.html`, `latency.svg` and `rate.svg` for people;
//! beside them is a log of every process. All text that comes from a run is escaped in one place (`page`), and no page needs a
//! script or a network.

mod about;
mod bands;
mod counts;
mod index;
mod latency;
mod layout;
mod page;
mod plot;
mod rate;
pub mod runs;
mod timeline;

#[cfg(test)]
mod tests;

use std::path::Path;

use crate::check::edn;
use crate::cluster::HarnessError;
use crate::history::History;
use crate::run::Results;
pub use about::About;
pub use counts::{Counts, Ended};

const HISTORY: &str = "history.jsonl";
const EDN: &str = "history.edn";
const RESULTS: &str = "results.json";
const INDEX: &str = "index.html";

fn failed(folder: &Path, file: &str) -> impl Fn(std::io::Error) -> HarnessError {
    let path = folder.join(file);
    move |error| HarnessError(format!("{}: {error}", path.display()))
}

/// Writes the history alone: it is what must not be lost.
///
/// # Errors
/// When the folder can't be written.
pub fn keep(folder: &Path, history: &History) -> Result<(), HarnessError> {
    history.write(&folder.join(HISTORY)).map_err(failed(folder, HISTORY))
}

/// What [`keep`] wrote.
///
/// # Errors
/// When there is no history, or none that can be read.
pub fn kept(folder: &Path) -> Result<History, HarnessError> {
    History::read(&folder.join(HISTORY)).map_err(failed(folder, HISTORY))
}

/// What [`write()`] wrote.
///
/// # Errors
/// When there are no results, or none that can be read.
pub fn results(folder: &Path) -> Result<Results, HarnessError> {
    let text = std::fs::read(folder.join(RESULTS)).map_err(failed(folder, RESULTS))?;
    serde_json::from_slice(&text).map_err(|error| failed(folder, RESULTS)(error.into()))
}

/// Writes everything that is derived from the history.
///
/// # Errors
/// When the folder can't be written.
pub fn write(folder: &Path, history: &History, results: &Results) -> Result<(), HarnessError> {
    let put = |file: &str, text: &[u8]| std::fs::write(folder.join(file), text).map_err(failed(folder, file));
    put(RESULTS, &serde_json::to_vec_pretty(results).expect("results are plain data"))?;
    let bands = bands::bands(history);
    let plots = [latency::svg(history, &bands), rate::svg(history, &bands)];
    put("latency.svg", plots[0].as_bytes())?;
    put("rate.svg", plots[1].as_bytes())?;
    put("timeline.html", timeline::html(history, &bands, &results.checked).as_bytes())?;
    put(EDN, edn::text(history).as_bytes())?;
    put(INDEX, index::html(folder, history, &bands, results, &plots).as_bytes())
}
