//! `switchboard status`

use clap::Args;

use super::http::Caller;
use super::print::{self, or_none};
use super::{ApiOptions, Exit, Failed, Output};
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
    print::line(format!("cluster {}   leader {leader}   term {}", cluster.cluster, cluster.term).as_bytes())?;
    // Counts are shown as they are known here; they are worth having without a quorum too.
    let stats = caller.get("/v1/stats?consistency=cached").await?;
    if let Ok(Stats { connections, users, gateways, revision, .. }) = print::body("status", &stats) {
        let counts =
            format!("{connections} connections   {users} users   {} gateways   revision {revision}", gateways.len());
        print::line(counts.as_bytes())?;
    }
    print::line(b"")?;
    let mut table = print::table(&["id", "role", "state", "applied", "last log", "peer", "api"]);
    for member in &cluster.members {
        table.add_row([
            member.id.to_string(),
            member.role.clone(),
            member.state.clone(),
            or_none(member.applied),
            or_none(member.last_log),
            member.peer.clone(),
            member.api.clone(),
        ]);
    }
    print::show(&table)?;
    for member in &cluster.members {
        if let Some(free) = member.short_of_space {
            let free = bytesize::ByteSize(free);
            let short =
                format!("node {} has only {free} of disk left: it writes nothing new; free some there", member.id);
            print::line(short.as_bytes())?;
        }
    }
    Ok(())
}
