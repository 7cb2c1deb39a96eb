//! `switchboard force-new-cluster`: the way out when a majority is lost for ever.

use std::path::PathBuf;

use clap::Args;

use super::print;
use super::snapshot::{failed, json, show_begun};
use super::{Exit, Failed, Output};
use crate::node::offline::{self, DirectoryFacts};

/// Arguments of `force-new-cluster`.
///
/// When most voters of a cluster are gone for ever, what is left can't decide anything any more, and no restart helps. This
/// takes the data directory of one survivor, which must not run, and makes a new cluster of what it holds. Use the survivor whose log
/// is longest: `switchboard check --data-dir DIR` shows it.
///
/// WHAT MAY BE LOST: everything that the old cluster acknowledged and that this survivor had not received yet.
/// WHAT MAY COME BACK: entries at the end of its log that were never acknowledged. They are kept, because the lost nodes may have
/// acknowledged them.
///
/// The new cluster has an id of its own, and all sessions are over; gateways open new ones and register their open sockets again.
/// Every other member of the old cluster must never run again: it would serve the old cluster to gateways that find it.
#[derive(Debug, Clone, Args)]
#[command(verbatim_doc_comment)]
pub struct ForceNewClusterArgs {
    /// Data directory of the survivor; it is left as it is
    #[arg(long, value_name = "OLD")]
    pub data_dir: PathBuf,

    /// Data directory of the new cluster's first node; empty or missing
    #[arg(long, value_name = "NEW")]
    pub into: PathBuf,

    /// Accept that what only the lost nodes had is lost
    #[arg(long)]
    pub accept_loss: bool,

    /// How to print: a table, or one JSON object
    #[arg(short = 'o', long = "output", value_enum, default_value_t)]
    pub output: Output,
}

pub(super) async fn run(args: &ForceNewClusterArgs) -> Result<(), Failed> {
    if !args.accept_loss {
        let found = offline::check(&args.data_dir).await.map_err(failed)?;
        show(&found)?;
        let message = "nothing was done: this gives up whatever only the lost nodes had. If they are lost for ever, and no other \
                       survivor has a longer log, say --accept-loss";
        return Err(Failed::new(Exit::Usage, message));
    }
    let (found, begun) = offline::force_new(&args.data_dir, &args.into).await.map_err(failed)?;
    if args.output == Output::Json {
        return json(&serde_json::json!({ "found": found, "new": begun }));
    }
    show(&found)?;
    print::line(b"")?;
    show_begun(&begun, args.output)
}

/// What was found, and which entries are kept.
fn show(found: &DirectoryFacts) -> Result<(), Failed> {
    let last = found.log.map_or(found.committed, |(_, last)| last.max(found.committed));
    print::facts([
        ("node", format!("{} of cluster {} ({})", found.node, found.cluster, found.cluster_id)),
        ("last term", found.term.to_string()),
        ("snapshot up to", print::or_none(found.snapshot.map(|(revision, _)| revision))),
        ("known to be committed up to", found.committed.to_string()),
        ("last entry", last.to_string()),
        ("kept without being sure", (last - found.committed).to_string()),
        ("torn bytes at the end", found.torn_bytes.to_string()),
    ])
}
