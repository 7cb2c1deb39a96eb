//! The cluster that is tested: real processes of the program, each with an address, a disk and a log of its own.

mod claims;
mod command;
mod disk;
mod group;
mod netem;
mod network;
mod process;
mod shim;
mod sweep;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, Method};
use serde_json::Value;
use switchboard::net::http::Client as HttpClient;
use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use claims::Claims;
pub use disk::{Disks, Image};
pub use netem::Delay;
pub use network::{Deaf, Namespaces, Network, Packets};
pub use process::{Launch, NotStarted, Process};
pub use shim::Shim;
pub use sweep::sweep;

use group::Group;
use sweep::Workplace;

/// Something went wrong in the harness, or in what it stands on; it is not a verdict on what is tested.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct HarnessError(pub String);

/// Longest wait for a process to start, and for all to take traffic once everything is healed.
pub const READY_WITHIN: Duration = Duration::from_secs(60);

/// Last numbers of the addresses of gateways begin behind it.
const GATEWAYS: u64 = 100;

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
    /// Another version of the program, to and from which processes are upgraded.
    pub previous: Option<PathBuf>,
    /// How long gateways hold their leases.
    pub lease: Duration,
    /// How processes reach each other.
    pub network: Network,
    /// Where nodes keep their data.
    pub disks: Disks,
    /// Whether disks can be made to fail, and wall clocks to jump.
    pub shim: bool,
    /// Directory nodes that may join later.
    pub spares: u64,
}

impl Plan {
    /// Three nodes and three gateways of a program, as it is by default.
    pub fn of(binary: PathBuf) -> Self {
        Self {
            nodes: 3,
            gateways: 3,
            node_flags: Vec::new(),
            gateway_flags: Vec::new(),
            binary,
            previous: None,
            lease: Duration::from_secs(3),
            network: Network::best(),
            disks: Disks::Folder,
            shim: false,
            spares: 0,
        }
    }

    /// Why this can't be started on this machine.
    fn refused(&self) -> Option<String> {
        let namespaces = (self.network == Network::Namespaces).then(network::missing).flatten();
        let images = || (self.disks == Disks::Images).then(disk::missing).flatten();
        namespaces.or_else(images)
    }
}

/// Where a process is, whether it runs or not.
#[derive(Debug, Clone)]
pub struct Place {
    /// `node-1`, `gw-1`. A node that is replaced by another one, with another id, leaves its place and its addresses to it.
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
    /// Directory nodes, in the order of the ids that they were founded with, beginning with 1.
    pub nodes: Vec<Place>,
    /// Where directory nodes may join, and leave again; as a rule nobody answers there.
    pub spares: Vec<Place>,
    /// Gateways.
    pub gateways: Vec<Place>,
}

impl Addresses {
    fn of(plan: &Plan, prefix: &str) -> Self {
        let place = |name: String, last: u64| Place {
            name,
            api: format!("http://{prefix}.{last}:7100"),
            peer: format!("{prefix}.{last}:7200"),
            clients: format!("{prefix}.{last}:8000"),
        };
        let nodes = |ids: std::ops::RangeInclusive<u64>| ids.map(|id| place(format!("node-{id}"), id)).collect();
        Self {
            nodes: nodes(1..=plan.nodes),
            spares: nodes(plan.nodes + 1..=plan.nodes + plan.spares),
            gateways: (1..=plan.gateways).map(|nth| place(format!("gw-{nth}"), GATEWAYS + nth)).collect(),
        }
    }

    /// Base addresses of every HTTP API: nodes first.
    pub fn apis(&self) -> Vec<String> {
        self.nodes.iter().chain(&self.gateways).map(|place| place.api.clone()).collect()
    }

    /// All places, those where nobody is included.
    pub fn all(&self) -> impl Iterator<Item = &Place> {
        self.nodes.iter().chain(&self.spares).chain(&self.gateways)
    }

    /// A place by name.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn place(&self, name: &str) -> &Place {
        self.all().find(|place| place.name == name).unwrap_or_else(|| panic!("no place is called {name}"))
    }
}

/// What runs, and what can be done to it. When it is dropped, everything that it made goes away, its report excepted.
#[derive(Debug)]
pub struct Cluster {
    // In the order in which they must go away.
    tasks: JoinSet<()>,
    processes: BTreeMap<String, Process>,
    images: BTreeMap<String, Image>,
    namespaces: Option<Namespaces>,
    workplace: Workplace,
    /// Who is under a fault.
    pub claims: Claims,
    shims: BTreeMap<String, Shim>,
    addresses: Addresses,
    group: Group,
    http: HttpClient,
    plan: Plan,
    folder: PathBuf,
    violations: Vec<String>,
}

impl Cluster {
    /// Starts what is planned and waits until all of it takes traffic. Data and logs go to `folder`.
    ///
    /// # Errors
    /// When something can't be made or started.
    pub async fn start(plan: &Plan, folder: &Path) -> Result<Self, HarnessError> {
        if let Some(why) = plan.refused() {
            return Err(HarnessError(why));
        }
        sweep();
        let mut cluster = Self::prepare(plan, folder)?;
        let places = cluster.addresses.nodes.iter().chain(&cluster.addresses.gateways);
        for name in places.map(|place| place.name.clone()).collect::<Vec<_>>() {
            cluster.start_process(&name).await?;
        }
        cluster.wait_ready(READY_WITHIN).await?;
        Ok(cluster)
    }

    /// Makes networks and disks.
    fn prepare(plan: &Plan, folder: &Path) -> Result<Self, HarnessError> {
        static CLUSTERS: AtomicU32 = AtomicU32::new(0);
        let nth = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let workplace = Workplace::new(nth).map_err(|error| HarnessError(format!("a temporary folder: {error}")))?;
        let pid = std::process::id();
        let (namespaces, prefix) = match plan.network {
            Network::Namespaces => {
                let made = Namespaces::new(nth)?;
                let prefix = made.prefix().to_owned();
                (Some(made), prefix)
            }
            Network::Loopback => (None, format!("127.{}.{}", 1 + pid % 250, (pid / 250 + nth) % 250)),
        };
        let library = if plan.shim { Some(shim::compile(workplace.path())?) } else { None };
        let addresses = Addresses::of(plan, &prefix);
        let mut cluster = Self {
            tasks: JoinSet::new(),
            processes: BTreeMap::new(),
            images: BTreeMap::new(),
            namespaces,
            workplace,
            claims: Claims::default(),
            shims: BTreeMap::new(),
            group: Group::new(&addresses),
            addresses,
            http: HttpClient::default(),
            plan: plan.clone(),
            // Processes are told of it, and it must not depend on where they run.
            folder: std::path::absolute(folder).map_err(|error| HarnessError(error.to_string()))?,
            violations: Vec::new(),
        };
        for place in cluster.addresses.clone().all() {
            let (name, is_node) = (place.name.as_str(), place.name.starts_with("node-"));
            if let Some(namespaces) = &mut cluster.namespaces {
                let last = place.peer.rsplit(['.', ':']).nth(1).and_then(|last| last.parse().ok());
                namespaces.add(name, last.expect("addresses are made here"))?;
            }
            if is_node && plan.disks == Disks::Images {
                let image = Image::new(cluster.workplace.path().join(name))?;
                cluster.images.insert(name.to_owned(), image);
            }
            if let Some(library) = &library {
                let shim = Shim::new(library, cluster.workplace.path(), name, &cluster.disk_of(name));
                cluster.shims.insert(name.to_owned(), shim);
            }
        }
        Ok(cluster)
    }

    /// Where a process keeps its data: the place where its disk is mounted, or a folder.
    fn disk_of(&self, name: &str) -> PathBuf {
        self.images.get(name).map_or_else(|| self.folder.join(name), Image::place)
    }

    /// The data directory of the node at a place.
    pub fn data_dir(&self, name: &str) -> PathBuf {
        self.disk_of(name).join(format!("id-{}", self.group.id(name)))
    }

    fn node_arguments(&self, place: &Place) -> Vec<String> {
        let founder = |(nth, place): (usize, &Place)| format!("{}={}", nth + 1, place.peer);
        let id = self.group.id(&place.name);
        let mut arguments: Vec<String> = ["directory", "--id", &id.to_string(), "--data-dir"].map(str::to_owned).into();
        arguments.push(self.data_dir(&place.name).display().to_string());
        arguments.extend(["--listen-api".to_owned(), place.api.trim_start_matches("http://").to_owned()]);
        arguments.extend(["--listen-peer".to_owned(), place.peer.clone()]);
        if self.group.founded(&place.name) {
            let peers: Vec<String> = self.addresses.nodes.iter().enumerate().map(founder).collect();
            arguments.extend(["--peers".to_owned(), peers.join(",")]);
        } else {
            arguments.push("--join".to_owned());
        }
        arguments.extend(self.plan.node_flags.iter().cloned());
        arguments
    }

    fn gateway_arguments(&self, place: &Place) -> Vec<String> {
        let directory: Vec<String> = self.addresses.nodes.iter().map(|p| p.peer.clone()).collect();
        let mut arguments: Vec<String> = ["gateway", "--id", &place.name, "--directory"].map(str::to_owned).to_vec();
        arguments.push(directory.join(","));
        arguments.extend(["--listen-api".to_owned(), place.api.trim_start_matches("http://").to_owned()]);
        arguments.extend(["--listen-peer".to_owned(), place.peer.clone()]);
        arguments.extend(["--listen-clients".to_owned(), place.clients.clone()]);
        if !self.plan.gateway_flags.iter().any(|flag| flag == "--lease") {
            arguments.extend(["--lease".to_owned(), humantime::format_duration(self.plan.lease).to_string()]);
        }
        arguments.extend(self.plan.gateway_flags.iter().cloned());
        arguments
    }

    /// Starts a process at a place, with whatever id is due there.
    async fn start_process(&mut self, name: &str) -> Result<(), NotStarted> {
        let place = self.addresses.place(name);
        let is_node = name.starts_with("node-");
        let mut arguments = if is_node { self.node_arguments(place) } else { self.gateway_arguments(place) };
        if self.namespaces.is_some() {
            arguments.push("--insecure".to_owned());
        }
        let launch = Launch {
            inside: self.namespaces.as_ref().map(|made| made.inside(name)).unwrap_or_default(),
            binary: self.plan.binary.clone(),
            arguments,
            environment: self.shims.get(name).map(Shim::environment).unwrap_or_default(),
            log: self.folder.join(format!("{name}.log")),
        };
        let mut process = Process::new(launch);
        let started = process.restart().await;
        self.processes.insert(name.to_owned(), process);
        started
    }

    /// Where everything is.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// What was planned.
    pub fn plan(&self) -> &Plan {
        &self.plan
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

    /// Ends a fault: thaws and starts again who was under it.
    ///
    /// # Errors
    /// When the harness can't; a process that does not come back is a violation.
    pub async fn revive(&mut self, family: &str) -> Result<(), HarnessError> {
        for name in self.claims.of(family) {
            self.bring_back(&name).await?;
        }
        self.claims.release(family);
        Ok(())
    }

    /// Thaws a process, or starts it again.
    ///
    /// # Errors
    /// When the harness can't; a process that does not come back is a violation.
    pub async fn bring_back(&mut self, name: &str) -> Result<(), HarnessError> {
        let Some(process) = self.processes.get_mut(name) else { return Ok(()) };
        process.thaw()?;
        if let Some(what) = process.ended_by_itself() {
            self.violations.push(format!("{name}: {what}"));
        }
        let process = self.process(name);
        if process.runs() {
            return Ok(());
        }
        match process.restart().await {
            Ok(()) => Ok(()),
            Err(NotStarted::Failed(error)) => Err(error),
            Err(NotStarted::Ended(why)) => {
                self.violations.push(format!("{name} did not come back: {why}"));
                Ok(())
            }
        }
    }

    /// Something that must not be.
    pub fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    /// What must not be, since this was asked the last time: processes that ended by themselves included.
    pub fn violations(&mut self) -> Vec<String> {
        let ended = self.processes.iter_mut().filter_map(|(name, process)| Some((name, process.ended_by_itself()?)));
        let ended: Vec<String> = ended.map(|(name, what)| format!("{name}: {what}")).collect();
        self.violations.extend(ended);
        std::mem::take(&mut self.violations)
    }

    /// What is between processes.
    ///
    /// # Errors
    /// When there are no namespaces.
    pub fn network(&mut self) -> Result<&mut Namespaces, HarnessError> {
        self.namespaces.as_mut().ok_or_else(|| HarnessError("there are no network namespaces".to_owned()))
    }

    /// The disk of the node at a place.
    ///
    /// # Errors
    /// When it has none of its own.
    pub fn disk(&mut self, name: &str) -> Result<&mut Image, HarnessError> {
        self.images.get_mut(name).ok_or_else(|| HarnessError(format!("{name} has no disk of its own")))
    }

    /// What stands between a process and the C library. Clones command the same.
    ///
    /// # Errors
    /// When nothing does.
    pub fn shim(&self, name: &str) -> Result<Shim, HarnessError> {
        self.shims.get(name).cloned().ok_or_else(|| HarnessError(format!("nothing is preloaded into {name}")))
    }

    /// Things that go on for as long as a fault is up.
    pub fn tasks(&mut self) -> &mut JoinSet<()> {
        &mut self.tasks
    }

    /// Asks a process; `None` if there is no answer in time.
    pub async fn ask(
        &self,
        method: Method,
        name: &str,
        path: &str,
        body: &Value,
        within: Duration,
    ) -> Option<(u16, Value)> {
        let url = format!("{}{path}", self.addresses.place(name).api);
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let answer = self.http.request(method, &url, headers, body.into(), within).await.ok()?;
        Some((answer.status.as_u16(), serde_json::from_slice(&answer.body).unwrap_or_default()))
    }

    /// Waits until every process takes traffic.
    ///
    /// # Errors
    /// When one does not in time.
    pub async fn wait_ready(&self, within: Duration) -> Result<(), HarnessError> {
        let give_up = Instant::now() + within;
        for name in self.processes.keys() {
            loop {
                let answer = self.ask(Method::GET, name, "/readyz", &Value::Null, Duration::from_secs(1)).await;
                if answer.as_ref().is_some_and(|(status, _)| *status == 200) {
                    break;
                }
                if Instant::now() > give_up {
                    let said = answer.map_or("nothing".to_owned(), |(status, body)| format!("{status} {body}"));
                    return Err(HarnessError(format!("{name} was not ready within {within:?}: it answered {said}")));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Ends everything, waits until all processes are gone, and leaves what nodes had on their disks in the folder of the run.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn end(mut self) -> Result<(), HarnessError> {
        self.tasks.shutdown().await;
        // A process that waits for a disk that stands still can't be killed.
        for image in self.images.values_mut() {
            image.thaw()?;
        }
        for process in self.processes.values_mut() {
            process.kill().await?;
        }
        self.images.iter().try_for_each(|(name, image)| image.copy_to(&self.folder.join(name)))
    }
}
