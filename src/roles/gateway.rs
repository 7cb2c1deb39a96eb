//! A gateway as a process.

use super::{Ready, failed, housekeeping};
use crate::cli::Failed;
use crate::config::GatewayArgs;
use crate::gateway::Gateway;
use crate::shutdown::Shutdown;

/// Runs a gateway until it is told to stop and its clients have left.
///
/// # Errors
/// When the settings make no sense, the gateway can't start, or another process runs under its id.
pub async fn run(args: GatewayArgs) -> Result<(), Failed> {
    let settings = args.settings().await?;
    let (id, tokens) = (settings.id.clone(), settings.tokens.is_some());
    let shutdown = Shutdown::default();
    let _housekeeping = housekeeping(&shutdown);
    let gateway = Gateway::start(settings, shutdown.stop.clone(), shutdown.kill.clone()).await.map_err(failed)?;
    tracing::info!(gateway = %id, clients = %gateway.clients, api = %gateway.api, peer = %gateway.peer, tokens, "this gateway listens");
    if !tokens {
        tracing::info!(gateway = %id, "clients are believed who they say they are; --client-token-… has them show tokens");
    }
    Ready {
        ready: true,
        role: "gateway",
        id: &id,
        api: gateway.api.to_string(),
        peer: gateway.peer.to_string(),
        clients: Some(gateway.clients.to_string()),
    }
    .print();
    gateway.wait().await.map_err(failed)
}
