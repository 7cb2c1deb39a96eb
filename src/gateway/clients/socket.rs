//! The life of one client socket, in one task.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::frames::{self, Connect, Said};
use super::handle::{Handle, reason_of};
use super::hello::{identify, introduce};
use super::hub::Hub;
use super::outbox::{Burst, Farewell};
use super::rate::Rate;
use super::seats::Seat;
use super::wire::{Frames, Received, Wire, Wrong};
use crate::directory::Reason;
use crate::wire::client::{ServerFrame, push_frame};
use crate::wire::close::CloseCode;

/// Close code for the books where the client left without one.
const NO_CODE: u16 = 1006;

/// Close codes of RFC 6455 for what is not the protocol.
const PROTOCOL_ERROR: (u16, &str) = (1002, "protocol_error");
const INVALID_UTF8: (u16, &str) = (1007, "invalid_utf8");

/// A client that was let in.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) seat: Seat,
    pub(super) remote: Option<Arc<str>>,
    /// Who it is, if the upgrade told.
    pub(super) connect: Option<Connect>,
}

/// Why a socket ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The server closes it.
    Farewell(Farewell),
    /// The client did what the WebSocket protocol, or its limits here, do not allow.
    Wrong(Wrong),
    /// The client left, with this code if it said one.
    Gone(Option<u16>),
}

/// Serves one client until its socket is closed.
pub(super) async fn serve<S>(hub: Arc<Hub>, stream: S, arrival: Arrival)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let began = Instant::now();
    let limits = &hub.settings.clients;
    let mut wire = Wire::new(stream, limits).await;
    let mut rate = Rate::new(limits.messages_burst, hub.now_ms());
    let Arrival { seat, remote, connect } = arrival;
    // Boxed, so that what is needed at the start and at the end does not make every idle connection larger.
    let connect = match connect {
        Some(connect) => Ok(connect),
        None => Box::pin(introduce(&hub, &mut wire, &mut rate)).await,
    };
    let introduced = connect.and_then(|connect| {
        let who = identify(&connect, remote).map_err(End::Farewell)?;
        let handle = Arc::new(Handle::new(who, Arc::clone(&hub.common), hub.now_ms()));
        if hub.register(&handle) {
            Ok((handle, connect.refusal))
        } else {
            Err(End::Farewell(CloseCode::Overloaded.into()))
        }
    });
    let end = match introduced {
        Ok((handle, refusal)) => {
            hub.wheel.add(Arc::clone(&handle), hub.now_ms());
            let end = attend(&hub, &mut wire, &handle, rate, refusal, began).await;
            handle.finish();
            hub.unregister(handle, reason(&end)).await;
            end
        }
        Err(end) => {
            hub.meters.turned_away(turned_away(&end));
            end
        }
    };
    Box::pin(part(&hub, wire, end)).await;
    drop(seat);
}

/// Reads and writes until there is a reason to end.
async fn attend<S>(
    hub: &Hub,
    wire: &mut Wire<S>,
    handle: &Handle,
    mut rate: Rate,
    mut refusal: Option<String>,
    began: Instant,
) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stall = hub.settings.clients.write_stall;
    loop {
        let received = tokio::select! {
            received = wire.receive() => Some(received),
            () = handle.woken() => None,
        };
        let mut frames = Frames::default();
        let Some(received) = received else {
            let burst = handle.take();
            if let Some(farewell) = burst.farewell {
                if handle.bound().is_none() {
                    hub.meters.turned_away(farewell.code.reason());
                }
                return End::Farewell(farewell);
            }
            compose(hub, handle, &burst, &mut frames);
            if burst.announce.is_some_and(|announce| announce.first) {
                hub.meters.welcomed(began.elapsed());
                if let Some(refusal) = refusal.take() {
                    frames.text(&refusal);
                }
            }
            if wire.write(frames, stall).await.is_err() {
                // Some of it may have reached the client.
                burst.pushes.into_iter().for_each(super::outbox::Push::in_doubt);
                return End::Gone(None);
            }
            handle.written(burst.pushes);
            continue;
        };
        if let Err(end) = hear(hub, handle, &mut rate, received, &mut frames) {
            return end;
        }
        if wire.write(frames, stall).await.is_err() {
            return End::Gone(None);
        }
    }
}

/// Puts what waits for the client into frames.
fn compose(hub: &Hub, handle: &Handle, burst: &Burst, frames: &mut Frames) {
    if let Some(announce) = burst.announce {
        frames.text(&frames::text(&frames::announce(hub, &handle.who.user, handle.serial(), announce)));
    }
    if let Some(bound) = handle.bound() {
        for push in &burst.pushes {
            frames.text(&push_frame(push.seq, bound.granted, &push.tail));
        }
    }
    if burst.ping {
        frames.text(&frames::text(&ServerFrame::Ping));
    }
}

/// Takes what the client sent.
fn hear(hub: &Hub, handle: &Handle, rate: &mut Rate, received: Received, frames: &mut Frames) -> Result<(), End> {
    let limits = &hub.settings.clients;
    let text = match received {
        Received::Closed(code) => return Err(End::Gone(code)),
        Received::Wrong(wrong) => return Err(End::Wrong(wrong)),
        Received::Life => None,
        Received::Text(text) => Some(text),
    };
    let now_ms = hub.now_ms();
    handle.heard(now_ms);
    if !rate.take(limits.messages_per_second, limits.messages_burst, now_ms) {
        return Err(End::Farewell(CloseCode::RateLimited.into()));
    }
    match text.map_or(Said::Nothing, |text| frames::read(&text)) {
        Said::Nothing => {}
        Said::Ack(seq) => handle.acked(seq),
        Said::Answer(answer) => frames.text(&frames::text(&answer)),
        Said::Garbage => return Err(End::Farewell(CloseCode::BadProtocol.into())),
    }
    Ok(())
}

/// The last words, and the close of both sides. Bounded in time.
async fn part<S>(hub: &Hub, mut wire: Wire<S>, end: End)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let wait = hub.settings.clients.close_wait;
    let (code, reason, goodbye) = match last_words(&end) {
        Ok(words) => words,
        Err(code) => {
            hub.meters.disconnected(code.unwrap_or(NO_CODE));
            wire.answer_close(wait).await;
            return;
        }
    };
    hub.meters.disconnected(code);
    let mut frames = Frames::default();
    frames.text(&frames::text(&goodbye));
    frames.close(code, reason);
    if wire.write(frames, wait).await.is_ok() {
        wire.linger(wait).await;
    }
}

/// Close code, its word and the goodbye; the client's own code where it has left.
fn last_words(end: &End) -> Result<(u16, &'static str, ServerFrame), Option<u16>> {
    let farewell = match end {
        End::Gone(code) => return Err(*code),
        End::Farewell(farewell) => *farewell,
        End::Wrong(Wrong::TooLarge) => CloseCode::FrameTooLarge.into(),
        End::Wrong(Wrong::Binary) => CloseCode::BadProtocol.into(),
        End::Wrong(wrong @ (Wrong::Protocol | Wrong::Utf8)) => {
            let (code, word) = if *wrong == Wrong::Utf8 { INVALID_UTF8 } else { PROTOCOL_ERROR };
            let reason = word.to_owned();
            return Ok((
                code,
                word,
                ServerFrame::Goodbye { code, reason, reconnect: false, after_ms: 0, redirect: None },
            ));
        }
    };
    Ok((farewell.code.code(), farewell.code.reason(), frames::goodbye(&farewell)))
}

fn reason(end: &End) -> Reason {
    match end {
        End::Farewell(farewell) => reason_of(farewell.code),
        End::Wrong(_) | End::Gone(_) => Reason::Closed,
    }
}

fn turned_away(end: &End) -> &'static str {
    match end {
        End::Farewell(farewell) => farewell.code.reason(),
        End::Wrong(_) => "bad_protocol",
        End::Gone(_) => "left",
    }
}
