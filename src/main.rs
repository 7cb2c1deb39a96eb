//! The program `switchboard`: parse the command line, start one role, wait, drain.

use std::process::ExitCode;
use std::time::Duration;

/// Longest wait for what still blocks a thread when all is done. A disk that stands still must not keep a process that has
/// to end.
const LEFT_BEHIND: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(switchboard::command_line::run(std::env::args_os().collect()));
            runtime.shutdown_timeout(LEFT_BEHIND);
            code
        }
        Err(error) => {
            eprintln!("switchboard: can't start: {error}");
            ExitCode::FAILURE
        }
    }
}
