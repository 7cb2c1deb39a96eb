//! The life of one client socket, in one task.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::credentials::{self, Refresh};
use super::farewell::Farewell;
use super::frames::{self, Connect, Said};
use super::handle::{Handle, reason_of};
use super::hello::{identify, introduce};
use super::hub::Hub;
use super::outbox::{Burst, Push};
use super::rate::Rate;
use super::seats::Seat;
use super::subscribe;
use super::wire::{Frames, Received, Wire, Wrong};
use crate::directory::Reason;
use crate::view::View;
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The server closes it.
    Farewell(Farewell),
    /// The server closes it in the middle of a frame that the client does not take.
    Cut(CloseCode),
    /// The client did what the WebSocket protocol, or its limits here, do not allow.
    Wrong(Wrong),
    /// The client left, with this code if it said one.
    Gone(Option<u16>),
}

/// Serves one client until its socket is closed.
pub(super) async fn serve<S>(hub: Arc<Hub>, stream: S, arrival: Box<Arrival>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let began = Instant::now();
    let limits = &hub.settings.clients;
    let mut wire = Wire::new(stream, limits).await;
    let mut rate = Rate::new(limits.messages_burst, hub.now_ms());
    // Boxed, as is the end: what is needed only then must not make every idle connection larger.
    let (seat, introduced) = Box::pin(enter(&hub, &mut wire, &mut rate, arrival)).await;
    match introduced {
        Ok((handle, refusal)) => {
            hub.wheel.add(Arc::clone(&handle), hub.now_ms());
            let end = attend(&hub, &mut wire, &handle, rate, refusal, began).await;
            if handle.bound().is_none() && matches!(end, End::Farewell(_) | End::Cut(_)) {
                hub.meters.turned_away(turned_away(&end));
            }
            handle.finish();
            let forgotten = hub.unregister(handle, reason(&end)).await;
            Box::pin(part(&hub, &mut wire, end, Some(forgotten))).await;
        }
        Err(end) => {
            hub.meters.turned_away(turned_away(&end));
            Box::pin(part(&hub, &mut wire, end, None)).await;
        }
    }
    drop(seat);
}

/// Learns who the client is and asks for its registration. With it comes what of its wishes is refused.
async fn enter<S>(
    hub: &Arc<Hub>,
    wire: &mut Wire<S>,
    rate: &mut Rate,
    arrival: Box<Arrival>,
) -> (Seat, Result<(Arc<Handle>, Option<String>), End>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let Arrival { seat, remote, connect } = *arrival;
    let connect = match connect {
        Some(connect) => Ok(connect),
        None => introduce(hub, wire, rate).await,
    };
    let connect = match connect {
        Ok(connect) => {
            credentials::vouch(hub, connect).await.map_err(|refused| credentials::turned_away(hub, &refused))
        }
        Err(end) => return (seat, Err(end)),
    };
    let introduced = connect.map_err(End::Farewell).and_then(|connect| {
        let who = identify(&connect, remote).map_err(End::Farewell)?;
        let handle = Handle::new(who, Arc::clone(&hub.common), hub.now_ms());
        let handle = Arc::new(match &connect.grant {
            Some(grant) => handle.granted_by(grant),
            None => handle,
        });
        let overloaded = || End::Farewell(CloseCode::Overloaded.into());
        let topics = subscribe::brought(&handle, connect.id, connect.topics);
        hub.register(&handle, topics).then_some((handle, connect.refusal)).ok_or_else(overloaded)
    });
    (seat, introduced)
}

/// Runs a future only while the client may be served. That is looked at each time, right before anything is read or written,
/// so that nothing happens after a stall that is no longer allowed. When it is allowed again the handle is woken, which is
/// waited for beside this.
fn served<F: Future>(handle: &Handle, mut work: Pin<&mut F>) -> impl Future<Output = F::Output> {
    poll_fn(move |context| if handle.may_serve() { work.as_mut().poll(context) } else { Poll::Pending })
}

/// Reads and writes until there is a reason to end.
async fn attend<S>(
    hub: &Arc<Hub>,
    wire: &mut Wire<S>,
    handle: &Arc<Handle>,
    mut rate: Rate,
    mut refusal: Option<String>,
    began: Instant,
) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let received = {
            let receiving = pin!(wire.receive());
            tokio::select! {
                received = served(handle, receiving) => Some(received),
                () = handle.woken() => None,
            }
        };
        let mut frames = Frames::default();
        let Some(received) = received else {
            let mut burst = handle.take();
            if let Some(farewell) = burst.farewell {
                return End::Farewell(farewell);
            }
            if let Some(revision) = burst.confirms() {
                // So that a push through this gateway that follows the welcome, or the subscription, finds the connection. A
                // replica that lags does not hold the client up: the resolve rule then finds it all the same, or the caller
                // names a revision.
                let _ = hub.replica.reach(revision, hub.settings.clients.welcome_wait).await;
            }
            if burst.announce.is_some() {
                hub.table.subscriptions().renamed(handle.serial());
            }
            compose(hub, handle, &mut burst, &mut frames);
            if burst.announce.is_some_and(|announce| announce.first) {
                hub.meters.welcomed(began.elapsed());
                if let Some(refusal) = refusal.take() {
                    frames.text(&refusal);
                }
            }
            if let Err(end) = write(hub, wire, handle, frames).await {
                if !matches!(end, End::Farewell(_)) {
                    // Some of it may have reached the client.
                    burst.pushes.into_iter().for_each(Push::in_doubt);
                }
                return end;
            }
            handle.written(burst.pushes);
            continue;
        };
        match hear(hub, handle, &mut rate, received, &mut frames) {
            Ok(None) => {}
            Ok(Some(refresh)) => {
                // Boxed, because it is rare.
                let answer = Box::pin(credentials::refresh(hub, handle, *refresh)).await;
                answer.into_iter().for_each(|answer| frames.text(&frames::text(&answer)));
            }
            Err(end) => return end,
        }
        if let Err(end) = write(hub, wire, handle, frames).await {
            return end;
        }
    }
}

/// Writes frames. A client that does not take them is not waited for any longer than for a close, once it is to be closed;
/// and not at all when it is to stop at once: then what is not in the socket yet never gets there.
async fn write<S>(hub: &Hub, wire: &mut Wire<S>, handle: &Handle, frames: Frames) -> Result<(), End>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if frames.is_empty() {
        return Ok(());
    }
    let limits = &hub.settings.clients;
    let ended = {
        let writing = pin!(wire.write(frames, limits.write_stall));
        let mut writing = served(handle, writing);
        loop {
            tokio::select! {
                biased;
                written = &mut writing => {
                    // What it was woken for meanwhile is still to be done.
                    handle.wake();
                    return written.map_err(|_| End::Gone(None));
                }
                () = handle.woken() => {}
            }
            let Some(farewell) = handle.ending() else { continue };
            if farewell.stops_at_once() {
                break farewell;
            }
            let written = timeout(limits.close_wait, writing).await;
            handle.wake();
            return written.map_err(|_| End::Cut(farewell.code))?.map_err(|_| End::Gone(None));
        }
    };
    Err(if wire.is_torn() { End::Cut(ended.code) } else { End::Farewell(ended) })
}

/// Puts what waits for the client into frames.
fn compose(hub: &Hub, handle: &Handle, burst: &mut Burst, frames: &mut Frames) {
    if let Some(announce) = burst.announce {
        frames.text(&frames::text(&frames::announce(hub, &handle.who.user, handle.serial(), announce)));
    }
    subscribe::texts(std::mem::take(&mut burst.replies)).for_each(|text| frames.text(&text));
    if let Some(bound) = handle.bound() {
        for push in &burst.pushes {
            frames.text(&push_frame(push.seq, bound.granted, &push.tail));
        }
    }
    if burst.ping {
        frames.text(&frames::text(&ServerFrame::Ping));
    }
}

/// Takes what the client sent; a newer token is handed on, because checking it may take a while.
fn hear(
    hub: &Arc<Hub>,
    handle: &Arc<Handle>,
    rate: &mut Rate,
    received: Received,
    frames: &mut Frames,
) -> Result<Option<Box<Refresh>>, End> {
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
        Said::Topics(request) => {
            if let Some(answer) = subscribe::take(hub, handle, request) {
                frames.text(&frames::text(&answer));
            }
        }
        Said::Refresh(refresh) => return Ok(Some(refresh)),
        Said::Garbage => return Err(End::Farewell(CloseCode::BadProtocol.into())),
    }
    Ok(None)
}

/// The last words, and the close of both sides. Bounded in time.
async fn part<S>(hub: &Hub, wire: &mut Wire<S>, end: End, forgotten: Option<oneshot::Receiver<()>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if let (End::Farewell(farewell), Some(forgotten)) = (&end, forgotten)
        && farewell.waits_for_commit()
    {
        // A directory that takes longer is not waited for: the socket has stopped, which is what others rely on.
        let _ = timeout(hub.settings.clients.commit_wait, forgotten).await;
    }
    let wait = hub.settings.clients.close_wait;
    let (code, text, goodbye) = match last_words(&end) {
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
    frames.close(code, &text);
    if wire.write(frames, wait).await.is_ok() {
        wire.linger(wait).await;
    }
}

/// Close code, the text of the close frame, and the goodbye; the client's own code where it has left.
fn last_words(end: &End) -> Result<(u16, String, ServerFrame), Option<u16>> {
    let farewell = match end {
        End::Gone(code) => return Err(*code),
        End::Cut(code) => return Err(Some(code.code())),
        End::Farewell(farewell) => farewell.clone(),
        End::Wrong(Wrong::TooLarge) => CloseCode::FrameTooLarge.into(),
        End::Wrong(Wrong::Binary) => CloseCode::BadProtocol.into(),
        End::Wrong(wrong @ (Wrong::Protocol | Wrong::Utf8)) => {
            let (code, word) = if *wrong == Wrong::Utf8 { INVALID_UTF8 } else { PROTOCOL_ERROR };
            let reason = word.to_owned();
            let goodbye =
                ServerFrame::Goodbye { code, reason, message: None, reconnect: false, after_ms: 0, redirect: None };
            return Ok((code, word.to_owned(), goodbye));
        }
    };
    Ok((farewell.number(), farewell.close_text().to_owned(), frames::goodbye(&farewell)))
}

fn reason(end: &End) -> Reason {
    match end {
        End::Farewell(farewell) => reason_of(farewell.code),
        End::Cut(code) => reason_of(*code),
        End::Wrong(_) | End::Gone(_) => Reason::Closed,
    }
}

fn turned_away(end: &End) -> &'static str {
    match end {
        End::Farewell(farewell) => farewell.code.reason(),
        End::Cut(code) => code.reason(),
        End::Wrong(_) => "bad_protocol",
        End::Gone(_) => "left",
    }
}
