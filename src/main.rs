//! The program `switchboard`: parse the command line, start one role, wait, drain.

use std::process::ExitCode;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(switchboard::command_line::run(std::env::args_os().collect())),
        Err(error) => {
            eprintln!("switchboard: can't start: {error}");
            ExitCode::FAILURE
        }
    }
}
