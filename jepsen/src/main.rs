//! The failure tests of Switchboard. The workloads arrive with their own change; until then the command says so and fails.

fn main() -> std::process::ExitCode {
    eprintln!("jepsen: no workload is available yet; the failure tests that exist run with `cargo test`");
    std::process::ExitCode::FAILURE
}
