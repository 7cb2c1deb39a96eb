//! The program `jepsen`; see `jepsen/README.md`.

use std::process::ExitCode;

fn main() -> ExitCode {
    jepsen::command_line::run()
}
