//! Requests multiplexed over one stream: many under way, answers in any order.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::dial;
use crate::net::framed::{self, FrameReader};
use crate::net::{ReadHalf, WriteHalf};
use crate::wire::peer::{ClusterMark, Delivered, GatewayResponse, Hello, Response};

/// Requests that wait to be written: enough to fill a write, few enough to notice a stream that does not move.
const QUEUE: usize = 256;

/// A write that takes longer means that the other side does not read.
const WRITE_STALL: Duration = Duration::from_secs(5);

/// An answer that names its request.
pub trait Answered: DeserializeOwned + Send + 'static {
    /// The request's id.
    fn id(&self) -> u64;
}

impl Answered for Response {
    fn id(&self) -> u64 {
        self.id
    }
}

impl Answered for Delivered {
    fn id(&self) -> u64 {
        self.id
    }
}

impl Answered for GatewayResponse {
    fn id(&self) -> u64 {
        self.id
    }
}

/// The stream broke, or nothing came in time. Requests that were sent may have been carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

/// A stream for requests that are answered by `A`. Dropping it closes the stream.
#[derive(Debug)]
pub struct Calls<A> {
    shared: Arc<Shared<A>>,
    queue: mpsc::Sender<Bytes>,
    address: String,
    cluster: Option<ClusterMark>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared<A> {
    waiting: Mutex<HashMap<u64, oneshot::Sender<A>>>,
    next: AtomicU64,
    received: AtomicU64,
    broken: AtomicBool,
}

/// A request that was sent. Dropping it means that nobody waits for the answer.
#[derive(Debug)]
pub struct Sent<A> {
    answer: oneshot::Receiver<A>,
    received_before: u64,
    id: u64,
}

impl<A: Answered> Calls<A> {
    /// Connects.
    ///
    /// # Errors
    /// When the other side can't be reached or refuses.
    pub async fn connect(address: &str, hello: &Hello) -> io::Result<Self> {
        let dialed = dial(address, hello).await?;
        let (queue, writes) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            next: AtomicU64::new(1),
            received: AtomicU64::new(0),
            broken: AtomicBool::new(false),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(write(dialed.writer, writes, Arc::clone(&shared)));
        tasks.spawn(read(dialed.reader, Arc::clone(&shared)));
        Ok(Self { shared, queue, address: address.to_owned(), cluster: dialed.cluster, _tasks: tasks })
    }

    /// Of a directory node: whose state it had when the stream began.
    pub fn cluster(&self) -> Option<ClusterMark> {
        self.cluster
    }

    /// Whether the stream still works, as far as is known.
    pub fn is_open(&self) -> bool {
        !self.shared.broken.load(Ordering::Acquire)
    }

    /// Where it leads.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends the request that `body` makes of its id; it leaves after those that were sent before.
    pub async fn send<Q: Serialize>(&self, body: impl FnOnce(u64) -> Q) -> Sent<A> {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (tell, answer) = oneshot::channel();
        self.shared.waiting.lock().expect("no code panics while holding this lock").insert(id, tell);
        let received_before = self.shared.received.load(Ordering::Acquire);
        let queued = self.queue.send(framed::encode(&body(id))).await;
        if queued.is_err() || !self.is_open() {
            // The reader may have emptied the table before this request entered it.
            self.shared.give_up();
        }
        Sent { answer, received_before, id }
    }

    /// The answer. A stream on which nothing at all arrives in that time is given up: a cut one never says so by itself.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn answer(&self, sent: Sent<A>, within: Duration) -> Result<A, Broken> {
        match tokio::time::timeout(within, sent.answer).await {
            Ok(answer) => answer.map_err(|_| Broken),
            Err(_) => {
                self.shared.waiting.lock().expect("no code panics while holding this lock").remove(&sent.id);
                if self.shared.received.load(Ordering::Acquire) == sent.received_before {
                    self.shared.give_up();
                }
                Err(Broken)
            }
        }
    }
}

impl<A> Shared<A> {
    /// Nobody is left waiting: dropping the senders tells them.
    fn give_up(&self) {
        self.broken.store(true, Ordering::Release);
        self.waiting.lock().expect("no code panics while holding this lock").clear();
    }
}

async fn write<A>(to: WriteHalf, mut queue: mpsc::Receiver<Bytes>, shared: Arc<Shared<A>>) {
    if let Err(error) = framed::write_all(to, &mut queue, WRITE_STALL).await {
        tracing::debug!(%error, "a stream of requests broke while writing");
    }
    shared.give_up();
}

async fn read<A: Answered>(mut from: FrameReader<ReadHalf>, shared: Arc<Shared<A>>) {
    loop {
        match from.next::<A>().await {
            Ok(Some(answer)) => {
                shared.received.fetch_add(1, Ordering::Release);
                let id = answer.id();
                let teller = shared.waiting.lock().expect("no code panics while holding this lock").remove(&id);
                if let Some(teller) = teller {
                    // Whoever asked may have stopped waiting.
                    let _ = teller.send(answer);
                }
            }
            Ok(None) => break,
            Err(error) => {
                tracing::debug!(%error, "a stream of requests broke while reading");
                break;
            }
        }
    }
    shared.give_up();
}
