//! The long-lived, multiplexed streams to gateways: one per gateway, opened by the first message.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::peer::{Broken, Calls, Sent};
use crate::wire::peer::{Deliver, Delivered, Delivery, Hello, Purpose};

/// Longest wait for a gateway to be connected and to answer the hello: a frozen one takes connections and says nothing.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(700);

/// After a failure to connect, others are told so at once for this long instead of queueing up for the next attempt.
const FAILURE_REMEMBERED: Duration = Duration::from_millis(100);

/// Added to a message's own time before its gateway counts as silent: the way there and back.
const ANSWER_GRACE: Duration = Duration::from_millis(500);

type Link = Calls<Delivered>;

/// The streams to gateways. Cheap to clone; clones share the streams.
#[derive(Debug, Clone)]
pub struct Links {
    hello: Arc<Hello>,
    slots: Arc<Mutex<HashMap<Arc<str>, Arc<Slot>>>>,
}

/// The place of one gateway's link. Whoever needs a new link makes it; the others wait for the outcome.
#[derive(Debug, Default)]
struct Slot(tokio::sync::Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    None,
    Open(Arc<Link>),
    FailedAt(Instant),
}

/// A message that is on its way.
#[derive(Debug)]
pub struct OnItsWay {
    link: Arc<Link>,
    sent: Sent<Delivered>,
    within: Duration,
}

impl Links {
    /// For a process of `cluster` that calls itself `name` (`gateway gw-1`).
    pub fn new(cluster: &str, name: &str) -> Self {
        let hello = Hello::new(cluster, name, Purpose::Link);
        Self { hello: Arc::new(hello), slots: Arc::default() }
    }

    /// Sends a message to the gateway at `address`. Messages to one gateway leave in the order in which these calls are
    /// first polled. `None` when the gateway can't be reached: nothing was sent.
    pub async fn send(&self, address: &Arc<str>, delivery: Deliver) -> Option<OnItsWay> {
        let slot = self.slot(address);
        let mut state = slot.0.lock().await;
        let link = match &*state {
            State::Open(link) if link.is_open() => Arc::clone(link),
            State::FailedAt(at) if at.elapsed() < FAILURE_REMEMBERED => return None,
            _ => match self.connect(address).await {
                Some(link) => {
                    *state = State::Open(Arc::clone(&link));
                    link
                }
                None => {
                    *state = State::FailedAt(Instant::now());
                    return None;
                }
            },
        };
        let within = Duration::from_millis(delivery.message.timeout_ms.into()) + ANSWER_GRACE;
        let sent = link.send(|id| Deliver { id, ..delivery }).await;
        drop(state);
        Some(OnItsWay { link, sent, within })
    }

    /// The place of a gateway. Places without a working link are dropped on the way, so that gateways that are gone do not
    /// pile up.
    fn slot(&self, address: &Arc<str>) -> Arc<Slot> {
        let mut slots = self.slots.lock().expect("no code panics while holding this lock");
        if let Some(slot) = slots.get(address) {
            return Arc::clone(slot);
        }
        slots.retain(|_, slot| {
            Arc::strong_count(slot) > 1 || slot.0.try_lock().is_ok_and(|s| matches!(&*s, State::Open(l) if l.is_open()))
        });
        Arc::clone(slots.entry(Arc::clone(address)).or_default())
    }

    async fn connect(&self, address: &Arc<str>) -> Option<Arc<Link>> {
        match tokio::time::timeout(CONNECT_TIMEOUT, Calls::connect(address, &self.hello)).await {
            Ok(Ok(link)) => return Some(Arc::new(link)),
            Ok(Err(error)) => tracing::debug!(gateway = %address, %error, "a gateway can't be reached for a push"),
            Err(_) => tracing::debug!(gateway = %address, "a gateway does not answer a push link"),
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
