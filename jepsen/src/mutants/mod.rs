//! Mutants: the product with one promise broken on purpose, to see that the tests notice.
//!
//! Each is a patch in `jepsen/mutants` whose head says what it breaks and what must notice it. It is applied to a copy of the
//! tree, built there, and all that must notice it is run; the same runs pass first on the copy as it is, or they would show
//! nothing. One that survives a run is a hole in the tests.

mod patch;
mod trial;

use std::path::Path;

use crate::cluster::HarnessError;
pub use patch::{Patch, patches};
pub use trial::Trial;

/// What became of a mutant, or of the program without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Every run noticed it: what they said.
    Caught(String),
    /// These runs noticed nothing.
    Survived(String),
    /// Neither: what went wrong.
    Unclear(String),
}

/// The folder of the workspace: where this was built.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is in a folder of the workspace")
}

/// Lists the mutants.
///
/// # Errors
/// When a patch can't be read.
pub fn list() -> Result<(), HarnessError> {
    for patch in patches(root())? {
        println!("{}: {} ({})", patch.name, patch.breaks, patch.invariants);
        patch.caught_by.iter().for_each(|run| println!("    {run}"));
    }
    Ok(())
}

/// Tries every mutant, or one, and prints the table. Whether all of them were caught.
///
/// # Errors
/// When there is none of this name, or the copy can't be made.
pub async fn run(only: &[String]) -> Result<bool, HarnessError> {
    let known = patches(root())?;
    if let Some(name) = only.iter().find(|name| known.iter().all(|patch| patch.name != **name)) {
        let names: Vec<&str> = known.iter().map(|patch| patch.name.as_str()).collect();
        return Err(HarnessError(format!("no mutant is called {name}; there are: {}", names.join(", "))));
    }
    let chosen: Vec<Patch> = known.into_iter().filter(|patch| only.is_empty() || only.contains(&patch.name)).collect();
    let trial = Trial::new(root())?;
    let mut runs: Vec<&String> = chosen.iter().flat_map(|patch| &patch.caught_by).collect();
    runs.sort_unstable();
    runs.dedup();
    let baseline = trial.baseline(&runs).await?;
    println!("| mutant | what it breaks | invariants | what became of it |\n|---|---|---|---|");
    println!("| baseline | nothing: all {} runs must pass | - | {} |", runs.len(), baseline_told(&baseline));
    let mut all = matches!(baseline, Fate::Survived(_));
    for patch in &chosen {
        let fate = trial.of(patch).await?;
        all &= matches!(fate, Fate::Caught(_));
        println!("| {} | {} | {} | {} |", patch.name, patch.breaks, patch.invariants, told(&fate));
    }
    Ok(all)
}

fn told(fate: &Fate) -> String {
    match fate {
        Fate::Caught(by) => format!("caught by {by}"),
        Fate::Survived(runs) => format!("SURVIVED: {runs}"),
        Fate::Unclear(why) => format!("UNCLEAR: {why}"),
    }
}

fn baseline_told(fate: &Fate) -> String {
    match fate {
        Fate::Caught(by) => format!("FAILED: {by}"),
        Fate::Survived(_) => "passed".to_owned(),
        Fate::Unclear(why) => format!("UNCLEAR: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_applies_and_is_documented() {
        let readme = std::fs::read_to_string(root().join("jepsen/README.md")).unwrap();
        let known = patches(root()).unwrap();
        assert!(known.len() >= 12, "{}", known.len());
        for patch in &known {
            patch.check(root()).unwrap();
            assert!(
                readme.contains(&format!("| {} |", patch.name)),
                "jepsen/README.md does not tell of {}",
                patch.name
            );
        }
        let rows = readme.lines().skip_while(|line| !line.starts_with("| mutant |")).skip(3);
        for row in rows.take_while(|line| line.starts_with("| ")) {
            let name = row.trim_start_matches("| ").split(" |").next().unwrap();
            assert!(
                known.iter().any(|patch| patch.name == name),
                "jepsen/README.md tells of {name}, which is not there"
            );
        }
    }

    #[test]
    fn a_patch_that_does_not_fit_is_told() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("jepsen/mutants")).unwrap();
        std::fs::write(folder.path().join("file"), "one\ntwo\n").unwrap();
        let write = |text: &str| std::fs::write(folder.path().join("jepsen/mutants/m.patch"), text).unwrap();
        let head = "Breaks: x\nInvariants: I1\nCaught-by: cargo test x\n";
        write(&format!("{head}\n--- a/file\n+++ b/file\n@@ -1,2 +1,2 @@\n one\n-two\n+three\n"));
        patches(folder.path()).unwrap()[0].check(folder.path()).unwrap();
        write(&format!("{head}\n--- a/file\n+++ b/file\n@@ -1,2 +1,2 @@\n one\n-four\n+three\n"));
        let refused = patches(folder.path()).unwrap()[0].check(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("m does not apply"), "{refused}");
        write("Breaks: x\n");
        let refused = patches(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("Invariants"), "{refused}");
    }
}
