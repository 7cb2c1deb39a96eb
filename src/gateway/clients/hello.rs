//! Who a client is: told by the upgrade, or by its first frame.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use super::farewell::Farewell;
use super::frames::{self, Connect, Said};
use super::handle::Who;
use super::hub::Hub;
use super::rate::Rate;
use super::socket::End;
use super::wire::{Frames, Received, Wire};
use crate::clock;
use crate::directory::limits::{TEXT_BYTES_MAX, is_name, is_optional_name};
use crate::wire::close::CloseCode;

/// Says hello and waits for the `connect` frame.
pub(super) async fn introduce<S>(hub: &Hub, wire: &mut Wire<S>, rate: &mut Rate) -> Result<Connect, End>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limits = &hub.settings.clients;
    let deadline = Instant::now() + limits.connect_timeout;
    say(hub, wire, &frames::text(&frames::hello(hub))).await?;
    loop {
        let received = tokio::select! {
            () = hub.leaving.cancelled() => return Err(End::Farewell(hub.farewell(CloseCode::Drain))),
            received = timeout_at(deadline, wire.receive()) => {
                received.map_err(|_| End::Farewell(CloseCode::ConnectTimeout.into()))?
            }
        };
        if !rate.take(limits.messages_per_second, limits.messages_burst, hub.now_ms()) {
            return Err(End::Farewell(CloseCode::RateLimited.into()));
        }
        let text = match received {
            Received::Text(text) => text,
            Received::Life => continue,
            Received::Wrong(wrong) => return Err(End::Wrong(wrong)),
            Received::Closed(code) => return Err(End::Gone(code)),
        };
        if let Some(connect) = frames::read_connect(&text) {
            return Ok(connect);
        }
        match frames::read(&text) {
            Said::Garbage => return Err(End::Farewell(CloseCode::BadProtocol.into())),
            Said::Answer(answer) => say(hub, wire, &frames::text(&answer)).await?,
            Said::Topics(request) => {
                let why = "say who you are first: a connect frame may name topics";
                let error = frames::error(request.id.as_ref().map(|id| &*id.0), "bad_request", why);
                say(hub, wire, &frames::text(&error)).await?;
            }
            Said::Refresh(refresh) => {
                let why = "the connection is not introduced yet";
                say(hub, wire, &frames::text(&frames::error(refresh.id.as_deref(), "bad_request", why))).await?;
            }
            Said::Nothing | Said::Ack(_) => {}
        }
    }
}

async fn say<S>(hub: &Hub, wire: &mut Wire<S>, text: &str) -> Result<(), End>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut frames = Frames::default();
    frames.text(text);
    wire.write(frames, hub.settings.clients.write_stall).await.map_err(|_| End::Gone(None))
}

/// What is kept of a client that told who it is, or whose token did.
pub(super) fn identify(connect: &Connect, remote: Option<Arc<str>>) -> Result<Who, Farewell> {
    let user = connect.user.as_deref().unwrap_or_default();
    let device = connect.device.as_deref().unwrap_or_default();
    let meta = connect.meta.as_deref().filter(|meta| *meta != "null");
    let meta_fits = meta.is_none_or(|meta| meta.starts_with('{') && meta.len() <= TEXT_BYTES_MAX);
    if !is_name(user) || !is_optional_name(device) || !meta_fits {
        return Err(CloseCode::BadProtocol.into());
    }
    Ok(Who {
        user: user.into(),
        device: device.into(),
        remote,
        meta: meta.map(Arc::from),
        connected_at_ms: clock::wall_ms(),
    })
}
