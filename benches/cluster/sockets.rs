//! Clients of a gateway: real WebSockets that only listen.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use super::floors::connect;

/// Longest wait for all clients to be welcome.
const WELCOME: Duration = Duration::from_secs(30);

/// Clients that are being welcomed at the same time.
const ARRIVING: usize = 64;

/// Open sockets. Dropping them closes all.
#[derive(Debug)]
pub(crate) struct Sockets {
    _tasks: JoinSet<()>,
}

impl Sockets {
    /// Connects one client per user and waits until all are registered. `heard` gets every text frame after that.
    pub(crate) async fn open<F>(clients: &str, users: Vec<String>, heard: F) -> Self
    where
        F: Fn(&str) + Clone + Send + 'static,
    {
        let (mut tasks, welcome, all) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)), users.len());
        let give_up = Instant::now() + WELCOME;
        for (n, user) in users.into_iter().enumerate() {
            while n - welcome.load(Ordering::Acquire) >= ARRIVING {
                assert!(Instant::now() < give_up, "the clients do not get their welcome");
                sleep(Duration::from_millis(1)).await;
            }
            tasks.spawn(listen(clients.to_owned(), user, Arc::clone(&welcome), heard.clone()));
        }
        while welcome.load(Ordering::Acquire) < all {
            assert!(Instant::now() < give_up, "the clients do not get their welcome");
            sleep(Duration::from_millis(1)).await;
        }
        Self { _tasks: tasks }
    }
}

async fn listen<F: Fn(&str)>(clients: String, user: String, welcome: Arc<AtomicUsize>, heard: F) {
    let stream = connect(&clients).await;
    let (mut socket, _) = client_async(format!("ws://{clients}/ws?user={user}"), stream).await.expect("an upgrade");
    let mut is_welcome = false;
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        if !is_welcome && text.contains("\"type\":\"welcome\"") {
            is_welcome = true;
            welcome.fetch_add(1, Ordering::Release);
        } else if text.contains("\"type\":\"ping\"") {
            // A gateway that is gone says so in the next read.
            let _ = socket.send(Message::text("{\"type\":\"pong\"}")).await;
        } else {
            heard(&text);
        }
    }
}
