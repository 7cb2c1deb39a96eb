//! A user moves from one gateway to another: how long until the newcomer is welcome, when only one of them may be served.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::floors::connect;
use super::processes::{Cluster, load};
use super::table::{Table, Target, Times};

/// Moves that are measured, and moves before that.
const MOVES: usize = 500;
const WARM_UP: usize = 20;

const PATIENCE: Duration = Duration::from_secs(10);

type Socket = WebSocketStream<tokio::net::TcpStream>;

pub(crate) async fn run(table: &mut Table) {
    let cluster = Cluster::start().await;
    let flags = ["--policy", "newest_wins"];
    let gateways = [cluster.gateway_with(1, "3s", &flags).await, cluster.gateway_with(2, "3s", &flags).await];
    let (mut fresh, mut moved, mut there) = (Times::default(), Times::default(), None);
    for n in 0..WARM_UP + MOVES {
        let clients = &gateways[n % 2].clients;
        let (_socket, first) = welcome(clients, &format!("fresh-{n}")).await;
        let (socket, took) = welcome(clients, "moves").await;
        if n >= WARM_UP {
            fresh.push(first);
            moved.push(took);
        }
        // The one before has been closed by its gateway.
        there = Some(socket);
    }
    drop(there);
    println!("  load {}", load());
    for (share, name) in [(0.5, "median"), (0.99, "p99")] {
        let (moved, fresh) = (moved.percentile_ms(share), fresh.percentile_ms(share));
        let beside = Some(("a user who was nowhere", fresh));
        table.line(&format!("take-over by another gateway, handover wait, {name}"), "ms", Target::None, moved, beside);
    }
}

/// Connects a user and waits for its welcome.
async fn welcome(clients: &str, user: &str) -> (Socket, Duration) {
    let began = Instant::now();
    let stream = connect(clients).await;
    let (mut socket, _) = client_async(format!("ws://{clients}/ws?user={user}"), stream).await.expect("an upgrade");
    let welcome = timeout(PATIENCE, async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) if text.contains("\"type\":\"welcome\"") => return,
                Some(Ok(_)) => {}
                other => panic!("{user} gets no welcome: {other:?}"),
            }
        }
    });
    welcome.await.expect("a welcome in time");
    (socket, began.elapsed())
}
