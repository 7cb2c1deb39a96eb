//! `switchboard status`

use clap::Args;

use super::http::Caller;
use super::print::{self, or_none};
use super::{ApiOptions, Exit, Failed, Output, members};
use crate::wire::http::{Cluster, Stats};

/// Arguments of `status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Where, and how to print.
    #[command(flatten)]
    pub api: ApiOptions,
}

/// Shows the directory nodes, who leads, and how much is connected. Without a leader it fails.
pub(super) async fn run(args: &StatusArgs) -> Result<(), Failed> {
    let caller = Caller::new(&args.api)?;
    let answer = caller.get("/v1/cluster").await?;
    if args.api.output == Output::Json {
        print::line(&answer.body)?;
    }
    let cluster: Cluster = print::body("status", &answer)?;
    if args.api.output == Output::Table {
        show(&cluster, &caller).await?;
    }
    if cluster.leader.is_none() {
        let message = "no node leads: nothing can be registered until a majority of the voters runs and can be reached";
        return Err(Failed::new(Exit::NoQuorum, message));
    }
    Ok(())
}

async fn show(cluster: &Cluster, caller: &Caller) -> Result<(), Failed> {
    let leader = or_none(cluster.leader);
    let head =
        format!("cluster {}   leader {leader}   term {}   {}", cluster.cluster, cluster.term, members::votes(cluster));
    print::line(head.as_bytes())?;
    // Counts are shown as they are known here; they are worth having without a quorum too.
    let stats = caller.get("/v1/stats?consistency=cached").await?;
    if let Ok(Stats { connections, users, gateways, revision, .. }) = print::body("status", &stats) {
        let counts =
            format!("{connections} connections   {users} users   {} gateways   revision {revision}", gateways.len());
        print::line(counts.as_bytes())?;
    }
    print::line(b"")?;
    members::show(cluster)
}
