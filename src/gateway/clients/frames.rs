//! The JSON frames that a client socket sends and takes.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::credentials::Refresh;
use super::farewell::Farewell;
use super::hub::Hub;
use super::outbox::Announce;
use super::subscribe::Request;
use crate::directory::ConnectionId;
use crate::tokens::Grant;
use crate::wire::client::{ClientFrame, RawValueEq, ServerFrame};
use crate::wire::close;

/// The text of a frame.
pub(in crate::gateway) fn text(frame: &ServerFrame) -> String {
    serde_json::to_string(frame).expect("every frame has a JSON form")
}

/// Sent when the upgrade named no user.
pub(super) fn hello(hub: &Hub) -> ServerFrame {
    let (heartbeat_ms, timeout_ms) = times(hub);
    ServerFrame::Hello { heartbeat_ms, timeout_ms, frame_bytes_max: hub.settings.clients.frame_bytes_max as u64 }
}

/// `welcome` or `rebound`.
pub(super) fn announce(hub: &Hub, user: &str, serial: u64, announce: Announce) -> ServerFrame {
    let Announce { bound, revision, first } = announce;
    let connection = ConnectionId { epoch: bound.epoch, serial }.to_string();
    if !first {
        return ServerFrame::Rebound { connection, epoch: bound.epoch, granted: bound.granted, revision };
    }
    let (heartbeat_ms, timeout_ms) = times(hub);
    ServerFrame::Welcome {
        connection,
        epoch: bound.epoch,
        granted: bound.granted,
        user: user.to_owned(),
        gateway: hub.settings.id.clone(),
        revision,
        resumed: false,
        heartbeat_ms,
        timeout_ms,
    }
}

/// Comes before a close frame of the server.
pub(super) fn goodbye(farewell: &Farewell) -> ServerFrame {
    ServerFrame::Goodbye {
        code: farewell.number(),
        reason: farewell.reason().to_owned(),
        message: farewell.message().map(str::to_owned),
        reconnect: close::reconnect(farewell.number()),
        after_ms: u64::try_from(farewell.after.as_millis()).unwrap_or(u64::MAX),
        redirect: None,
    }
}

/// A refused request or frame.
pub(super) fn error(re: Option<&RawValue>, code: &str, message: impl Into<String>) -> ServerFrame {
    refusal(re, code, message, false)
}

/// As `error`, where trying again later may help.
pub(super) fn refusal(re: Option<&RawValue>, code: &str, message: impl Into<String>, temporary: bool) -> ServerFrame {
    let re = re.map(|id| Box::new(RawValueEq(id.to_owned())));
    ServerFrame::Error { re, code: code.to_owned(), message: message.into(), temporary }
}

/// What a text frame of a client that has been introduced asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Said {
    /// Nothing but life.
    Nothing,
    /// Everything up to this number was received.
    Ack(u64),
    /// A newer token.
    Refresh(Box<Refresh>),
    /// An answer.
    Answer(Box<ServerFrame>),
    /// Subscriptions are to begin or to end.
    Topics(Request),
    /// Not a frame.
    Garbage,
}

/// Reads a text frame of a client that has been introduced.
pub(super) fn read(text: &str) -> Said {
    let Some(frame) = frame(text) else { return Said::Garbage };
    let refuse = |code, why: String| Said::Answer(Box::new(error(frame.id, code, why)));
    match (frame.kind.as_ref(), frame.seq) {
        ("pong", _) => Said::Nothing,
        ("ack", Some(seq)) => Said::Ack(seq),
        ("ack", None) => {
            refuse("bad_request", String::from("an ack names the seq up to which everything was received"))
        }
        ("connect", _) => refuse("bad_request", String::from("the connection is introduced already")),
        (kind @ ("subscribe" | "unsubscribe"), _) => Said::Topics(Request {
            id: frame.id.map(|id| RawValueEq(id.to_owned())),
            begins: kind == "subscribe",
            topics: frame.topics.unwrap_or_default(),
            presence: frame.presence,
        }),
        ("refresh", _) => match frame.token {
            Some(token) => Said::Refresh(Box::new(Refresh { id: frame.id.map(RawValue::to_owned), token })),
            None => refuse("bad_request", String::from("a refresh brings a token")),
        },
        ("send", _) => refuse("not_implemented", String::from("send is not offered by this version")),
        (kind, _) => {
            let kind: String = kind.chars().take(64).collect();
            refuse("bad_request", format!("there is no frame of type {kind:?}"))
        }
    }
}

/// A frame is an object. What reads it would also take an array of the fields in their order, which is no form of ours.
fn frame(text: &str) -> Option<ClientFrame<'_>> {
    let is_object = text.trim_ascii_start().starts_with('{');
    serde_json::from_str(text).ok().filter(|_| is_object)
}

/// What a `connect` frame says.
#[derive(Debug, Default)]
pub(super) struct Connect {
    pub(super) user: Option<String>,
    pub(super) device: Option<String>,
    pub(super) meta: Option<String>,
    pub(super) token: Option<String>,
    /// What the token grants, once it was checked.
    pub(super) grant: Option<Box<Grant>>,
    /// What it wants to be subscribed to.
    pub(super) topics: Vec<String>,
    /// The frame's own id.
    pub(super) id: Option<Box<RawValue>>,
    /// It asks for something that is not offered: the answer to that.
    pub(super) refusal: Option<String>,
}

/// Reads a `connect` frame; `None` for anything else.
pub(super) fn read_connect(frame_text: &str) -> Option<Connect> {
    #[derive(Deserialize)]
    struct Beside {
        #[serde(default)]
        resume: Option<IgnoredAny>,
    }
    let frame = frame(frame_text).filter(|frame| frame.kind == "connect")?;
    let resumes = serde_json::from_str::<Beside>(frame_text).is_ok_and(|beside| beside.resume.is_some());
    let refusal = resumes.then(|| text(&error(frame.id, "not_implemented", NO_RESUME)));
    let meta = frame.meta.map(|meta| meta.get().to_owned());
    Some(Connect {
        user: frame.user,
        device: frame.device,
        meta,
        token: frame.token,
        grant: None,
        topics: frame.topics.unwrap_or_default(),
        id: frame.id.map(ToOwned::to_owned),
        refusal,
    })
}

/// Told to a client that wants to resume.
pub(super) const NO_RESUME: &str = "resume is not offered by this version; the connection goes on without it";

fn times(hub: &Hub) -> (u64, u64) {
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    (millis(hub.settings.clients.heartbeat), millis(hub.settings.clients.pong_timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_are_not_offered_are_answered_and_unknown_ones_too() {
        for (frame, code) in [
            (r#"{"type":"send","id":1,"event":"a"}"#, "not_implemented"),
            (r#"{"type":"refresh","id":"x"}"#, "bad_request"),
            (r#"{"type":"what","id":[1]}"#, "bad_request"),
            (r#"{"type":"connect","user":"a"}"#, "bad_request"),
            (r#"{"type":"ack"}"#, "bad_request"),
        ] {
            let Said::Answer(answer) = read(frame) else { panic!("{frame}") };
            let answer: serde_json::Value = serde_json::from_str(&text(&answer)).unwrap();
            let asked: serde_json::Value = serde_json::from_str(frame).unwrap();
            assert_eq!((&answer["code"], &answer["re"]), (&code.into(), &asked["id"]), "{frame}");
        }
        assert_eq!(read(r#"{"type":"pong"}"#), Said::Nothing);
        assert_eq!(read(r#"{"type":"ack","seq":7}"#), Said::Ack(7));
        let Said::Refresh(refresh) = read(r#"{"type":"refresh","id":"x","token":"t"}"#) else { panic!("no refresh") };
        assert_eq!((refresh.id.unwrap().get(), refresh.token.as_str()), ("\"x\"", "t"));
        for garbage in ["", "x", "[]", "{}", "{\"type\":1}", "[\"pong\"]", " [\"ack\",null,7]"] {
            assert_eq!(read(garbage), Said::Garbage, "{garbage}");
        }
    }

    #[test]
    fn a_connect_frame_is_read_and_what_is_not_offered_is_told() {
        let connect = read_connect(r#"{"type":"connect","user":"a","device":"web","meta":{"x":1},"id":5}"#).unwrap();
        assert_eq!((connect.user.as_deref(), connect.meta.as_deref()), (Some("a"), Some(r#"{"x":1}"#)));
        assert_eq!(connect.refusal, None);
        let connect = read_connect(r#"{"type":"connect","user":"a","resume":{"token":"t","seq":1},"id":5}"#).unwrap();
        assert!(connect.refusal.unwrap().contains("\"re\":5"));
        assert!(read_connect(r#"{"type":"pong"}"#).is_none());
        assert!(read_connect(r#"["connect",null,null,"web","a"]"#).is_none());
    }
}
