//! The connecting side of one connection.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{FutureExt, SinkExt, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::frame::{self, Greeting, Hello, PREAMBLE, Purpose, Refusal, Wire};
use crate::compaction::Behind;
use crate::entry::Seat;
use crate::settings::{Addresses, Formats, Limits, NodeId};
use crate::short::Shortage;
use crate::stream::Connect;

/// Who this member is, for everything that connects.
pub(crate) struct Local {
    pub(crate) cluster: String,
    pub(crate) id: NodeId,
    pub(crate) nonce: u64,
    /// Names this run of the process; drawn anew for every start.
    pub(crate) process: u64,
    pub(crate) advertise: Addresses,
    pub(crate) heartbeat: Duration,
    pub(crate) formats: Formats,
    pub(crate) limits: Limits,
    pub(crate) connect: Arc<dyn Connect>,
    pub(crate) shortage: Arc<Shortage>,
    pub(crate) behind: Behind,
    /// Whether a member said that this one was removed, which is for ever.
    pub(crate) removed: watch::Sender<bool>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("node {to} at {address:?} can't be reached: {source}")]
    Unreachable { to: NodeId, address: String, source: io::Error },
    #[error("node {to} at {address:?} refuses this connection: {refusal}")]
    Refused { to: NodeId, address: String, refusal: Refusal },
}

/// A greeted connection.
pub(crate) struct Link {
    pub(crate) wire: Wire,
    /// The number of the next request.
    pub(crate) next: u64,
    /// Since when an answer is outstanding and nothing has come.
    pub(crate) silent_since: Option<Instant>,
}

impl Link {
    /// Connects and greets. A seat without a nonce is fit for questions of founding only.
    pub(crate) async fn open(local: &Local, to: NodeId, seat: &Seat, purpose: Purpose) -> Result<Link, LinkError> {
        let address = &seat.addresses.peer;
        let greeted = timeout(local.limits.connect_within, Link::greet(local, to, seat, purpose));
        let unreachable = |source| LinkError::Unreachable { to, address: address.clone(), source };
        let refused = |refusal| LinkError::Refused { to, address: address.clone(), refusal };
        match greeted.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(unreachable)? {
            (Greeting::Welcome { version }, mut wire) => {
                frame::common_version((version, version)).map_err(refused)?;
                frame::allow_large(&mut wire, &local.limits);
                Ok(Link { wire, next: 1, silent_since: None })
            }
            (Greeting::Refused(refusal), _) => {
                if refusal == Refusal::Removed(local.id) {
                    local.removed.send_replace(true);
                }
                Err(refused(refusal))
            }
        }
    }

    async fn greet(local: &Local, to: NodeId, seat: &Seat, purpose: Purpose) -> io::Result<(Greeting, Wire)> {
        let mut stream = local.connect.connect(&seat.addresses.peer).await?;
        stream.write_all(PREAMBLE).await?;
        let mut wire = frame::framed(stream);
        let hello = Hello {
            cluster: local.cluster.clone(),
            from: local.id,
            from_nonce: local.nonce,
            to,
            to_nonce: seat.nonce,
            purpose,
            speaks: frame::SPEAKS,
            formats: local.formats,
        };
        wire.send(hello.encode()).await?;
        let greeting = wire.next().await.ok_or(io::ErrorKind::UnexpectedEof)??;
        Ok((frame::decode(&greeting)?, wire))
    }

    /// Whether the other side has not closed it, and did not leave an answer open for `within`. Answers that nobody
    /// waits for any more are dropped on the way.
    pub(crate) fn is_open(&mut self, within: Duration) -> bool {
        loop {
            match self.wire.next().now_or_never() {
                None => return self.silent_since.is_none_or(|since| since.elapsed() < within),
                Some(Some(Ok(_stale))) => self.silent_since = None,
                Some(Some(Err(_)) | None) => return false,
            }
        }
    }

    /// Asks and waits for the answer. Dropping the future is safe: a late answer is recognised by its number.
    pub(crate) async fn call<A: DeserializeOwned>(&mut self, ask: &impl Serialize) -> io::Result<A> {
        let number = self.next;
        self.next += 1;
        self.wire.send(frame::encode(&(number, ask))?).await?;
        loop {
            let frame = self.wire.next().await.ok_or(io::ErrorKind::UnexpectedEof)??;
            let (answered, rest) = postcard::take_from_bytes::<u64>(&frame).map_err(io::Error::other)?;
            if answered == number {
                return frame::decode(rest);
            }
        }
    }
}

type Line = Arc<tokio::sync::Mutex<Option<Link>>>;

/// Connections that are kept from one call to the next: one line for each member, directory and purpose.
#[derive(Default)]
pub(crate) struct Lines {
    lines: Mutex<HashMap<(NodeId, u64, String, Purpose), Line>>,
}

impl Lines {
    fn line(&self, to: NodeId, seat: &Seat, purpose: Purpose) -> Line {
        let mut lines = self.lines.lock().expect("nothing panics while it holds the lines");
        lines.entry((to, seat.nonce, seat.addresses.peer.clone(), purpose)).or_default().clone()
    }

    /// Asks a member, on a kept connection or a new one. Whatever fails or takes too long ends the connection.
    pub(crate) async fn call<A: DeserializeOwned>(
        &self,
        local: &Local,
        (to, seat): (NodeId, &Seat),
        purpose: Purpose,
        ask: &impl Serialize,
        within: Duration,
    ) -> Result<A, LinkError> {
        let line = self.line(to, seat, purpose);
        let unreachable = |source| LinkError::Unreachable { to, address: seat.addresses.peer.clone(), source };
        let asked = timeout(within, async {
            let mut kept = line.lock().await;
            // Taken out, so that a call that is dropped half-way does not leave a connection of unknown state.
            let mut link = match kept.take().and_then(|mut link| link.is_open(within).then_some(link)) {
                Some(link) => link,
                None => Link::open(local, to, seat, purpose).await?,
            };
            let answer = link.call(ask).await.map_err(unreachable)?;
            *kept = Some(link);
            Ok(answer)
        });
        asked.await.unwrap_or_else(|_| Err(unreachable(io::ErrorKind::TimedOut.into())))
    }
}
