//! A copy of the tree, what is built in it, and what is run in it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use super::{Fate, Patch};
use crate::cluster::HarnessError;

/// Longest time for a build; the first one builds everything.
const BUILD_WITHIN: Duration = Duration::from_secs(30 * 60);

/// Longest time for a run. Tests have deadlines of their own; this ends what broke these too.
const RUN_WITHIN: Duration = Duration::from_secs(10 * 60);

/// How long a run that is to end has for taking away what it made.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Most names of failed tests that are told.
const TOLD_MAX: usize = 3;

/// Not part of the copy: what is built, what is stored, and the repository.
const LEFT_OUT: [&str; 3] = ["target", ".git", "jepsen/store"];

/// Where mutants are built. The copy stays: what it has in common with the next one is not built again.
#[derive(Debug)]
pub struct Trial {
    root: PathBuf,
    tree: PathBuf,
    built: PathBuf,
    logs: PathBuf,
}

impl Trial {
    /// In `target/mutants` of this tree.
    ///
    /// # Errors
    /// When the folders can't be made.
    pub fn new(root: &Path) -> Result<Self, HarnessError> {
        let place = root.join("target/mutants");
        let trial = Self {
            root: root.to_owned(),
            tree: place.join("tree"),
            built: place.join("target"),
            logs: place.join("logs"),
        };
        for folder in [&trial.tree, &trial.logs] {
            std::fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
        }
        Ok(trial)
    }

    /// What becomes of the program as it is: all these runs have to pass.
    ///
    /// # Errors
    /// When the copy can't be made.
    pub async fn baseline(&self, runs: &[&String]) -> Result<Fate, HarnessError> {
        self.copy()?;
        for (nth, run) in runs.iter().enumerate() {
            match self.fate("baseline", run, nth).await? {
                Fate::Survived(_) => {}
                Fate::Caught(by) => return Ok(Fate::Caught(format!("{run}: {by}"))),
                Fate::Unclear(why) => return Ok(Fate::Unclear(format!("{run}: {why}"))),
            }
        }
        Ok(Fate::Survived("all runs".to_owned()))
    }

    /// What becomes of a mutant.
    ///
    /// # Errors
    /// When the copy can't be made.
    pub async fn of(&self, patch: &Patch) -> Result<Fate, HarnessError> {
        self.copy()?;
        if let Err(error) = patch.apply(&self.tree) {
            return Ok(Fate::Unclear(error.to_string()));
        }
        let (mut noticed, mut passed) = (Vec::new(), Vec::new());
        for (nth, run) in patch.caught_by.iter().enumerate() {
            match self.fate(&patch.name, run, nth).await? {
                Fate::Survived(run) => passed.push(run),
                Fate::Caught(by) => noticed.push(by),
                unclear @ Fate::Unclear(_) => return Ok(unclear),
            }
        }
        Ok(if passed.is_empty() { Fate::Caught(noticed.join(", ")) } else { Fate::Survived(passed.join(", ")) })
    }

    /// Makes the copy equal to the tree. Files that are equal are left as they are, so that they are not built again.
    fn copy(&self) -> Result<(), HarnessError> {
        let wanted = files(&self.root, &LEFT_OUT)?;
        for name in files(&self.tree, &[])?.iter().filter(|name| !wanted.contains(name)) {
            let file = self.tree.join(name);
            std::fs::remove_file(&file).map_err(|error| failed(&file, &error))?;
        }
        for name in &wanted {
            let (from, to) = (self.root.join(name), self.tree.join(name));
            let text = std::fs::read(&from).map_err(|error| failed(&from, &error))?;
            if std::fs::read(&to).is_ok_and(|there| there == text) {
                continue;
            }
            let folder = to.parent().expect("it is in the copy");
            let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&to, &text));
            written.map_err(|error| failed(&to, &error))?;
        }
        Ok(())
    }

    /// Builds what is run, runs it, and looks what it said.
    async fn fate(&self, name: &str, run: &str, nth: usize) -> Result<Fate, HarnessError> {
        eprintln!("{name}: {run}");
        let words: Vec<&str> = run.split_whitespace().collect();
        let store = self.logs.join(format!("{name}-{nth}"));
        let (build, arguments) = match words.as_slice() {
            ["cargo", "test", rest @ ..] => {
                let words = |extra: &[&str]| [&["test", "--locked"], extra, rest].concat().join(" ");
                (words(&["--no-run"]), words(&[]))
            }
            ["jepsen", rest @ ..] => {
                let mut run = ["run", "--locked", "--quiet", "-p", "jepsen", "--"].join(" ");
                run.push_str(&format!(" {}", rest.join(" ")));
                if rest.first() == Some(&"test") {
                    run.push_str(&format!(" --store {}", store.display()));
                }
                ("build --locked -p jepsen -p switchboard --bins".to_owned(), run)
            }
            _ => return Ok(Fate::Unclear(format!("neither a cargo test nor a jepsen run: {run}"))),
        };
        let log = self.logs.join(format!("{name}-{nth}.log"));
        match self.cargo(&build, &log, BUILD_WITHIN).await? {
            Some(status) if status.success() => {}
            _ => return Ok(Fate::Unclear(format!("it does not build; see {}", log.display()))),
        }
        let ended = self.cargo(&arguments, &log, RUN_WITHIN).await?;
        let said = std::fs::read_to_string(&log).map_err(|error| failed(&log, &error))?;
        let Some(status) = ended else {
            return Ok(Fate::Unclear(format!("no end within {RUN_WITHIN:?}; see {}", log.display())));
        };
        Ok(match words[0] {
            "cargo" => of_tests(run, status.success(), &said),
            _ => of_run(run, status.code(), &said),
        })
    }

    /// Runs cargo in the copy, in a group of its own that is ended with it; what it says goes to `log`. `None` when it took
    /// too long.
    async fn cargo(&self, arguments: &str, log: &Path, within: Duration) -> Result<Option<ExitStatus>, HarnessError> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let out = File::create(log).map_err(|error| failed(log, &error))?;
        let errors = out.try_clone().map_err(|error| failed(log, &error))?;
        let mut child = Command::new(&cargo)
            .args(arguments.split_whitespace())
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.built)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| HarnessError(format!("cargo: {error}")))?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let interrupted = tokio::select! {
            ended = child.wait() => return ended.map(Some).map_err(|error| HarnessError(format!("cargo: {error}"))),
            () = tokio::time::sleep(within) => false,
            _ = tokio::signal::ctrl_c() => true,
        };
        for signal in [Signal::TERM, Signal::KILL] {
            // It may be gone by now.
            let _ = group.map(|group| kill_process_group(group, signal));
            if tokio::time::timeout(END_WITHIN, child.wait()).await.is_ok() {
                break;
            }
        }
        if interrupted { Err(HarnessError("interrupted".to_owned())) } else { Ok(None) }
    }
}

fn failed(path: &Path, error: &io::Error) -> HarnessError {
    HarnessError(format!("{}: {error}", path.display()))
}

/// Every file below, by its path from there.
fn files(root: &Path, left_out: &[&str]) -> Result<Vec<PathBuf>, HarnessError> {
    let (mut found, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        let here = root.join(&folder);
        for entry in std::fs::read_dir(&here).map_err(|error| failed(&here, &error))? {
            let entry = entry.map_err(|error| failed(&here, &error))?;
            let name = folder.join(entry.file_name());
            if left_out.iter().any(|left_out| name == Path::new(left_out)) {
                continue;
            }
            match entry.file_type().map_err(|error| failed(&here, &error))? {
                kind if kind.is_dir() => folders.push(name),
                kind if kind.is_file() => found.push(name),
                _ => {}
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// What a `cargo test` shows. One that ran no test shows nothing.
fn of_tests(run: &str, passed: bool, said: &str) -> Fate {
    let count = |line: &str| line.strip_prefix("running ")?.split(' ').next()?.parse::<u64>().ok();
    if said.lines().filter_map(count).sum::<u64>() == 0 {
        return Fate::Unclear("it ran no test".to_owned());
    }
    if passed {
        return Fate::Survived(format!("`{run}`"));
    }
    let failed = said.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    let mut names: Vec<&str> = failed.map(|name| name.rsplit("::").next().unwrap_or(name)).collect();
    let more = names.len().saturating_sub(TOLD_MAX);
    names.truncate(TOLD_MAX);
    let mut told: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    if told.is_empty() {
        told.push("tests that ended at once".to_owned());
    }
    if more > 0 {
        told.push(format!("{more} more"));
    }
    Fate::Caught(told.join(", "))
}

/// What a run of ours shows: its exit code is its verdict.
fn of_run(run: &str, code: Option<i32>, said: &str) -> Fate {
    match code {
        Some(0) => Fate::Survived(format!("`{run}`")),
        Some(1) => {
            let checker = said.lines().find_map(|line| line.strip_prefix("Invalid  ")?.split_once(':'));
            let seen = said.lines().find_map(|line| line.split_once(": VIOLATION of ")?.1.split_once(':'));
            Fate::Caught(match (checker, seen) {
                (Some((checker, _)), _) => format!("the checker {checker}"),
                (None, Some((promise, _))) => format!("the simulation ({promise})"),
                (None, None) => "a run".to_owned(),
            })
        }
        Some(2) => Fate::Unclear("the verdict is unknown".to_owned()),
        _ => Fate::Unclear("the harness failed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tests_say_is_told_apart() {
        let failed = "running 0 tests\n\nrunning 2 tests\ntest a::b::one_of_them ... FAILED\ntest two ... ok\n";
        let tests = |passed, said| of_tests("cargo test x", passed, said);
        assert_eq!(tests(false, failed), Fate::Caught("`one_of_them`".to_owned()));
        assert_eq!(tests(true, "running 2 tests\n"), Fate::Survived("`cargo test x`".to_owned()));
        assert!(matches!(tests(true, "running 0 tests\n"), Fate::Unclear(_)), "a name that is gone shows nothing");
        assert!(matches!(tests(false, "running 1 test\nSIGABRT\n"), Fate::Caught(_)));
        let run = |code, said| of_run("jepsen test x", code, said);
        assert_eq!(run(Some(1), "Invalid  register: x\n"), Fate::Caught("the checker register".to_owned()));
        assert_eq!(run(Some(1), "seed 3: VIOLATION of I3: x\n"), Fate::Caught("the simulation (I3)".to_owned()));
        assert_eq!(run(Some(0), ""), Fate::Survived("`jepsen test x`".to_owned()));
        assert!([Some(2), Some(3), None].iter().all(|code| matches!(run(*code, ""), Fate::Unclear(_))));
    }

    #[test]
    fn the_copy_follows_the_tree_and_touches_nothing_that_is_equal() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = root.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        let copied = |name: &str| std::fs::read_to_string(root.path().join("target/mutants/tree").join(name)).ok();
        write("src/a", "1");
        write("src/b", "1");
        write("jepsen/store/x", "1");
        let trial = Trial::new(root.path()).unwrap();
        trial.copy().unwrap();
        let changed = std::fs::metadata(trial.tree.join("src/a")).unwrap().modified().unwrap();
        // As a mutant does.
        std::fs::write(trial.tree.join("src/b"), "2").unwrap();
        std::fs::write(trial.tree.join("src/c"), "2").unwrap();
        trial.copy().unwrap();
        assert_eq!([copied("src/a"), copied("src/b")], [Some("1".to_owned()), Some("1".to_owned())]);
        assert_eq!([copied("src/c"), copied("jepsen/store/x")], [None, None]);
        assert_eq!(std::fs::metadata(trial.tree.join("src/a")).unwrap().modified().unwrap(), changed);
    }
}
