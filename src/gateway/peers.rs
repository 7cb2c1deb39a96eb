//! The peer listener of a gateway: deliveries from other processes, and the answer to who runs here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::clients::Hub;
use super::delivery::Deliveries;
use super::questions;
use crate::net::framed::{self, FrameReader};
use crate::net::{Listener, Stream};
use crate::net::{ReadHalf, WriteHalf};
use crate::peer::{Greeted, Identity, greet};
use crate::push::Local;
use crate::wire::peer::{Deliver, Delivered, Purpose};

/// Answers that wait to be written; the rest waits in their futures.
pub(super) const WRITE_QUEUE: usize = 256;

/// A write that takes longer means that the other side does not read.
pub(super) const WRITE_STALL: Duration = Duration::from_secs(5);

/// Takes streams until `stop`.
pub(super) async fn listen(
    listener: Listener,
    me: Arc<Identity>,
    hub: Arc<Hub>,
    deliveries: Arc<Deliveries>,
    stop: CancellationToken,
) {
    let streams_max = hub.settings.peers.streams_max;
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = streams.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "the task of a peer stream broke");
                }
            }
            (stream, from) = listener.accept(), if streams.len() < streams_max => {
                let (me, hub, deliveries) = (Arc::clone(&me), Arc::clone(&hub), Arc::clone(&deliveries));
                streams.spawn(async move {
                    if let Err(error) = serve(stream, &me, &hub, &deliveries).await {
                        tracing::debug!(%from, %error, "a peer stream ended");
                    }
                });
            }
        }
    }
    streams.shutdown().await;
}

async fn serve(stream: Stream, me: &Identity, hub: &Hub, deliveries: &Deliveries) -> io::Result<()> {
    let limits = &hub.settings.peers;
    let refused = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    match greet(stream, me, None).await? {
        Greeted::Raft(_) => refused("a gateway takes no part in replication"),
        Greeted::Peer { hello, reader, writer } => match hello.purpose {
            Purpose::Link => serve_link(reader, writer, deliveries, limits.deliveries_max).await,
            Purpose::Ask => questions::serve(reader, writer, hub, limits.questions_max).await,
            // The answer to the hello was all that was wanted.
            Purpose::Identify => Ok(()),
            Purpose::Control | Purpose::Leases | Purpose::Watch(_) => {
                refused("a gateway does not answer for the directory")
            }
        },
    }
}

/// Deliveries enter the outboxes in the order in which they arrive; they are answered in any order.
async fn serve_link(
    mut reader: FrameReader<ReadHalf>,
    writer: WriteHalf,
    deliveries: &Deliveries,
    deliveries_max: usize,
) -> io::Result<()> {
    let (answers, mut queue) = mpsc::channel(WRITE_QUEUE);
    let read = async move {
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                delivery = reader.next::<Deliver>(), if open.len() < deliveries_max => {
                    let Some(delivery) = delivery? else { return Ok(()) };
                    let id = delivery.id;
                    let entered = deliveries.enter(delivery).await;
                    open.push(async move { Delivered { id, delivery: deliveries.outcome(entered).await } });
                }
                Some(delivered) = open.next() => {
                    if answers.send(framed::encode(&delivered)).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    };
    tokio::try_join!(read, framed::write_all(writer, &mut queue, WRITE_STALL)).map(|((), ())| ())
}
