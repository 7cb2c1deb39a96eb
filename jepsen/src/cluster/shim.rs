//! Disks that fail and wall clocks that jump on command: a library that is preloaded into each process. What it can be told
//! stands in its source, `tests/cluster/faults/shim.rs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::{HarnessError, command};

const SOURCE: &str = include_str!("../../../tests/cluster/faults/shim.rs");

/// What is between one process and the C library. Clones command the same.
#[derive(Debug, Clone)]
pub struct Shim {
    library: PathBuf,
    rules: PathBuf,
    below: PathBuf,
    /// What it was told, by the family of the fault.
    told: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

/// Compiles the library into a folder.
pub(super) fn compile(folder: &Path) -> Result<PathBuf, HarnessError> {
    let (source, library) = (folder.join("shim.rs"), folder.join("shim.so"));
    std::fs::write(&source, SOURCE).map_err(|error| HarnessError(format!("{}: {error}", source.display())))?;
    let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let (from, to) = (source.display().to_string(), library.display().to_string());
    command::done(&compiler, &["--edition", "2024", "--crate-type", "cdylib", "-C", "opt-level=1", "-o", &to, &from])?;
    Ok(library)
}

impl Shim {
    /// For a process whose files are below `below`, commanded by a file in `folder`.
    pub(super) fn new(library: &Path, folder: &Path, name: &str, below: &Path) -> Self {
        let rules = folder.join(format!("{name}.rules"));
        Self { library: library.to_owned(), rules, below: below.to_owned(), told: Arc::default() }
    }

    /// What the process must find in its environment.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        vec![
            ("LD_PRELOAD".to_owned(), text(&self.library)),
            ("FAULTS_FILE".to_owned(), text(&self.rules)),
            ("FAULTS_BELOW".to_owned(), text(&self.below)),
        ]
    }

    /// From now on it does for this family of faults what these lines say, and nothing else; nothing if they are empty.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn obey(&self, family: &'static str, rules: &str) -> Result<(), HarnessError> {
        let failed = |error: std::io::Error| HarnessError(format!("{}: {error}", self.rules.display()));
        let mut told = self.told.lock().expect("nobody panics while telling");
        told.insert(family, rules.to_owned());
        let all: Vec<&str> = told.values().map(String::as_str).collect();
        // Replaced as a whole, so that no half of it is read.
        let new = self.rules.with_extension("new");
        std::fs::write(&new, all.join("\n")).map_err(failed)?;
        std::fs::rename(&new, &self.rules).map_err(failed)
    }
}
