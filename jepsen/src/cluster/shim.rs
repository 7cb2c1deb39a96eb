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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_obeys_the_rules_of_every_family_and_forgets_them() {
        let folder = tempfile::tempdir().unwrap();
        let library = compile(folder.path()).unwrap();
        let shim = Shim::new(&library, folder.path(), "node-1", folder.path());
        let seconds = || -> i64 {
            let output = Command::new("date").arg("+%s").envs(shim.environment()).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
        };
        let copies = |to: &str| {
            let to = folder.path().join(to);
            let mut copy = Command::new("dd");
            copy.arg(format!("if={}", library.display())).arg(format!("of={}", to.display()));
            copy.args(["count=1", "status=none"]).envs(shim.environment()).status().unwrap().success()
        };
        let now = seconds();
        shim.obey("clock", "clock 86400").unwrap();
        shim.obey("disk", "write eio").unwrap();
        assert!(seconds() >= now + 86_400 && !copies("one"), "both families are obeyed");
        shim.obey("disk", "").unwrap();
        assert!(seconds() >= now + 86_400 && copies("two"));
        shim.obey("clock", "").unwrap();
        assert!((now..now + 3_600).contains(&seconds()));
    }
}
