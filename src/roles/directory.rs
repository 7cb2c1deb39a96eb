//! A directory node as a process.

use super::{Ready, failed, housekeeping};
use crate::cli::Failed;
use crate::config::DirectoryArgs;
use crate::node::Node;
use crate::shutdown::Shutdown;

/// Runs a directory node until it is told to stop.
///
/// # Errors
/// When the settings make no sense, the node can't start, or its log can't go on.
pub async fn run(args: DirectoryArgs) -> Result<(), Failed> {
    let settings = args.settings().await?;
    let id = settings.id.to_string();
    let shutdown = Shutdown::default();
    let _housekeeping = housekeeping(&shutdown);
    let node = Node::start(settings, shutdown.stop.clone()).await.map_err(failed)?;
    tracing::info!(node = %id, api = %node.api, peer = %node.peer, "this directory node listens");
    Ready {
        ready: true,
        role: "directory",
        id: &id,
        api: node.api.to_string(),
        peer: node.peer.to_string(),
        clients: None,
    }
    .print();
    tokio::select! {
        ended = node.wait() => ended.map_err(failed),
        () = shutdown.kill.cancelled() => Ok(()),
    }
}
