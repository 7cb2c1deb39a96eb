//! A cluster in one process, on loopback sockets, with words for what is done to it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};
use switchboard_raft::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::register::{Registers, set};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until something holds; fails with its name when it takes too long.
pub(crate) async fn until<T>(what: &str, mut holds: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = holds() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The network between the nodes: names, and cuts.
#[derive(Default)]
pub(crate) struct Network {
    places: Mutex<HashMap<String, SocketAddr>>,
    cuts: RwLock<HashSet<(u64, String)>>,
    /// Streams to a node that are reset after so many bytes: the first one that gets so far, then the next.
    breaks: Mutex<HashMap<String, VecDeque<usize>>>,
    /// Nodes that are reached slowly: bytes a millisecond.
    slow: RwLock<HashMap<String, usize>>,
}

impl Network {
    fn is_cut(&self, from: u64, to: &str) -> bool {
        self.cuts.read().unwrap().contains(&(from, to.to_owned()))
    }

    /// Cuts a node off without a word: open connections fall silent for good, new ones are never made.
    pub(crate) fn isolate(&self, id: u64, others: impl IntoIterator<Item = u64>) {
        let mut cuts = self.cuts.write().unwrap();
        for other in others {
            cuts.insert((id, name(other)));
            cuts.insert((other, name(id)));
        }
    }

    /// Resets streams to a node after so many bytes, one after the other.
    pub(crate) fn break_streams(&self, to: u64, after: impl IntoIterator<Item = usize>) {
        self.breaks.lock().unwrap().entry(name(to)).or_default().extend(after);
    }

    /// How many streams to a node are still to be reset.
    pub(crate) fn breaks_left(&self, to: u64) -> usize {
        self.breaks.lock().unwrap().get(&name(to)).map_or(0, VecDeque::len)
    }

    fn breaks(&self, to: &str, sent: usize) -> bool {
        let mut breaks = self.breaks.lock().unwrap();
        let due = breaks.get_mut(to).filter(|of_node| of_node.front().is_some_and(|after| sent >= *after));
        due.and_then(VecDeque::pop_front).is_some()
    }

    /// From now on a node is reached with so many bytes a millisecond; 0: as before.
    pub(crate) fn slow_down(&self, to: u64, bytes_per_ms: usize) {
        let mut slow = self.slow.write().unwrap();
        match bytes_per_ms {
            0 => drop(slow.remove(&name(to))),
            rate => drop(slow.insert(name(to), rate)),
        }
    }

    pub(crate) fn heal(&self) {
        self.cuts.write().unwrap().clear();
    }
}

pub(crate) fn name(id: u64) -> String {
    format!("node-{id}")
}

pub(crate) fn addresses(id: u64) -> Addresses {
    Addresses { peer: name(id), api: format!("api-{id}") }
}

pub(crate) struct Dialer {
    pub(crate) network: Arc<Network>,
    pub(crate) from: u64,
}

impl Connect for Dialer {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            if self.network.is_cut(self.from, address) {
                std::future::pending::<()>().await;
            }
            let place = self.network.places.lock().unwrap().get(address).copied();
            let stream = TcpStream::connect(place.ok_or(io::ErrorKind::ConnectionRefused)?).await?;
            stream.set_nodelay(true)?;
            let link = (self.from, address.to_owned());
            let stream = Cuttable { stream, network: self.network.clone(), link, dead: false, sent: 0, pause: None };
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

/// A stream that falls silent when its link is cut, and stays so.
struct Cuttable {
    stream: TcpStream,
    network: Arc<Network>,
    link: (u64, String),
    dead: bool,
    sent: usize,
    /// Of a slow link: until it takes more.
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Cuttable {
    fn is_dead(&mut self) -> bool {
        self.dead |= self.network.cuts.read().unwrap().contains(&self.link);
        self.dead
    }
}

impl AsyncRead for Cuttable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_dead() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Cuttable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_dead() {
            return Poll::Ready(Ok(buf.len()));
        }
        if self.network.breaks(&self.link.1, self.sent) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let rate = self.network.slow.read().unwrap().get(&self.link.1).copied();
        let Some(rate) = rate else {
            let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
            self.sent += written;
            return Poll::Ready(Ok(written));
        };
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(cx));
        }
        let part = &buf[..buf.len().min(rate * 4)];
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, part))?;
        self.sent += written;
        let millis = (written / rate).max(1) as u64;
        self.pause = Some(Box::pin(tokio::time::sleep(Duration::from_millis(millis))));
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

pub(crate) struct Node {
    pub(crate) raft: Raft,
    pub(crate) machine: Arc<Registers>,
    pub(crate) place: SocketAddr,
    listener: JoinHandle<()>,
}

pub(crate) struct Cluster {
    pub(crate) network: Arc<Network>,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) nodes: BTreeMap<u64, Node>,
    pub(crate) founders: BTreeMap<u64, Addresses>,
    pub(crate) limits: Limits,
    pub(crate) engine: LogEngine,
}

impl Cluster {
    /// A cluster of which nothing runs yet.
    pub(crate) fn new(founders: impl IntoIterator<Item = u64>) -> Cluster {
        // `RAFT_TEST_LOG=info` shows what the nodes say.
        if let Ok(filter) = std::env::var("RAFT_TEST_LOG") {
            let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).try_init();
        }
        Cluster {
            network: Arc::default(),
            dir: tempfile::tempdir().unwrap(),
            nodes: BTreeMap::new(),
            founders: founders.into_iter().map(|id| (id, addresses(id))).collect(),
            limits: Limits::default(),
            engine: LogEngine::default(),
        }
    }

    /// Three nodes with a leader.
    pub(crate) async fn of_three() -> Cluster {
        let mut cluster = Cluster::new(1..=3);
        cluster.start_all().await;
        cluster.leader().await;
        cluster
    }

    pub(crate) fn data_dir(&self, id: u64) -> PathBuf {
        self.dir.path().join(name(id))
    }

    pub(crate) fn settings(&self, id: u64) -> Settings {
        let mut settings = Settings::new(id, "test", self.data_dir(id), RandomState::new().hash_one(id));
        // Whoever is no founder waits to be added.
        settings.join = !self.founders.contains_key(&id);
        settings.founders = if settings.join { BTreeMap::new() } else { self.founders.clone() };
        settings.advertise = addresses(id);
        settings.limits = self.limits.clone();
        settings.engine = self.engine;
        settings
    }

    pub(crate) async fn start(&mut self, id: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.start_with(self.settings(id)).await {
                // A process that another test is just starting holds a copy of every lock until it is one of its own.
                Err(StartError::InUse(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                started => return started.unwrap(),
            }
        }
    }

    pub(crate) async fn start_all(&mut self) {
        for id in self.founders.keys().copied().collect::<Vec<_>>() {
            self.start(id).await;
        }
    }

    pub(crate) async fn start_with(&mut self, settings: Settings) -> Result<(), StartError> {
        let id = settings.id;
        let machine = Arc::new(Registers::default());
        let dialer = Arc::new(Dialer { network: self.network.clone(), from: id });
        let raft = Raft::start(settings, machine.clone(), dialer).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = listener.local_addr().unwrap();
        self.network.places.lock().unwrap().insert(name(id), place);
        let listener = tokio::spawn(listen(listener, raft.clone()));
        self.nodes.insert(id, Node { raft, machine, place, listener });
        Ok(())
    }

    /// Stops a node; its directory can be used again.
    pub(crate) async fn stop(&mut self, id: u64) {
        let node = self.nodes.remove(&id).unwrap();
        self.network.places.lock().unwrap().remove(&name(id));
        node.listener.abort();
        node.raft.shutdown().await;
    }

    pub(crate) async fn stop_all(&mut self) {
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.stop(id).await;
        }
    }

    pub(crate) fn raft(&self, id: u64) -> Raft {
        self.nodes[&id].raft.clone()
    }

    pub(crate) fn machine(&self, id: u64) -> &Registers {
        &self.nodes[&id].machine
    }

    /// The node that holds a leadership, once one does.
    pub(crate) async fn leader(&self) -> u64 {
        self.leader_among(&self.nodes.keys().copied().collect::<Vec<_>>()).await
    }

    pub(crate) async fn leader_among(&self, ids: &[u64]) -> u64 {
        let leads = |id: &&u64| self.nodes[*id].raft.leadership().borrow().is_some();
        until("a node leads", || ids.iter().filter(leads).max_by_key(|id| self.raft(**id).status().term).copied()).await
    }

    /// Sets a register, on whichever node leads by then.
    pub(crate) async fn set(&self, name: &str, value: &str) -> Proposed {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leader = self.leader().await;
            match self.nodes[&leader].raft.propose(set(name, value)).await {
                Ok(proposed) => return proposed,
                Err(e) => assert!(Instant::now() < deadline, "can't propose: {e}"),
            }
        }
    }

    /// Sets so many registers of this size, several at a time, and goes round after `wrap` of them. The last index.
    pub(crate) async fn fill(&self, count: usize, size: usize, wrap: usize) -> u64 {
        let mut last = 0;
        let value = "x".repeat(size);
        for from in (0..count).step_by(100) {
            let names = (from..count.min(from + 100)).map(|i| format!("f{}", i % wrap));
            let value = &value;
            let set = join_all(names.map(|name| async move { self.set(&name, value).await.index })).await;
            last = set.into_iter().max().unwrap_or(last).max(last);
        }
        last
    }

    /// Bytes of everything in the data directory of a node.
    pub(crate) fn bytes_on_disk(&self, id: u64) -> u64 {
        let folders = ["log", "snapshots"].map(|folder| self.data_dir(id).join(folder));
        // A file may be gone by the time it is looked at.
        let files = folders.into_iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
        files.map(|file| file.unwrap().metadata().map_or(0, |found| found.len())).sum()
    }

    /// The files that a node has in its folder of snapshots.
    pub(crate) fn snapshot_files(&self, id: u64) -> Vec<String> {
        let files = std::fs::read_dir(self.data_dir(id).join("snapshots")).unwrap();
        files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Asks whoever leads, until the answer is that of a leader.
    pub(crate) async fn change<T, F>(&self, change: impl Fn(Raft) -> F) -> Result<T, ChangeError>
    where
        F: Future<Output = Result<T, ChangeError>>,
    {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leader = self.leader().await;
            match change(self.raft(leader)).await {
                Err(
                    ChangeError::NotLeader { .. } | ChangeError::NoQuorum | ChangeError::Unknown | ChangeError::Busy,
                ) if Instant::now() < deadline => {}
                outcome => return outcome,
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Starts a node that joins, and adds it as a learner.
    pub(crate) async fn join(&mut self, id: u64) {
        self.start(id).await;
        self.change(|raft| async move { raft.add_learner(id, &name(id)).await }).await.unwrap();
    }

    pub(crate) async fn promote(&self, id: u64) {
        self.change(|raft| async move { raft.promote(id).await }).await.unwrap();
    }

    pub(crate) async fn remove(&self, id: u64) {
        self.change(|raft| async move { raft.remove(id).await }).await.unwrap();
    }

    /// Waits until a node has applied an index.
    pub(crate) async fn reaches(&self, id: u64, index: u64) {
        self.nodes[&id].raft.wait_applied(index, PATIENCE).await.unwrap();
    }

    pub(crate) fn log_bytes_on_disk(&self, id: u64) -> u64 {
        let files = std::fs::read_dir(self.data_dir(id).join("log")).unwrap();
        // A file that is being purged may be gone by the time it is looked at.
        files.map(|file| file.unwrap().metadata().map_or(0, |found| found.len())).sum()
    }
}

async fn listen(listener: TcpListener, raft: Raft) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let raft = raft.clone();
        tokio::spawn(async move {
            let mut preamble = [0; 5];
            stream.set_nodelay(true).unwrap();
            if stream.read_exact(&mut preamble).await.is_ok() && &preamble == PREAMBLE {
                raft.accept(Box::new(stream));
            }
        });
    }
}

/// Copies a directory with everything below it, or a file.
pub(crate) fn copy_all(from: &Path, to: &Path) {
    if !from.is_dir() {
        std::fs::copy(from, to).unwrap();
        return;
    }
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        copy_all(&entry.path(), &to.join(entry.file_name()));
    }
}
