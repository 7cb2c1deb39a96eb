//! The long-lived, multiplexed streams to gateways: one of a kind per gateway, opened by the first message.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::peer::{Answered, Broken, Calls, Sent};
use crate::wire::peer::{
    Deliver, Delivered, Delivery, GatewayAnswer, GatewayAsk, GatewayRequest, GatewayResponse, Hello, Purpose,
};

/// Longest wait for a gateway to be connected and to answer the hello: a frozen one takes connections and says nothing.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(700);

/// After a failure to connect, others are told so at once for this long instead of queueing up for the next attempt.
const FAILURE_REMEMBERED: Duration = Duration::from_millis(100);

/// Added to a message's own time before its gateway counts as silent: the way there and back.
const ANSWER_GRACE: Duration = Duration::from_millis(500);

/// The streams for messages.
pub type Links = Streams<Delivered>;

/// The streams for questions.
pub type Asks = Streams<GatewayResponse>;

/// Streams to gateways that are answered by `A`. Cheap to clone; clones share the streams.
#[derive(Debug)]
pub struct Streams<A> {
    hello: Arc<Hello>,
    slots: Arc<Mutex<Slots<A>>>,
}

/// The places of all gateways, by address.
type Slots<A> = HashMap<Arc<str>, Arc<Slot<A>>>;

impl<A> Clone for Streams<A> {
    fn clone(&self) -> Self {
        Self { hello: Arc::clone(&self.hello), slots: Arc::clone(&self.slots) }
    }
}

/// The place of one gateway's stream. Whoever needs a new one makes it; the others wait for the outcome.
#[derive(Debug)]
struct Slot<A>(tokio::sync::Mutex<State<A>>);

#[derive(Debug)]
enum State<A> {
    None,
    Open(Arc<Calls<A>>),
    FailedAt(Instant),
}

/// A message that is on its way.
#[derive(Debug)]
pub struct OnItsWay {
    link: Arc<Calls<Delivered>>,
    sent: Sent<Delivered>,
    within: Duration,
}

impl Links {
    /// For a process of `cluster` that calls itself `name` (`gateway gw-1`).
    pub fn new(cluster: &str, name: &str) -> Self {
        Self::with(Hello::new(cluster, name, Purpose::Link))
    }

    /// Sends a message to the gateway at `address`. Messages to one gateway leave in the order in which these calls are
    /// first polled. `None` when the gateway can't be reached: nothing was sent.
    pub async fn send(&self, address: &Arc<str>, delivery: Deliver) -> Option<OnItsWay> {
        let slot = self.slot(address);
        let mut state = slot.0.lock().await;
        let link = self.open(&mut state, address).await?;
        let within = Duration::from_millis(delivery.message.timeout_ms.into()) + ANSWER_GRACE;
        let sent = link.send(|id| Deliver { id, ..delivery }).await;
        // Held until here, so that none overtakes another.
        drop(state);
        Some(OnItsWay { link, sent, within })
    }
}

impl Asks {
    /// For a process of `cluster` that calls itself `name`.
    pub fn for_questions(cluster: &str, name: &str) -> Self {
        Self::with(Hello::new(cluster, name, Purpose::Ask))
    }

    /// Asks the gateway at `address`. `None` when it can't be reached, or does not answer in time; it may have done what it was
    /// asked for.
    pub async fn ask(&self, address: &Arc<str>, ask: GatewayAsk, within: Duration) -> Option<GatewayAnswer> {
        let asked = async {
            let slot = self.slot(address);
            let link = self.open(&mut *slot.0.lock().await, address).await?;
            let sent = link.send(|id| GatewayRequest { id, ask }).await;
            link.answer(sent, within).await.ok()
        };
        Some(tokio::time::timeout(within + ANSWER_GRACE, asked).await.ok()??.answer)
    }
}

impl<A: Answered> Streams<A> {
    fn with(hello: Hello) -> Self {
        Self { hello: Arc::new(hello), slots: Arc::default() }
    }

    /// The stream to a gateway, or a new one.
    async fn open(&self, state: &mut State<A>, address: &Arc<str>) -> Option<Arc<Calls<A>>> {
        match state {
            State::Open(link) if link.is_open() => return Some(Arc::clone(link)),
            State::FailedAt(at) if at.elapsed() < FAILURE_REMEMBERED => return None,
            _ => {}
        }
        let link = self.connect(address).await;
        *state = link.as_ref().map_or_else(|| State::FailedAt(Instant::now()), |link| State::Open(Arc::clone(link)));
        link
    }

    /// The place of a gateway. Places without a working stream are dropped on the way, so that gateways that are gone do not
    /// pile up.
    fn slot(&self, address: &Arc<str>) -> Arc<Slot<A>> {
        let mut slots = self.slots.lock().expect("no code panics while holding this lock");
        if let Some(slot) = slots.get(address) {
            return Arc::clone(slot);
        }
        slots.retain(|_, slot| {
            Arc::strong_count(slot) > 1 || slot.0.try_lock().is_ok_and(|s| matches!(&*s, State::Open(l) if l.is_open()))
        });
        let empty = || Arc::new(Slot(tokio::sync::Mutex::new(State::None)));
        Arc::clone(slots.entry(Arc::clone(address)).or_insert_with(empty))
    }

    async fn connect(&self, address: &Arc<str>) -> Option<Arc<Calls<A>>> {
        match tokio::time::timeout(CONNECT_TIMEOUT, Calls::connect(address, &self.hello)).await {
            Ok(Ok(link)) => return Some(Arc::new(link)),
            Ok(Err(error)) => tracing::debug!(gateway = %address, %error, "a gateway can't be reached"),
            Err(_) => tracing::debug!(gateway = %address, "a gateway takes a stream and does not answer"),
        }
        None
    }
}

impl OnItsWay {
    /// What became of the message. `None` when nothing is known: it may have been written.
    pub async fn outcome(self) -> Option<Delivery> {
        match self.link.answer(self.sent, self.within).await {
            Ok(delivered) => Some(delivered.delivery),
            Err(Broken) => None,
        }
    }
}
