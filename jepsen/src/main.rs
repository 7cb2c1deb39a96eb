//! Failure tests of Switchboard, from the command line.

use std::process::ExitCode;

use clap::Parser;
use jepsen::simulation;

#[derive(Parser)]
enum Verb {
    /// Run the whole cluster in simulated time, with faults drawn from seeds.
    Simulate(simulation::Arguments),
}

fn main() -> ExitCode {
    match Verb::parse() {
        Verb::Simulate(arguments) => simulation::run(&arguments),
    }
}
