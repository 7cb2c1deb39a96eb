//! One control stream to one directory node: many requests under way, answers in any order.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::net::framed::{self, FrameReader};
use crate::peer;
use crate::wire::peer::{Answer, Failure, Hello, Request, RequestBody, Response};

/// Requests that wait to be written: enough to fill a write, few enough to notice a stream that does not move.
const QUEUE: usize = 256;

/// A write that takes longer means that the node does not read.
const WRITE_STALL: Duration = Duration::from_secs(5);

type Waiting = Mutex<HashMap<u64, oneshot::Sender<Result<Answer, Failure>>>>;

/// A control stream. Dropping it closes the stream; whoever still waits is told that the outcome is not known.
#[derive(Debug)]
pub(super) struct Control {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Bytes>,
    address: String,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Waiting,
    next: AtomicU64,
    received: AtomicU64,
    broken: AtomicBool,
}

/// A request that was sent.
#[derive(Debug)]
pub(super) struct Sent {
    answer: oneshot::Receiver<Result<Answer, Failure>>,
    received_before: u64,
}

impl Control {
    /// Connects to a node.
    pub(super) async fn connect(address: &str, hello: &Hello) -> io::Result<Self> {
        let dialed = peer::dial(address, hello).await?;
        let (queue, waiting_writes) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(write(dialed.writer, waiting_writes, Arc::clone(&shared)));
        tasks.spawn(read(dialed.reader, Arc::clone(&shared)));
        Ok(Self { shared, queue, address: address.to_owned(), _tasks: tasks })
    }

    /// Whether the stream still works, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        !self.shared.broken.load(Ordering::Acquire)
    }

    /// Where it leads.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Sends a request; it leaves after those that were sent before.
    pub(super) async fn send(&self, body: RequestBody) -> Result<Sent, Failure> {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (tell, answer) = oneshot::channel();
        self.shared.waiting.lock().expect("no code panics while holding this lock").insert(id, tell);
        let received_before = self.shared.received.load(Ordering::Acquire);
        let frame = framed::encode(&Request { id, body });
        let sent = self.queue.send(frame).await;
        if sent.is_err() || !self.is_open() {
            // Nobody may be left who would answer; what was queued may still have left before the stream broke.
            self.shared.fail_all();
        }
        Ok(Sent { answer, received_before })
    }

    /// The answer, or that the outcome is not known when there is none in time. A stream on which nothing at all has
    /// arrived meanwhile is given up: a cut one never says so by itself.
    pub(super) async fn answer(&self, sent: Sent, within: Duration) -> Result<Answer, Failure> {
        match tokio::time::timeout(within, sent.answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Failure::Unknown),
            Err(_) => {
                if self.shared.received.load(Ordering::Acquire) == sent.received_before {
                    self.shared.fail_all();
                }
                Err(Failure::Unknown)
            }
        }
    }
}

impl Shared {
    fn fail_all(&self) {
        self.broken.store(true, Ordering::Release);
        self.waiting.lock().expect("no code panics while holding this lock").clear();
    }
}

async fn write(to: OwnedWriteHalf, mut queue: mpsc::Receiver<Bytes>, shared: Arc<Shared>) {
    if let Err(error) = framed::write_all(to, &mut queue, WRITE_STALL).await {
        tracing::debug!(%error, "a control stream broke while writing");
    }
    shared.fail_all();
}

async fn read(mut from: FrameReader<OwnedReadHalf>, shared: Arc<Shared>) {
    loop {
        match from.next::<Response>().await {
            Ok(Some(response)) => {
                shared.received.fetch_add(1, Ordering::Release);
                let teller =
                    shared.waiting.lock().expect("no code panics while holding this lock").remove(&response.id);
                if let Some(teller) = teller {
                    // Whoever asked may have stopped waiting.
                    let _ = teller.send(response.result);
                }
            }
            Ok(None) => break,
            Err(error) => {
                tracing::debug!(%error, "a control stream broke while reading");
                break;
            }
        }
    }
    shared.fail_all();
}
