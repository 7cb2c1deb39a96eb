//! Users with a WebSocket: they come to any gateway, stay for a while, note all that they hear, and go.

use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Context;
use super::pushers::Recent;
use crate::client::{Heard, Socket, pause};
use crate::history::{Client, Outcome};

/// Longest wait for an upgrade.
const UPGRADE_WITHIN: Duration = Duration::from_secs(2);

/// Longest wait for the welcome.
const WELCOME_WITHIN: Duration = Duration::from_secs(4);

/// Longest wait for the answer to a question on the socket: a gateway that stands still for a while is waited for.
const BARRIER_WITHIN: Duration = Duration::from_secs(12);

/// Asks on the socket so often whether all that was written before has come.
const BARRIER_EVERY: Duration = Duration::from_millis(400);

/// A device of a user.
pub(super) struct User {
    context: Context,
    name: String,
    device: u32,
    /// Number of the next socket.
    socket: u64,
    recent: Recent,
    client: Client,
    /// Notes what comes while `client` is at work.
    ears: Client,
    rng: Rng,
}

/// A socket that is open.
struct Open {
    socket: Socket,
    number: u64,
    connection: String,
}

/// What came of listening.
#[derive(Debug, PartialEq, Eq)]
enum Listened {
    /// The time was over.
    LongEnough,
    /// The answer to this question came.
    Answered,
    /// The socket ended.
    Ended,
}

impl User {
    /// A device whose sockets are numbered from `socket` on.
    pub(super) fn new(context: &Context, name: &str, device: u32, socket: u64, recent: &Recent) -> Self {
        Self {
            context: context.clone(),
            name: name.to_owned(),
            device,
            socket,
            recent: recent.clone(),
            client: context.recorder.client(),
            ears: context.recorder.client(),
            rng: Rng::with_seed(context.seed ^ socket),
        }
    }

    /// Until told to stop.
    pub(super) async fn come_and_go(mut self) {
        while !*self.context.stop.borrow() {
            if let Some(open) = self.come().await {
                self.stay(open).await;
            }
            let away = Duration::from_millis(self.rng.u64(50..1_500));
            pause(away, &self.context.stop).await;
        }
    }

    async fn come(&mut self) -> Option<Open> {
        let gateways = &self.context.addresses.gateways;
        let gateway = &gateways[self.rng.usize(..gateways.len())];
        self.socket += 1;
        let number = self.socket;
        let path = format!("/ws?user={}&device=d{}", self.name, self.device);
        let mut opened = None;
        let coming = async {
            let mut socket = match Socket::open(&gateway.clients, &path, UPGRADE_WITHIN).await {
                Ok(socket) => socket,
                // It may be welcomed all the same, and nobody hears it.
                Err(why) => return Outcome::Info(why),
            };
            loop {
                match socket.hear().await {
                    Heard::Frame(mut frame) if frame["type"] == "welcome" => {
                        frame["socket"] = json!(number);
                        let connection = frame["connection"].as_str().unwrap_or_default().to_owned();
                        opened = Some(Open { socket, number, connection });
                        return Outcome::Ok(frame);
                    }
                    Heard::Frame(frame) if frame["type"] == "goodbye" => return Outcome::Info(frame.to_string()),
                    Heard::Frame(_) => {}
                    Heard::Closed(code) => return Outcome::Info(format!("closed with {code:?}")),
                }
            }
        };
        let asked = json!({ "gateway": gateway.name, "device": self.device, "socket": number });
        let done = self.client.perform(("connect", &self.name), asked, WELCOME_WITHIN, coming).await;
        opened.filter(|_| matches!(done, Outcome::Ok(_)))
    }

    /// Stays for a while; asks now and then, and a last time before it goes.
    async fn stay(&mut self, mut open: Open) {
        self.recent.add(&open.connection);
        // Some stay for so long that their gateway loses its session and has another one.
        let stay_ms = if self.rng.u8(..4) == 0 { 5_000..20_000 } else { 200..4_000 };
        let until = Instant::now() + Duration::from_millis(self.rng.u64(stay_ms));
        while Instant::now() < until && !*self.context.stop.borrow() {
            let next = until.min(Instant::now() + BARRIER_EVERY);
            let listening = listen(&mut open, &self.ears, &self.name, None);
            let listened = tokio::time::timeout_at(next, listening).await.unwrap_or(Listened::LongEnough);
            if listened == Listened::Ended || !self.barrier(&mut open).await {
                return;
            }
        }
        if self.rng.u8(..4) > 0 {
            open.socket.close().await;
        }
    }

    /// Asks something, and waits for the answer: all that was written before has come then. Whether it did.
    async fn barrier(&mut self, open: &mut Open) -> bool {
        let (ears, name) = (&self.ears, &self.name);
        let asked = json!({ "socket": open.number, "connection": open.connection });
        let asking = async {
            let question = format!("barrier-{}", open.number);
            // Nobody knows this type, so that it is refused, in order with everything else.
            if let Err(why) = open.socket.say(&json!({ "type": "barrier", "id": question })).await {
                return Outcome::Fail(why);
            }
            match listen(open, ears, name, Some(&question)).await {
                Listened::Answered => Outcome::Ok(Value::Null),
                other => Outcome::Fail(format!("{other:?}")),
            }
        };
        let done = self.client.perform(("barrier", name), asked, BARRIER_WITHIN, asking).await;
        matches!(done, Outcome::Ok(_))
    }
}

/// Notes what comes, until the socket ends or the answer to the question has come.
async fn listen(open: &mut Open, ears: &Client, user: &str, question: Option<&str>) -> Listened {
    loop {
        let frame = match open.socket.hear().await {
            Heard::Frame(frame) => frame,
            Heard::Closed(_) => return Listened::Ended,
        };
        match frame["type"].as_str() {
            Some("push") => {
                let (id, message) = (&frame["data"]["id"], &frame["id"]);
                let (connection, granted, seq) = (&open.connection, &frame["granted"], &frame["seq"]);
                let told = json!({ "socket": open.number, "connection": connection, "id": id, "message": message,
                    "granted": granted, "seq": seq });
                ears.observe("frame", user, told);
                // Noted first, so that whoever hears of the acknowledgement finds the frame.
                if frame["ack"] == true && open.socket.say(&json!({ "type": "ack", "seq": seq })).await.is_err() {
                    return Listened::Ended;
                }
            }
            Some("rebound") => {
                open.connection = frame["connection"].as_str().unwrap_or_default().to_owned();
                let told = json!({ "socket": open.number, "type": "rebound", "connection": open.connection,
                    "granted": frame["granted"], "revision": frame["revision"] });
                ears.observe("frame", user, told);
            }
            _ if question.is_some_and(|question| frame["re"] == question) => return Listened::Answered,
            _ => {}
        }
    }
}
