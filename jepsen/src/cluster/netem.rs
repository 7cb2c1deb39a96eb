//! Packets that arrive late: they wait in a queue of the kernel until a thread lets them go.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nfq::{Message, Queue, Verdict};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::HarnessError;

/// How late.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Delay {
    /// At least.
    pub least: Duration,
    /// And up to so much more, by chance, each packet for itself.
    pub jitter: Duration,
}

/// Packets that wait at most; more are dropped by the kernel.
const WAITING_MAX: u32 = 16_384;

/// Bytes of each packet that are copied here, where nobody reads them.
const COPIED_BYTES: u16 = 64;

/// Between two looks at the queue.
const TICK: Duration = Duration::from_millis(1);

/// Delays what is queued in one namespace. When this is dropped, whatever waits is let go.
#[derive(Debug)]
pub(super) struct Netem {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Netem {
    /// Begins to read queue 0 of a namespace.
    pub(super) fn start(namespace: &str, delay: Delay) -> Result<Self, HarnessError> {
        let (stop, stopped) = channel();
        let (tell, told) = channel();
        let path = format!("/run/netns/{namespace}");
        let thread = std::thread::spawn(move || match open(&path) {
            Ok(queue) => {
                let _ = tell.send(Ok(()));
                hold(queue, delay, &stopped);
            }
            Err(error) => drop(tell.send(Err(HarnessError(format!("delaying packets in {path}: {error}"))))),
        });
        let ended = |_| HarnessError("the thread that delays packets ended".to_owned());
        told.recv().map_err(ended)??;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Netem {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A queue belongs to the namespace of the thread that opens it; this thread stays there.
fn open(namespace: &str) -> std::io::Result<Queue> {
    let namespace = File::open(namespace)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let mut queue = Queue::open()?;
    queue.bind(0)?;
    queue.set_copy_range(0, COPIED_BYTES)?;
    queue.set_queue_max_len(0, WAITING_MAX)?;
    queue.set_nonblocking(true);
    Ok(queue)
}

/// Lets packets go when they are due, until it is told to stop by the end of the other side.
fn hold(mut queue: Queue, delay: Delay, stopped: &Receiver<()>) {
    let mut rng = fastrand::Rng::new();
    let mut due: BinaryHeap<Reverse<(Instant, u64)>> = BinaryHeap::new();
    let mut waiting: BTreeMap<u64, Message> = BTreeMap::new();
    let mut next = 0;
    loop {
        loop {
            match queue.recv() {
                Ok(message) => {
                    let more = delay.jitter.mul_f64(rng.f64());
                    due.push(Reverse((Instant::now() + delay.least + more, next)));
                    waiting.insert(next, message);
                    next += 1;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // An overflow of the socket: those packets are lost, which may happen to packets.
                Err(_) => break,
            }
        }
        let stop = !matches!(stopped.recv_timeout(TICK), Err(RecvTimeoutError::Timeout));
        let now = Instant::now();
        while let Some(Reverse((at, _))) = due.peek()
            && (stop || *at <= now)
        {
            let Some(Reverse((_, nth))) = due.pop() else { break };
            if let Some(mut message) = waiting.remove(&nth) {
                message.set_verdict(Verdict::Accept);
                let _ = queue.verdict(message);
            }
        }
        if stop {
            return;
        }
    }
}
