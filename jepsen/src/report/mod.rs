//! The folder of a run: `history.jsonl` and the same for Knossos, `history.edn`, `results.json`, and a log of every process.

use std::path::Path;

use crate::check::edn;
use crate::cluster::HarnessError;
use crate::history::History;
use crate::run::Results;

const HISTORY: &str = "history.jsonl";
const EDN: &str = "history.edn";
const RESULTS: &str = "results.json";

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

/// What [`write`] wrote.
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
    std::fs::write(folder.join(EDN), edn::text(history)).map_err(failed(folder, EDN))?;
    let text = serde_json::to_vec_pretty(results).expect("results are plain data");
    std::fs::write(folder.join(RESULTS), text).map_err(failed(folder, RESULTS))
}
