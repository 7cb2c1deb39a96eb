//! The cluster that is tested: real processes of the program, each with an address, a folder and a log of its own.

mod process;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

pub use process::Process;

/// Something went wrong in the harness, or in what it stands on; it is not a verdict on what is tested.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct HarnessError(pub String);

/// Longest wait for a process to start, and for all to take traffic once everything is healed.
pub const READY_WITHIN: Duration = Duration::from_secs(60);

/// What is started.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Directory nodes that found the cluster.
    pub nodes: u64,
    /// Gateways.
    pub gateways: u64,
    /// Further flags of every directory node.
    pub node_flags: Vec<String>,
    /// Further flags of every gateway.
    pub gateway_flags: Vec<String>,
    /// The program.
    pub binary: PathBuf,
}

/// Where a process is, whether it runs or not.
#[derive(Debug, Clone)]
pub struct Place {
    /// `node-1`, `gw-1`.
    pub name: String,
    /// `http://host:port`.
    pub api: String,
    /// `host:port` for peers.
    pub peer: String,
    /// `host:port` for WebSockets; gateways only.
    pub clients: String,
}

/// Where everything is. It stays as it is for the whole run.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    /// Directory nodes, in the order of their ids, beginning with 1.
    pub nodes: Vec<Place>,
    /// Gateways.
    pub gateways: Vec<Place>,
}

impl Addresses {
    /// Base addresses of every HTTP API: nodes first.
    pub fn apis(&self) -> Vec<String> {
        self.nodes.iter().chain(&self.gateways).map(|place| place.api.clone()).collect()
    }
}

/// What runs, and what can be done to it.
#[derive(Debug)]
pub struct Cluster {
    addresses: Addresses,
    processes: BTreeMap<String, Process>,
}

impl Cluster {
    /// Starts what is planned and waits until all of it takes traffic. Data and logs go to `folder`.
    ///
    /// # Errors
    /// When something can't be made or started.
    pub async fn start(plan: &Plan, folder: &Path) -> Result<Self, HarnessError> {
        let network = format!("127.{}.{}", 1 + std::process::id() % 250, (std::process::id() / 250) % 250);
        let place = |name: String, last: u64| Place {
            name,
            api: format!("http://{network}.{last}:7100"),
            peer: format!("{network}.{last}:7200"),
            clients: format!("{network}.{last}:8000"),
        };
        let addresses = Addresses {
            nodes: (1..=plan.nodes).map(|id| place(format!("node-{id}"), id)).collect(),
            gateways: (1..=plan.gateways).map(|id| place(format!("gw-{id}"), 100 + id)).collect(),
        };
        let mut cluster = Self { addresses, processes: BTreeMap::new() };
        for place in cluster.addresses.nodes.clone() {
            let arguments = cluster.node_arguments(plan, &place, folder);
            cluster.add(plan, &place.name, arguments, folder).await?;
        }
        for place in cluster.addresses.gateways.clone() {
            let arguments = cluster.gateway_arguments(plan, &place);
            cluster.add(plan, &place.name, arguments, folder).await?;
        }
        cluster.wait_ready(READY_WITHIN).await?;
        Ok(cluster)
    }

    fn node_arguments(&self, plan: &Plan, place: &Place, folder: &Path) -> Vec<String> {
        let id = |place: &Place| place.name.trim_start_matches("node-").to_owned();
        let peers: Vec<String> = self.addresses.nodes.iter().map(|p| format!("{}={}", id(p), p.peer)).collect();
        let mut arguments: Vec<String> = ["directory", "--id", &id(place), "--data-dir"].map(str::to_owned).to_vec();
        arguments.push(folder.join(&place.name).display().to_string());
        arguments.extend(["--listen-api".to_owned(), place.api.trim_start_matches("http://").to_owned()]);
        arguments.extend(["--listen-peer".to_owned(), place.peer.clone(), "--peers".to_owned(), peers.join(",")]);
        arguments.extend(plan.node_flags.iter().cloned());
        arguments
    }

    fn gateway_arguments(&self, plan: &Plan, place: &Place) -> Vec<String> {
        let directory: Vec<String> = self.addresses.nodes.iter().map(|p| p.peer.clone()).collect();
        let mut arguments: Vec<String> = ["gateway", "--id", &place.name, "--directory"].map(str::to_owned).to_vec();
        arguments.push(directory.join(","));
        arguments.extend(["--listen-api".to_owned(), place.api.trim_start_matches("http://").to_owned()]);
        arguments.extend(["--listen-peer".to_owned(), place.peer.clone()]);
        arguments.extend(["--listen-clients".to_owned(), place.clients.clone()]);
        arguments.extend(plan.gateway_flags.iter().cloned());
        arguments
    }

    async fn add(
        &mut self,
        plan: &Plan,
        name: &str,
        arguments: Vec<String>,
        folder: &Path,
    ) -> Result<(), HarnessError> {
        let log = folder.join(format!("{name}.log"));
        let process = Process::start(&plan.binary, arguments, &log).await?;
        self.processes.insert(name.to_owned(), process);
        Ok(())
    }

    /// Where everything is.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Names of all processes, running or not.
    pub fn names(&self) -> Vec<String> {
        self.processes.keys().cloned().collect()
    }

    /// A process by name.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn process(&mut self, name: &str) -> &mut Process {
        self.processes.get_mut(name).unwrap_or_else(|| panic!("no process is called {name}"))
    }

    /// Starts again whatever does not run, and thaws whatever is frozen.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn revive(&mut self) -> Result<(), HarnessError> {
        for process in self.processes.values_mut() {
            process.thaw()?;
            if !process.runs() {
                process.restart().await?;
            }
        }
        Ok(())
    }

    /// Waits until every process takes traffic.
    ///
    /// # Errors
    /// When one does not in time.
    pub async fn wait_ready(&self, within: Duration) -> Result<(), HarnessError> {
        let http = switchboard::net::http::Client::default();
        let give_up = Instant::now() + within;
        for api in self.addresses.apis() {
            let url = format!("{api}/readyz");
            loop {
                let answer = http.request(
                    axum::http::Method::GET,
                    &url,
                    axum::http::HeaderMap::new(),
                    bytes::Bytes::new(),
                    Duration::from_secs(1),
                );
                if answer.await.is_ok_and(|answer| answer.status == 200) {
                    break;
                }
                if Instant::now() > give_up {
                    return Err(HarnessError(format!("{url} was not answered with 200 within {within:?}")));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }
}
