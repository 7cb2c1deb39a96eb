//! A patch and its head: lines `Breaks:`, `Invariants:`, and one or more `Caught-by:`, before the difference itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::HarnessError;

/// One mutant.
#[derive(Debug, Clone)]
pub struct Patch {
    /// Name of its file, without the ending.
    pub name: String,
    /// What it does to the program, in one sentence.
    pub breaks: String,
    /// Which promises that is.
    pub invariants: String,
    /// Command lines, `cargo test …` or `jepsen …`; each of them has to notice.
    pub caught_by: Vec<String>,
    file: PathBuf,
}

/// All of them, by name.
///
/// # Errors
/// When one can't be read, or its head lacks something.
pub fn patches(root: &Path) -> Result<Vec<Patch>, HarnessError> {
    let folder = root.join("jepsen/mutants");
    let failed = |error: std::io::Error| HarnessError(format!("{}: {error}", folder.display()));
    let entries = std::fs::read_dir(&folder).map_err(failed)?;
    let files = entries.collect::<Result<Vec<_>, _>>().map_err(failed)?.into_iter().map(|entry| entry.path());
    let files = files.filter(|file| file.extension().is_some_and(|ending| ending == "patch"));
    let mut patches = files.map(|file| Patch::read(&file)).collect::<Result<Vec<_>, _>>()?;
    patches.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(patches)
}

impl Patch {
    fn read(file: &Path) -> Result<Self, HarnessError> {
        let failed = |why: String| HarnessError(format!("{}: {why}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|error| failed(error.to_string()))?;
        let head: Vec<&str> = text.lines().take_while(|line| !line.starts_with("--- ")).collect();
        let of = |name: &str| -> Result<Vec<String>, HarnessError> {
            let lines = head.iter().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            let found: Vec<String> = lines.map(|line| line.trim().to_owned()).collect();
            if found.is_empty() { Err(failed(format!("its head has no line {name}:"))) } else { Ok(found) }
        };
        Ok(Self {
            name: file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            breaks: of("Breaks")?.join(" "),
            invariants: of("Invariants")?.join(" "),
            caught_by: of("Caught-by")?,
            file: file.to_owned(),
        })
    }

    /// Looks whether it applies to a tree, and changes nothing.
    ///
    /// # Errors
    /// When it does not.
    pub fn check(&self, tree: &Path) -> Result<(), HarnessError> {
        self.git(tree, &["apply", "--check"])
    }

    /// Changes a tree.
    ///
    /// # Errors
    /// When it does not apply.
    pub fn apply(&self, tree: &Path) -> Result<(), HarnessError> {
        self.git(tree, &["apply"])
    }

    fn git(&self, tree: &Path, arguments: &[&str]) -> Result<(), HarnessError> {
        let mut git = Command::new("git");
        git.args(arguments).arg(&self.file).current_dir(tree);
        // A tree inside of a repository would be taken for a part of it, and then nothing of the patch for meant.
        git.env("GIT_CEILING_DIRECTORIES", tree.parent().unwrap_or(tree));
        let done = git.output().map_err(|error| HarnessError(format!("git: {error}")))?;
        let said = String::from_utf8_lossy(&done.stderr);
        if done.status.success() {
            Ok(())
        } else {
            Err(HarnessError(format!("{} does not apply: {}", self.name, said.trim())))
        }
    }
}
