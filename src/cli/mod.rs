//! The verbs of the command line: those that speak to a running cluster over its HTTP API, and those that work on the files of
//! one that does not run.
//!
//! A verb parses, calls one route, and prints its body: as a table, or with `-o json` unchanged. What went wrong goes to
//! stderr in one sentence that says what to do, and into the exit code ([`Exit`]). What files mean is known to
//! [`crate::node::offline`].

mod bans;
mod check;
mod connections;
mod failed;
mod force_new_cluster;
mod gateways;
mod history;
mod http;
mod kick;
mod members;
mod options;
mod print;
mod push;
mod snapshot;
mod status;
#[cfg(test)]
mod tests;
mod token;
mod topics;
mod watch;
mod whereis;

use clap::Subcommand;

pub use bans::{BansArgs, BansVerb};
pub use check::CheckArgs;
pub use connections::{ConnectionsArgs, ConnectionsVerb};
pub use failed::{Exit, Failed};
pub use force_new_cluster::ForceNewClusterArgs;
pub use gateways::{GatewaysArgs, GatewaysVerb};
pub use history::HistoryArgs;
pub use kick::KickArgs;
pub use members::{MembersArgs, MembersVerb};
pub use options::{ApiOptions, Output};
pub use push::{AckArg, MessageArgs, PushArgs, PushTarget};
pub use snapshot::{SnapshotArgs, SnapshotVerb};
pub use status::StatusArgs;
pub use token::{MintArgs, SecretArgs, TokenArgs, TokenVerb, VerifyArgs};
pub use topics::TopicsArgs;
pub use watch::WatchArgs;
pub use whereis::WhereisArgs;

/// A verb that speaks to a running cluster, or works on its files.
#[derive(Debug, Clone, Subcommand)]
pub enum ClientVerb {
    /// Show the directory nodes, who leads, and how much is connected
    Status(StatusArgs),
    /// Show and change the directory nodes: grow, shrink, replace, move leadership
    Members(MembersArgs),
    /// Show where a user is connected
    Whereis(WhereisArgs),
    /// Show where a user was, and why it left, as far back as that is retained
    History(HistoryArgs),
    /// List connections
    Connections(ConnectionsArgs),
    /// List gateways
    Gateways(GatewaysArgs),
    /// List the topics that most are subscribed to
    Topics(TopicsArgs),
    /// Push a message to a user or a connection
    Push(PushArgs),
    /// Close the connections of a user, or one connection
    Kick(KickArgs),
    /// Show and change which users are refused
    Bans(BansArgs),
    /// Print changes as they happen, until interrupted
    Watch(WatchArgs),
    /// Make and check the tokens by which clients show who they are
    Token(TokenArgs),
    /// Back up the state, look into backups, and make new clusters of them
    Snapshot(SnapshotArgs),
    /// Check that the nodes of a cluster agree and are sound, or that a data directory is
    Check(CheckArgs),
    /// Make a new cluster of what one survivor holds, when most voters are lost for ever
    ForceNewCluster(ForceNewClusterArgs),
}

impl ClientVerb {
    /// Does it, and says on stderr why it could not.
    pub async fn run(self) -> Exit {
        let done = match self {
            Self::Status(args) => status::run(&args).await,
            Self::Members(args) => members::run(&args).await,
            Self::Whereis(args) => whereis::run(&args).await,
            Self::History(args) => history::run(&args).await,
            Self::Connections(args) => connections::run(&args).await,
            Self::Gateways(args) => gateways::run(&args).await,
            Self::Topics(args) => topics::run(&args).await,
            Self::Push(args) => push::run(&args).await,
            Self::Kick(args) => kick::run(&args).await,
            Self::Bans(args) => bans::run(&args).await,
            Self::Watch(args) => watch::run(&args).await,
            Self::Token(args) => token::run(&args).await,
            Self::Snapshot(args) => snapshot::run(&args).await,
            Self::Check(args) => check::run(&args).await,
            Self::ForceNewCluster(args) => force_new_cluster::run(&args).await,
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
