//! The figures that README.md claims, on real processes, loopback sockets and a real disk:
//! `cargo bench --bench cluster [-- registrations push failover frozen transfer snapshot handover comeback death]`.
//!
//! Each part starts a cluster of its own out of the release program, drives it through public interfaces and measures a floor or
//! a peer beside it in the same run. Absolute figures depend on the machine; the ratios are what can be compared.
//! Driver and cluster share the machine.

mod comeback;
mod death;
mod failover;
mod floors;
mod frozen;
mod handover;
mod processes;
mod push;
mod redis;
mod registrations;
mod snapshot;
mod sockets;
mod table;
mod transfer;

use std::process::ExitCode;

use table::Table;

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    if let [word, address] = args.as_slice()
        && word == floors::ECHO
    {
        floors::echo(address).await;
    }
    let parts =
        ["registrations", "push", "failover", "frozen", "transfer", "snapshot", "handover", "comeback", "death"];
    if let Some(unknown) = args.iter().find(|arg| !parts.contains(&arg.as_str())) {
        eprintln!("there is no part {unknown:?}; there are {parts:?}");
        return ExitCode::from(2);
    }
    println!("{}\n", processes::machine());
    let mut table = Table::default();
    for part in parts.into_iter().filter(|part| args.is_empty() || args.iter().any(|arg| arg == part)) {
        println!("{part}: load {} before", processes::load());
        match part {
            "registrations" => registrations::run(&mut table).await,
            "push" => push::run(&mut table).await,
            "failover" => failover::run(&mut table).await,
            "transfer" => transfer::run(&mut table).await,
            "snapshot" => snapshot::run(&mut table).await,
            "handover" => handover::run(&mut table).await,
            "comeback" => comeback::run(&mut table).await,
            "death" => death::run(&mut table).await,
            _ => frozen::run(&mut table).await,
        }
        println!();
    }
    table.print();
    ExitCode::SUCCESS
}
