//! `GET /ws`: everything that is decided before a socket exists.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};
use axum::routing::get;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::credentials::{bearer, is_allowed, vouch};
use super::frames::{self, Connect};
use super::hub::Hub;
use super::seats::NoSeat;
use super::socket::{self, Arrival};
use super::subscribe::BAD_TOPIC;
use crate::directory::limits::{is_name, is_optional_name};
use crate::tokens::Refused;
use crate::wire::client::SUBPROTOCOL;
use crate::wire::http::{ErrorBody, ErrorCode, ErrorDetail};

/// Seconds after which a client that was refused for now should try again.
const RETRY_AFTER_S: &str = "1";

/// The routes of the clients listener.
pub(in crate::gateway) fn router(hub: Arc<Hub>) -> Router {
    Router::new().route("/ws", get(upgrade)).fallback(nothing_here).with_state(hub)
}

async fn nothing_here() -> Response<Body> {
    Refusal::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, "clients connect at /ws", "not_found").response()
}

async fn upgrade(State(hub): State<Arc<Hub>>, mut request: Request) -> Response<Body> {
    hub.await_lease().await;
    let admitted = match admit(&hub, &request) {
        Ok((arrival, accept)) => vouched(&hub, arrival).await.map(|arrival| (arrival, accept)),
        Err(refusal) => Err(refusal),
    };
    match admitted {
        Ok((arrival, accept)) => {
            let upgraded = hyper::upgrade::on(&mut request);
            let joining = Arc::clone(&hub);
            hub.run(async move {
                // The client may leave before the upgrade is complete.
                if let Ok(stream) = upgraded.await {
                    socket::serve(joining, TokioIo::new(stream), arrival).await;
                }
            });
            accept
        }
        Err(refusal) => {
            hub.meters.turned_away(refusal.result);
            refusal.response()
        }
    }
}

/// Checks the token that came with the upgrade.
async fn vouched(hub: &Hub, mut arrival: Box<Arrival>) -> Result<Box<Arrival>, Refusal> {
    if let Some(connect) = arrival.connect.take() {
        arrival.connect = Some(vouch(hub, connect).await.map_err(|refused| unauthorized(hub, &refused))?);
    }
    Ok(arrival)
}

/// Everything else that a client is refused for before the upgrade, in the order in which it can be helped.
fn admit(hub: &Arc<Hub>, request: &Request) -> Result<(Box<Arrival>, Response<Body>), Refusal> {
    let bad = |why: &str| Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, why, "bad_request");
    let headers = request.headers();
    let key = handshake_key(headers)?;
    if !is_allowed(hub.settings.origins.as_deref(), headers) {
        hub.meters.auth_failed("origin");
        let why = "web pages of this origin may not connect to this gateway";
        return Err(Refusal::new(StatusCode::FORBIDDEN, ErrorCode::Forbidden, why, "origin"));
    }
    let offered = protocols(headers);
    let mut asked = Asked::read(request.uri()).ok_or_else(|| bad("the query can't be read"))?;
    asked.token = bearer(headers, &offered).map(str::to_owned).or(asked.token);
    if hub.tokens.is_none() && (asked.token.is_some() || headers.contains_key(header::AUTHORIZATION)) {
        return Err(unauthorized(hub, &Refused::NotConfigured));
    }
    if hub.tokens.is_some() && asked.user.is_some() && asked.token.is_none() {
        return Err(unauthorized(hub, &Refused::Missing));
    }
    if asked.user.as_deref().is_some_and(|user| !is_name(user)) {
        return Err(bad("a user is 1 to 128 bytes of text without control characters"));
    }
    if asked.device.as_deref().is_some_and(|device| !is_optional_name(device)) {
        return Err(bad("a device is at most 128 bytes of text without control characters"));
    }
    if !asked.topics.iter().all(|topic| is_name(topic)) {
        return Err(bad(BAD_TOPIC));
    }
    let subscriptions_max = hub.settings.clients.subscriptions_max;
    if asked.topics.len() > subscriptions_max {
        return Err(bad(&format!("a connection has at most {subscriptions_max} subscriptions")));
    }
    hub.ready().map_err(|why| {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, &why, "unavailable").for_now()
    })?;
    let from = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let address = from.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into()).to_canonical();
    let seat = hub.seats.take(address).map_err(|no_seat| match no_seat {
        NoSeat::Gateway => {
            let why = "the gateway holds as many connections as it may; try another one";
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, why, "gateway_full").for_now()
        }
        NoSeat::Address => {
            let why = "this address holds as many connections as it may";
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::RateLimited, why, "address_full").for_now()
        }
    })?;
    let accept = switching(&key, offered.contains(&SUBPROTOCOL));
    let remote = from.map(|_| address.to_string().into());
    Ok((Box::new(Arrival { seat, remote, connect: asked.connect() }), accept))
}

/// What the query says.
#[derive(Debug, Default)]
pub(super) struct Asked {
    user: Option<String>,
    device: Option<String>,
    token: Option<String>,
    topics: Vec<String>,
    resume: bool,
}

impl Asked {
    pub(super) fn read(uri: &Uri) -> Option<Self> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).ok()?;
        let mut asked = Self::default();
        for (name, value) in pairs {
            match name.as_str() {
                "user" => asked.user = Some(value),
                "device" => asked.device = Some(value),
                "token" => asked.token = Some(value),
                "topics" => asked.topics.extend(value.split(',').filter(|topic| !topic.is_empty()).map(str::to_owned)),
                "resume" | "seq" => asked.resume = true,
                _ => {}
            }
        }
        Some(asked)
    }

    /// Who the client is; without a user and without a token its first frame tells.
    pub(super) fn connect(self) -> Option<Connect> {
        self.user.as_ref().or(self.token.as_ref())?;
        let refusal = self.resume.then(|| frames::text(&frames::error(None, "not_implemented", frames::NO_RESUME)));
        let Self { user, device, token, topics, .. } = self;
        Some(Connect { user, device, token, topics, refusal, ..Connect::default() })
    }
}

/// The refusal of a client whose credentials are not taken.
fn unauthorized(hub: &Hub, refused: &Refused) -> Refusal {
    hub.meters.auth_failed(refused.reason());
    let why = refused.to_string();
    if refused.is_temporary() {
        return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, &why, "unavailable").for_now();
    }
    Refusal::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, &why, "unauthorized")
}

/// The key of a WebSocket handshake.
pub(super) fn handshake_key(headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
    let has = |name, token: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
    };
    if !has(header::CONNECTION, "upgrade") || !has(header::UPGRADE, "websocket") {
        let why = "this is a WebSocket endpoint; the request asks for no upgrade";
        return Err(Refusal::new(StatusCode::UPGRADE_REQUIRED, ErrorCode::BadRequest, why, "bad_request"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let why = "only version 13 of the WebSocket protocol is spoken";
        return Err(Refusal::new(StatusCode::UPGRADE_REQUIRED, ErrorCode::BadRequest, why, "bad_request"));
    }
    // 16 bytes in base64.
    headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24).cloned().ok_or_else(|| {
        let why = "the request has no proper Sec-WebSocket-Key";
        Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, why, "bad_request")
    })
}

pub(super) fn protocols(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).collect()
}

/// A subprotocol is chosen only where ours was offered; it is spoken anyway.
fn switching(key: &HeaderValue, choose: bool) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept = derive_accept_key(key.as_bytes());
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept.parse().expect("base64 is a header value"));
    if choose {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    response
}

/// An answer instead of an upgrade.
pub(super) struct Refusal {
    status: StatusCode,
    code: ErrorCode,
    message: String,
    temporary: bool,
    /// For the metric.
    result: &'static str,
}

impl Refusal {
    fn new(status: StatusCode, code: ErrorCode, message: &str, result: &'static str) -> Self {
        Self { status, code, message: message.to_owned(), temporary: false, result }
    }

    /// Trying again later may help.
    fn for_now(mut self) -> Self {
        self.temporary = true;
        self
    }

    pub(super) fn response(self) -> Response<Body> {
        let Self { status, code, message, temporary, .. } = self;
        let error = ErrorDetail { code, message, temporary, applied: None, leader: None, owner: None };
        let body = serde_json::to_vec(&ErrorBody { error, more: serde_json::Map::new() });
        let mut response = Response::new(Body::from(body.expect("an error has a JSON form")));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if temporary {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        response
    }
}
