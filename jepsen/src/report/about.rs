//! What was run: when, which program, and the command that runs it again.

use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Where a run comes from; what is not known is empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// When it began, in UTC.
    pub began: String,
    /// Typed again, it asks for the same: the seed is in it.
    pub command: String,
    /// What the program says of itself.
    pub program: String,
    /// The commit that the working tree stood on, `-dirty` if it was changed since; empty without one.
    pub revision: String,
}

impl About {
    /// Of a run that begins now with this program, by the command line of this process.
    pub fn now(binary: &Path, seed: u64) -> Self {
        Self {
            began: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            command: again(std::env::args().skip(1), seed),
            program: said_by(Command::new(binary).arg("--version")),
            revision: said_by(Command::new("git").args(["describe", "--always", "--dirty", "--exclude", "*"])),
        }
    }
}

fn said_by(command: &mut Command) -> String {
    let said = command.output().ok().filter(|said| said.status.success());
    said.map(|said| String::from_utf8_lossy(&said.stdout).trim().to_owned()).unwrap_or_default()
}

/// The same arguments, with the seed, and without the folder: nothing shall be written over.
fn again(arguments: impl Iterator<Item = String>, seed: u64) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.split_once('=').map_or(argument.as_str(), |(name, _)| name) {
            name @ ("--store" | "--seed") => {
                if argument == name {
                    arguments.next();
                }
            }
            _ => words.push(quoted(&argument)),
        }
    }
    let profile = if cfg!(debug_assertions) { "" } else { " --release" };
    format!("cargo run{profile} -p jepsen -- {} --seed {seed}", words.join(" "))
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./,:=+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_asks_for_the_same_run_and_writes_over_no_other() {
        let typed =
            ["test", "--workload", "register", "--store", "a folder", "--nemesis=kill,pause", "--binary", "a b"];
        let command = again(typed.map(str::to_owned).into_iter(), 7);
        assert!(
            command.ends_with("-- test --workload register --nemesis=kill,pause --binary 'a b' --seed 7"),
            "{command}"
        );
        let seeded = again(["test", "--seed", "9", "--store=x"].map(str::to_owned).into_iter(), 9);
        assert!(seeded.ends_with("-- test --seed 9"), "{seeded}");
    }
}
