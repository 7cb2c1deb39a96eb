//! The verbs of the command line that speak to a running cluster over its HTTP API.
//!
//! A verb parses, calls one route, and prints its body: as a table, or with `-o json` unchanged. What went wrong goes to
//! stderr in one sentence that says what to do, and into the exit code ([`Exit`]).

mod connections;
mod failed;
mod gateways;
mod http;
mod members;
mod options;
mod print;
mod push;
mod status;
#[cfg(test)]
mod tests;
mod watch;
mod whereis;

use clap::Subcommand;

pub use connections::{ConnectionsArgs, ConnectionsVerb};
pub use failed::{Exit, Failed};
pub use gateways::{GatewaysArgs, GatewaysVerb};
pub use members::{MembersArgs, MembersVerb};
pub use options::{ApiOptions, Output};
pub use push::{AckArg, MessageArgs, PushArgs, PushTarget};
pub use status::StatusArgs;
pub use watch::WatchArgs;
pub use whereis::WhereisArgs;

/// A verb that speaks to a running cluster.
#[derive(Debug, Clone, Subcommand)]
pub enum ClientVerb {
    /// Show the directory nodes, who leads, and how much is connected
    Status(StatusArgs),
    /// Show and change the directory nodes: grow, shrink, replace, move leadership
    Members(MembersArgs),
    /// Show where a user is connected
    Whereis(WhereisArgs),
    /// List connections
    Connections(ConnectionsArgs),
    /// List gateways
    Gateways(GatewaysArgs),
    /// Push a message to a user or a connection
    Push(PushArgs),
    /// Print changes as they happen, until interrupted
    Watch(WatchArgs),
}

impl ClientVerb {
    /// Does it, and says on stderr why it could not.
    pub async fn run(self) -> Exit {
        let done = match self {
            Self::Status(args) => status::run(&args).await,
            Self::Members(args) => members::run(&args).await,
            Self::Whereis(args) => whereis::run(&args).await,
            Self::Connections(args) => connections::run(&args).await,
            Self::Gateways(args) => gateways::run(&args).await,
            Self::Push(args) => push::run(&args).await,
            Self::Watch(args) => watch::run(&args).await,
        };
        match done {
            Ok(()) => Exit::Done,
            Err(failed) => {
                failed.report();
                failed.exit
            }
        }
    }
}
