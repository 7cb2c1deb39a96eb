//! The JSON frames of client WebSockets, one object a text frame.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The subprotocol that is spoken, also when a client asks for none.
pub const SUBPROTOCOL: &str = "switchboard.v1";

/// What the server sends. Pushes are assembled from parts that many connections share, see [`push_frame`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame {
    /// Sent first when the upgrade carried no credentials: a `connect` frame is expected.
    Hello {
        /// The server pings this often, milliseconds.
        heartbeat_ms: u64,
        /// Silence longer than heartbeat plus this ends the connection, milliseconds.
        timeout_ms: u64,
        /// Largest frame that the server takes.
        frame_bytes_max: u64,
    },
    /// The registration is committed; the user is reachable.
    Welcome {
        /// The connection's id.
        connection: String,
        /// Epoch of the gateway's session.
        epoch: u64,
        /// Revision at which the connection was granted.
        granted: u64,
        /// Whose connection it is.
        user: String,
        /// Name of the gateway.
        gateway: String,
        /// Revision of the directory that contains the registration.
        revision: u64,
        /// Whether missed pushes follow.
        resumed: bool,
        /// As in `hello`.
        heartbeat_ms: u64,
        /// As in `hello`.
        timeout_ms: u64,
    },
    /// The gateway has a new session: same socket, new id.
    Rebound {
        /// The new id.
        connection: String,
        /// The new epoch.
        epoch: u64,
        /// When it was granted.
        granted: u64,
        /// Revision of the directory that contains it.
        revision: u64,
    },
    /// To be answered by `pong`.
    Ping,
    /// A request was carried out.
    Ok {
        /// The request's `id`.
        re: Box<RawValueEq>,
        /// Revision that contains its effect.
        revision: u64,
    },
    /// Who is subscribed to a topic: at first all of them, then what has changed; of too many their number alone.
    Presence {
        /// The topic.
        topic: String,
        /// All of them, by connection.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        state: Option<Members>,
        /// Those who were not there when the client was last told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        joins: Option<Members>,
        /// Those who are not there any more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        leaves: Option<Members>,
        /// How many there are, where that is all that is told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        count: Option<u64>,
        /// Revision of the directory that the gateway had seen by then.
        revision: u64,
    },
    /// A request, or a frame, was refused.
    Error {
        /// The request's `id`, where it had one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        re: Option<Box<RawValueEq>>,
        /// A word for programs.
        code: String,
        /// A sentence for people.
        message: String,
        /// Whether trying again later may help.
        temporary: bool,
    },
    /// Comes before every close by the server.
    Goodbye {
        /// Code of the close frame that follows.
        code: u16,
        /// Its word, or the reason that somebody gave.
        reason: String,
        /// A sentence for people, where the reason does not say enough.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
        /// Whether to come back.
        reconnect: bool,
        /// When to come back, milliseconds from now.
        after_ms: u64,
        /// Where to come back to, if elsewhere.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        redirect: Option<String>,
    },
}

/// Subscribers of a topic, by connection.
pub type Members = BTreeMap<String, PresenceMember>;

/// A subscriber of a topic, as others see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceMember {
    /// Whose connection it is.
    pub user: String,
    /// Its device.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub device: String,
}

/// A request's `id`, any JSON value; compared by its text.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawValueEq(pub Box<RawValue>);

impl PartialEq for RawValueEq {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

/// What a client sends. Fields that are not known are ignored.
#[derive(Debug, Deserialize)]
pub struct ClientFrame<'a> {
    /// Which kind of frame it is.
    #[serde(rename = "type")]
    pub kind: std::borrow::Cow<'a, str>,
    /// Comes back as `re`.
    #[serde(borrow, default)]
    pub id: Option<&'a RawValue>,
    /// Of `ack`: everything up to it was received.
    #[serde(default)]
    pub seq: Option<u64>,
    /// Of `connect`: the device.
    #[serde(default)]
    pub device: Option<String>,
    /// Of `connect`: who it is, where no client authentication is configured.
    #[serde(default)]
    pub user: Option<String>,
    /// Of `connect` and `refresh`: credentials.
    #[serde(default)]
    pub token: Option<String>,
    /// Of `connect`: topics to subscribe to.
    #[serde(default)]
    pub topics: Option<Vec<String>>,
    /// Of `subscribe`: whether to tell who else is subscribed.
    #[serde(default)]
    pub presence: bool,
    /// Of `connect`: metadata to keep with the entry.
    #[serde(borrow, default)]
    pub meta: Option<&'a RawValue>,
}

/// What every receiver of one push has in common, encoded once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushTail(String);

impl PushTail {
    /// Encodes the shared part. `data` is `("data", JSON text)` or `("data_b64", JSON string)`, as it is.
    pub fn new(id: &str, topic: Option<&str>, event: Option<&str>, data: (&str, &str), ack: bool) -> Self {
        let mut tail = String::with_capacity(48 + id.len() + data.1.len() + event.map_or(0, str::len));
        field(&mut tail, "id", id);
        for (name, value) in [("topic", topic), ("event", event)] {
            if let Some(value) = value {
                field(&mut tail, name, value);
            }
        }
        if ack {
            tail.push_str("\"ack\":true,");
        }
        tail.push('"');
        tail.push_str(data.0);
        tail.push_str("\":");
        tail.push_str(data.1);
        tail.push('}');
        Self(tail)
    }

    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }
}

fn field(to: &mut String, name: &str, value: &str) {
    to.push('"');
    to.push_str(name);
    to.push_str("\":");
    to.push_str(&serde_json::to_string(value).expect("a string has a JSON form"));
    to.push(',');
}

/// The text of one push for one connection: its own sequence number and grant, then what all receivers share.
pub fn push_frame(seq: u64, granted: u64, tail: &PushTail) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(tail.0.len() + 64);
    write!(text, "{{\"type\":\"push\",\"seq\":{seq},\"granted\":{granted},").expect("writing to a string can't fail");
    text.push_str(&tail.0);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_frame_is_the_json_of_the_contract() {
        let tail = PushTail::new("m-1", None, Some("chat\"x"), ("data", "{\"a\":1}"), true);
        let value: serde_json::Value = serde_json::from_str(&push_frame(42, 900, &tail)).unwrap();
        let expected = serde_json::json!({"type":"push","id":"m-1","seq":42,"event":"chat\"x","data":{"a":1},"ack":true,"granted":900});
        assert_eq!(value, expected);
    }

    #[test]
    fn client_frames_may_carry_fields_that_nobody_knows() {
        let frame: ClientFrame = serde_json::from_str(r#"{"type":"ack","seq":3,"later":[1]}"#).unwrap();
        assert_eq!((frame.kind.as_ref(), frame.seq), ("ack", Some(3)));
    }
}
