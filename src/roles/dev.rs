//! A whole cluster on loopback in one process.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use axum::http::{HeaderMap, Method};
use bytes::Bytes;
use comfy_table::Table;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{failed, housekeeping};
use crate::cli::Failed;
use crate::config::{DevArgs, Ports};
use crate::gateway::{self, Gateway, Running};
use crate::net::Listener;
use crate::net::http::Client;
use crate::node::{self, Node};
use crate::shutdown::Shutdown;

const CLUSTER: &str = "dev";

/// Longest wait for the cluster to take clients before it says what it waits for.
const SETTLE: Duration = Duration::from_secs(20);

/// Runs the cluster until it is told to stop.
///
/// # Errors
/// When the settings make no sense, a port is taken, or a node can't go on.
pub async fn run(args: DevArgs) -> Result<(), Failed> {
    let settings = args.gateways().await?;
    let shutdown = Shutdown::default();
    let _housekeeping = housekeeping(&shutdown);
    // Removed when it is dropped, after everything that writes into it has ended.
    let temporary = tempfile::Builder::new().prefix("switchboard-dev-").tempdir().map_err(failed)?;
    let data_dir = args.data_dir.clone().unwrap_or_else(|| temporary.path().to_owned());

    // The nodes stay until the gateways have said goodbye, so they have an end of their own.
    let nodes_stop = CancellationToken::new();
    let nodes = start_nodes(&args, &data_dir, &nodes_stop).await?;
    let who = if settings.tokens.is_some() { "token=TOKEN" } else { "user=alice" };
    let gateways = start_gateways(&args, settings, &nodes, &shutdown).await?;
    let addresses = Addresses::of(&nodes, &gateways);
    if shutdown.stop.run_until_cancelled(wait_until_ready(&addresses)).await.is_some() {
        addresses.print(args.data_dir.as_deref(), who);
    }
    let ended = wait(nodes, gateways, &shutdown, &nodes_stop).await;
    tracing::info!("the cluster has ended");
    ended
}

async fn start_nodes(args: &DevArgs, data_dir: &Path, stop: &CancellationToken) -> Result<Vec<Node>, Failed> {
    let mut listeners = Vec::new();
    for id in 1..=args.directories {
        listeners.push((bind(args, 7100 + id).await?, bind(args, 7200 + id).await?));
    }
    let peers: BTreeMap<u64, String> =
        (1..).zip(listeners.iter().map(|(_, peer)| peer.address().to_string())).collect();
    let mut nodes = Vec::new();
    for (id, (api, peer)) in (1..).zip(listeners) {
        let settings = node::Settings {
            id,
            cluster: CLUSTER.to_owned(),
            data_dir: data_dir.join(format!("directory-{id}")),
            listen_api: api.address().to_string(),
            listen_peer: peer.address().to_string(),
            advertise_peer: None,
            advertise_api: None,
            peers: peers.clone(),
            join: false,
            heartbeat: Duration::from_millis(100),
            election: (Duration::from_millis(300), Duration::from_millis(600)),
            snapshot_every: node::SNAPSHOT_EVERY,
            disk_reserve: node::DISK_RESERVE,
            retain_events: node::RETAIN_EVENTS,
            retain_bytes: node::RETAIN_BYTES,
            log_engine: node::LogEngine::default(),
        };
        nodes.push(Node::start_on(settings, api, peer, stop.clone()).await.map_err(failed)?);
    }
    Ok(nodes)
}

async fn start_gateways(
    args: &DevArgs,
    settings: gateway::Settings,
    nodes: &[Node],
    shutdown: &Shutdown,
) -> Result<Vec<Running>, Failed> {
    let directory: Vec<String> = nodes.iter().map(|node| node.peer.to_string()).collect();
    let mut gateways = Vec::new();
    for i in 1..=args.gateways {
        let settings = gateway::Settings {
            id: format!("gw-{i}"),
            cluster: CLUSTER.to_owned(),
            directory: directory.clone(),
            listen_clients: address(args, 8000 + i),
            listen_api: address(args, 8100 + i),
            listen_peer: address(args, 8200 + i),
            ..settings.clone()
        };
        let started = Gateway::start(settings, shutdown.stop.clone(), shutdown.kill.clone()).await;
        gateways.push(started.map_err(failed)?);
    }
    Ok(gateways)
}

fn address(args: &DevArgs, port: u16) -> String {
    format!("127.0.0.1:{}", if args.ports == Ports::Auto { 0 } else { port })
}

async fn bind(args: &DevArgs, port: u16) -> Result<Listener, Failed> {
    Listener::bind(&address(args, port)).await.map_err(failed)
}

/// Waits for the gateways to end, then ends the nodes; a node that can't go on, or a second signal, ends everything.
async fn wait(
    nodes: Vec<Node>,
    gateways: Vec<Running>,
    shutdown: &Shutdown,
    nodes_stop: &CancellationToken,
) -> Result<(), Failed> {
    let mut of_gateways = JoinSet::new();
    for gateway in gateways {
        of_gateways.spawn(async move { gateway.wait().await.map_err(|error| error.to_string()) });
    }
    let mut of_nodes = JoinSet::new();
    for node in nodes {
        of_nodes.spawn(node.wait());
    }
    let mut result = Ok(());
    let mut keep_first = |ended: Result<Result<(), String>, tokio::task::JoinError>| {
        if let Some(why) = ended.map_or_else(|error| Some(error.to_string()), Result::err) {
            shutdown.stop.cancel();
            result = std::mem::replace(&mut result, Ok(())).and(Err(failed(why)));
        }
    };
    if of_gateways.is_empty() {
        shutdown.stop.cancelled().await;
    }
    loop {
        tokio::select! {
            ended = of_gateways.join_next() => match ended {
                Some(ended) => keep_first(ended),
                None => break,
            },
            Some(ended) = of_nodes.join_next() => keep_first(ended),
        }
    }
    nodes_stop.cancel();
    while let Some(ended) = of_nodes.join_next().await {
        keep_first(ended);
    }
    result
}

/// Where everything listens.
#[derive(Debug, Serialize)]
struct Addresses {
    directories: Vec<Process>,
    gateways: Vec<Process>,
}

#[derive(Debug, Serialize)]
struct Process {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    clients: Option<String>,
    api: String,
    peer: String,
}

impl Addresses {
    fn of(nodes: &[Node], gateways: &[Running]) -> Self {
        let directories = (1..).zip(nodes).map(|(id, node): (u64, _)| Process {
            id: id.to_string(),
            clients: None,
            api: node.api.to_string(),
            peer: node.peer.to_string(),
        });
        let gateways = (1..).zip(gateways).map(|(i, gateway): (u64, _)| Process {
            id: format!("gw-{i}"),
            clients: Some(gateway.clients.to_string()),
            api: gateway.api.to_string(),
            peer: gateway.peer.to_string(),
        });
        Self { directories: directories.collect(), gateways: gateways.collect() }
    }

    /// A table, three commands to try next, and the same addresses in one line for programs.
    fn print(&self, data_dir: Option<&Path>, who: &str) {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
        table.set_header(["process", "clients (WebSocket)", "api (HTTP)", "peer"]);
        let nodes = self.directories.iter().map(|process| ("node", process));
        let gateways = self.gateways.iter().map(|process| ("gateway", process));
        for (word, process) in nodes.chain(gateways) {
            let clients = process.clients.as_ref().map_or_else(String::new, |clients| format!("ws://{clients}/ws"));
            table.add_row([format!("{word} {}", process.id), clients, process.api.clone(), process.peer.clone()]);
        }
        println!("{table}");
        match data_dir {
            Some(kept) => println!("The state is kept in {}.", kept.display()),
            None => println!("The state is temporary; --data-dir DIR keeps it."),
        }
        if let (Some(first), Some(last)) = (self.gateways.first(), self.gateways.last()) {
            let clients = first.clients.as_deref().unwrap_or_default();
            println!("\nTry, each in a terminal of its own:");
            println!("  websocat --ping-interval 20 'ws://{clients}/ws?{who}'");
            println!("  curl -s http://{}/v1/users/alice", self.directories[0].api);
            println!(
                "  curl -s -X POST http://{}/v1/users/alice/push -d '{{\"event\":\"hello\",\"data\":\"from afar\"}}'\n",
                last.api
            );
        }
        let line = serde_json::json!({ "ready": true, "role": "dev", "directories": self.directories, "gateways": self.gateways });
        println!("{line}");
    }
}

/// Waits until every process would take traffic, so that what is printed next can be tried at once.
async fn wait_until_ready(addresses: &Addresses) {
    let http = Client::new();
    let give_up = Instant::now() + SETTLE;
    for process in addresses.directories.iter().chain(&addresses.gateways) {
        let url = format!("http://{}/readyz", process.api);
        loop {
            let asked = http.request(Method::GET, &url, HeaderMap::new(), Bytes::new(), Duration::from_secs(1)).await;
            if asked.is_ok_and(|answer| answer.status.is_success()) {
                break;
            }
            if Instant::now() >= give_up {
                tracing::warn!(process = %process.id, "not ready yet; going on all the same");
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
