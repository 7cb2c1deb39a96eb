//! Clients of the simulated cluster: users with WebSockets who come and go, and readers who ask the nodes.

use std::time::Duration;

use fastrand::Rng;
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use switchboard::client::{Directory, Settings};
use switchboard::directory::ConnectionId;
use switchboard::net;
use switchboard::wire::peer::{Answer, RequestBody, Who};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::book::Book;

/// Longest wait for an upgrade, and for a read.
const PATIENCE: Duration = Duration::from_secs(4);

/// Longest wait for a welcome: a newcomer may have to wait for the lease of another.
const WELCOME: Duration = Duration::from_secs(12);

type Socket = WebSocketStream<net::Stream>;

/// One person with a device.
pub(super) struct User {
    pub(super) name: String,
    pub(super) device: String,
    /// Where gateways take clients.
    pub(super) gateways: Vec<String>,
    pub(super) book: Book,
    pub(super) rng: Rng,
}

impl User {
    /// Connects, stays for a while and leaves, for ever.
    pub(super) async fn run(mut self) {
        loop {
            sleep(Duration::from_millis(self.rng.u64(20..2500))).await;
            let gateway = self.gateways[self.rng.usize(0..self.gateways.len())].clone();
            let stay = Duration::from_millis(self.rng.u64(50..6000));
            let polite = self.rng.bool();
            if let Some(mut socket) = open(&gateway, &self.name, &self.device).await {
                self.book.count("sockets");
                self.stay(&mut socket, stay).await;
                if polite {
                    let closing = async {
                        let _ = socket.close(None).await;
                        while let Some(Ok(_)) = socket.next().await {}
                    };
                    let _ = timeout(PATIENCE, closing).await;
                }
            }
        }
    }

    /// Reads what comes, for so long after the welcome.
    async fn stay(&mut self, socket: &mut Socket, stay: Duration) {
        let mut until = Instant::now() + WELCOME;
        let who = format!("{}/{}", self.name, self.device);
        while let Ok(Some(Ok(message))) = timeout_at(until, socket.next()).await {
            let Message::Text(text) = message else { continue };
            let Ok(frame) = serde_json::from_str::<Value>(text.as_str()) else { continue };
            match frame["type"].as_str() {
                Some("welcome") => {
                    until = Instant::now() + stay;
                    told(&self.book, &who, &frame);
                    self.book.count("welcomes");
                }
                Some("rebound") => {
                    told(&self.book, &who, &frame);
                    self.book.count("rebounds");
                }
                Some("goodbye") => self.book.note(format!("{who} is sent away with {}", frame["code"])),
                Some("ping") => {
                    let answered = socket.send(Message::text(r#"{"type":"pong"}"#)).await;
                    if answered.is_err() {
                        return;
                    }
                }
                _ => {}
            }
        }
    }
}

/// A frame says that a connection is there.
fn told(book: &Book, who: &str, frame: &Value) {
    let id = frame["connection"].as_str().and_then(|id| id.parse::<ConnectionId>().ok());
    let (granted, revision) = (frame["granted"].as_u64(), frame["revision"].as_u64());
    match (id, granted, revision) {
        (Some(id), Some(granted), Some(revision)) => book.pages().welcomed(who, id, granted, revision),
        _ => book.violate("frames are complete", format!("{who} got {frame}")),
    }
}

/// A WebSocket at a gateway; `None` if that takes too long or is refused.
pub(super) async fn open(gateway: &str, user: &str, device: &str) -> Option<Socket> {
    let opening = async {
        let stream = net::connect(gateway).await.ok()?;
        let url = format!("ws://{gateway}/ws?user={user}&device={device}");
        tokio_tungstenite::client_async(url, stream).await.ok().map(|(socket, _)| socket)
    };
    timeout(PATIENCE, opening).await.ok().flatten()
}

/// The welcome of a socket, if it comes in time.
pub(super) async fn welcome(socket: &mut Socket, within: Duration) -> bool {
    let waiting = async {
        while let Some(Ok(message)) = socket.next().await {
            let Message::Text(text) = message else { continue };
            if text.as_str().contains(r#""type":"welcome""#) {
                return true;
            }
        }
        false
    };
    timeout(within, waiting).await.unwrap_or(false)
}

/// Somebody who asks nodes where users are.
pub(super) struct Reader {
    /// One for each node.
    nodes: Vec<(String, Directory)>,
    users: Vec<String>,
    book: Book,
    rng: Rng,
}

impl Reader {
    pub(super) fn new(cluster: &str, nodes: &[(String, String)], users: &[String], book: Book, rng: Rng) -> Self {
        let nodes = nodes.iter().map(|(name, address)| {
            let settings =
                Settings { cluster: cluster.to_owned(), name: String::from("reader"), nodes: vec![address.clone()] };
            (name.clone(), Directory::new(settings))
        });
        Self { nodes: nodes.collect(), users: users.to_vec(), book, rng }
    }

    /// Reads for ever, in turn at every node.
    pub(super) async fn run(mut self) {
        loop {
            sleep(Duration::from_millis(self.rng.u64(5..150))).await;
            let node = self.rng.usize(0..self.nodes.len());
            let user = self.users[self.rng.usize(0..self.users.len())].clone();
            self.read(node, &user).await;
        }
    }

    /// One linearizable read; whether it was answered.
    pub(super) async fn read(&self, node: usize, user: &str) -> bool {
        let (name, directory) = &self.nodes[node];
        let floor = self.book.pages().acknowledged;
        let asked = directory.ask_once(RequestBody::Find(vec![Who::User(user.into())]));
        let Ok(Ok(Answer::Found(found))) = timeout(PATIENCE, asked).await else { return false };
        let connections = found.users.iter().flat_map(|user| &user.connections).map(|(id, _)| *id);
        let connections: Vec<ConnectionId> = connections.collect();
        self.book.count("reads");
        self.book.pages().read(name, floor, user, found.revision, &connections);
        true
    }

    pub(super) fn nodes(&self) -> usize {
        self.nodes.len()
    }
}
