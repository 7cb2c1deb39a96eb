//! Commands of the system: `ip`, `mount` and the like.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::HarnessError;

/// Runs a command to its end; what it printed. An error says what it complained about.
pub(super) fn done(command: &str, arguments: &[&str]) -> Result<String, HarnessError> {
    let output = Command::new(command).args(arguments).stdin(Stdio::null()).output();
    checked(command, arguments, output)
}

/// As [`done`], with a text to read.
pub(super) fn fed(command: &str, arguments: &[&str], text: &str) -> Result<String, HarnessError> {
    let mut wanted = Command::new(command);
    wanted.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = wanted.spawn().and_then(|mut child| {
        let mut input = child.stdin.take().expect("it was asked for");
        // One that ends without reading says why itself.
        let _ = input.write_all(text.as_bytes());
        drop(input);
        child.wait_with_output()
    });
    checked(command, arguments, output)
}

fn checked(command: &str, arguments: &[&str], output: std::io::Result<Output>) -> Result<String, HarnessError> {
    let failed = |why: &str| HarnessError(format!("{command} {}: {}", arguments.join(" "), why.trim()));
    let output = output.map_err(|error| failed(&error.to_string()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(failed(&String::from_utf8_lossy(&output.stderr)))
    }
}

/// Whether this machine has a command.
pub(super) fn exists(command: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').any(|folder| Path::new(folder).join(command).exists())
}
