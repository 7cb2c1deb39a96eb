//! What a client is subscribed to: its requests, and the answers to them.
//!
//! A subscription is in the gateway's own table at once and in the directory after a round trip; the answer waits for that, and
//! pushes go on meanwhile. The end of one is answered at once: from then on nothing is written, whoever else still sends here.

use std::sync::Arc;

use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::frames;
use super::handle::Handle;
use super::hub::Hub;
use crate::directory::Revision;
use crate::directory::limits::is_name;
use crate::gateway::registrar::Command;
use crate::gateway::subscriptions::TooMany;
use crate::gateway::table::Table;
use crate::view::View;
use crate::wire::client::{RawValueEq, ServerFrame};

/// Why a request about topics is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::gateway) struct Refused {
    code: &'static str,
    why: String,
    temporary: bool,
}

impl Refused {
    fn new(code: &'static str, why: impl Into<String>) -> Self {
        Self { code, why: why.into(), temporary: false }
    }

    fn for_now(code: &'static str, why: &str) -> Self {
        Self { temporary: true, ..Self::new(code, why) }
    }

    /// Too much is waiting.
    pub(in crate::gateway) fn overloaded() -> Self {
        Self::for_now("overloaded", "too many subscriptions are under way on this gateway; try again")
    }

    /// Nobody has decided about it in time.
    pub(in crate::gateway) fn no_leader() -> Self {
        Self::for_now("unavailable", "the directory did not confirm the subscription in time; try again")
    }

    /// The gateway has as many topics as the directory takes of one.
    pub(in crate::gateway) fn too_many_topics() -> Self {
        Self::for_now("limit", "this gateway has subscribers of as many topics as it may; try another one")
    }

    /// A word for programs, a sentence, and whether trying again later may help.
    pub(in crate::gateway) fn into_parts(self) -> (&'static str, String, bool) {
        (self.code, self.why, self.temporary)
    }
}

/// What a client is told, on its way there.
#[derive(Debug)]
pub(super) enum Reply {
    /// The answer to a request with this id.
    Answer(Option<Box<RawValue>>, Result<Revision, Refused>),
    /// The text of a frame that others are told, too.
    Notice(Arc<str>),
}

impl Reply {
    pub(super) fn notice(text: &Arc<str>) -> Self {
        Self::Notice(Arc::clone(text))
    }

    pub(super) fn refusal(re: Option<Box<RawValue>>, why: Refused) -> Self {
        Self::Answer(re, Err(why))
    }

    /// The revision that contains what was asked for.
    pub(super) fn revision(&self) -> Option<Revision> {
        match self {
            Self::Answer(_, Ok(revision)) => Some(*revision),
            Self::Answer(_, Err(_)) | Self::Notice(_) => None,
        }
    }
}

/// The frame of an answer. Success without an `id` to name has none.
fn answer_frame(re: Option<Box<RawValue>>, result: Result<Revision, Refused>) -> Option<ServerFrame> {
    let re = re.map(|id| Box::new(RawValueEq(id)));
    match result {
        Ok(revision) => re.map(|re| ServerFrame::Ok { re, revision }),
        Err(Refused { code, why, temporary }) => {
            Some(ServerFrame::Error { re, code: code.to_owned(), message: why, temporary })
        }
    }
}

/// Who is answered.
#[derive(Debug)]
enum Asker {
    /// The client, to its request with this id; nothing is said of success where there is none.
    Client(Option<Box<RawValue>>),
    /// A service.
    Service(oneshot::Sender<Result<Revision, Refused>>),
}

/// A connection that was subscribed here and waits for the directory.
#[derive(Debug)]
pub(in crate::gateway) struct Subscribe {
    pub(in crate::gateway) handle: Arc<Handle>,
    /// What was asked for, each once.
    pub(in crate::gateway) topics: Vec<Arc<str>>,
    /// What of it is new.
    pub(in crate::gateway) added: Vec<Arc<str>>,
    asker: Asker,
    /// Where it is to be shown who else is subscribed.
    shows: Option<Arc<Hub>>,
}

impl Subscribe {
    /// Enters the topics into the table.
    fn enter(table: &Table, handle: Arc<Handle>, topics: Vec<Arc<str>>, asker: Asker) -> Result<Self, Refused> {
        let max = handle.subscriptions_max();
        match table.subscriptions().subscribe(handle.serial(), &topics, max) {
            Ok(added) => Ok(Self { handle, topics, added, asker, shows: None }),
            Err(TooMany) => Err(Refused::new("limit", format!("a connection has at most {max} subscriptions"))),
        }
    }

    /// A client that arrives with topics. Why it goes on without them it is told.
    pub(in crate::gateway) fn first(table: &Table, handle: &Arc<Handle>, topics: Vec<Arc<str>>) -> Option<Self> {
        Self::enter(table, Arc::clone(handle), topics, Asker::Client(None))
            .map_err(|why| handle.reply(Reply::refusal(None, why)))
            .ok()
    }

    /// A connection that a service wants to be subscribed; what comes back tells when it is.
    pub(in crate::gateway) fn asked(
        table: &Table,
        handle: Arc<Handle>,
        topics: Vec<Arc<str>>,
    ) -> Result<(Self, oneshot::Receiver<Result<Revision, Refused>>), Refused> {
        let (tell, told) = oneshot::channel();
        Ok((Self::enter(table, handle, topics, Asker::Service(tell))?, told))
    }

    /// Tells whoever asked.
    pub(in crate::gateway) fn answer(self, result: Result<Revision, Refused>) {
        let shows = self.shows.filter(|_| result.is_ok());
        match self.asker {
            Asker::Client(re) if re.is_some() || result.is_err() => self.handle.reply(Reply::Answer(re, result)),
            Asker::Client(_) => {}
            // It may have stopped waiting.
            Asker::Service(tell) => drop(tell.send(result)),
        }
        if let Some(hub) = shows {
            for topic in &self.topics {
                hub.presence.show(&hub, topic, self.handle.serial());
            }
        }
    }
}

/// A request of a client about topics.
#[derive(Debug, PartialEq)]
pub(super) struct Request {
    pub(super) id: Option<RawValueEq>,
    /// Otherwise it is to end.
    pub(super) begins: bool,
    pub(super) topics: Vec<String>,
    /// Whether to show who else is subscribed.
    pub(super) presence: bool,
}

/// Does what a client asks for; `None`: the answer comes later.
pub(super) fn take(hub: &Arc<Hub>, handle: &Arc<Handle>, request: Request) -> Option<ServerFrame> {
    let Request { id, begins, topics, presence } = request;
    let id = id.map(|id| id.0);
    let checked = names(topics).and_then(|topics| if begins { allowed(handle, topics) } else { Ok(topics) });
    let topics = match checked {
        Ok(topics) => topics,
        Err(why) => return answer_frame(id, Err(why)),
    };
    if !begins {
        hub.table.subscriptions().unsubscribe(handle.serial(), &topics);
        return answer_frame(id, Ok(hub.replica.revision()));
    }
    if presence && !topics.iter().all(|topic| hub.presence.has_room(topic)) {
        let why = "this gateway shows the subscribers of as many topics as it may; subscribe without presence";
        return answer_frame(id, Err(Refused::for_now("limit", why)));
    }
    match Subscribe::enter(&hub.table, Arc::clone(handle), topics, Asker::Client(id.clone())) {
        Ok(subscribe) => submit(hub, Subscribe { shows: presence.then(|| Arc::clone(hub)), ..subscribe }),
        Err(why) => return answer_frame(id, Err(why)),
    }
    None
}

/// Subscribes a connection because a service asks for it. What comes back tells when the directory knows.
pub(in crate::gateway) fn on_behalf(
    hub: &Hub,
    handle: &Arc<Handle>,
    topics: Vec<Arc<str>>,
) -> Result<oneshot::Receiver<Result<Revision, Refused>>, Refused> {
    let (subscribe, told) = Subscribe::asked(&hub.table, Arc::clone(handle), topics)?;
    submit(hub, subscribe);
    if handle.is_finished() {
        // Its socket has left what it was subscribed to, perhaps before this.
        hub.table.subscriptions().leave(handle.serial());
    }
    Ok(told)
}

fn submit(hub: &Hub, subscribe: Subscribe) {
    if let Err(unsent) = hub.commands.try_send(Command::Subscribe(Box::new(subscribe)))
        && let Command::Subscribe(subscribe) = unsent.into_inner()
    {
        hub.table.subscriptions().unsubscribe(subscribe.handle.serial(), &subscribe.added);
        subscribe.answer(Err(Refused::overloaded()));
    }
}

/// The topics that a client brings along when it arrives, as far as it may have them; of the rest it is told when it is
/// welcomed.
pub(super) fn brought(handle: &Handle, id: Option<Box<RawValue>>, topics: Vec<String>) -> Vec<Arc<str>> {
    let max = handle.subscriptions_max();
    let fits = |topics: Vec<Arc<str>>| match topics.len() {
        count if count > max => Err(Refused::new("limit", format!("a connection has at most {max} subscriptions"))),
        _ => Ok(topics),
    };
    if topics.is_empty() {
        return Vec::new();
    }
    names(topics).and_then(|topics| allowed(handle, topics)).and_then(fits).unwrap_or_else(|why| {
        handle.reply(Reply::refusal(id, why));
        Vec::new()
    })
}

/// Names of topics, each once.
fn names(topics: Vec<String>) -> Result<Vec<Arc<str>>, Refused> {
    if topics.is_empty() {
        return Err(Refused::new("bad_request", "the frame names no topics"));
    }
    if !topics.iter().all(|topic| is_name(topic)) {
        return Err(Refused::new("bad_request", BAD_TOPIC));
    }
    let mut names: Vec<Arc<str>> = topics.into_iter().map(Arc::from).collect();
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// What a topic is.
pub(super) const BAD_TOPIC: &str = "a topic is 1 to 128 bytes of text without control characters";

fn allowed(handle: &Handle, topics: Vec<Arc<str>>) -> Result<Vec<Arc<str>>, Refused> {
    match topics.iter().find(|topic| !handle.pass.may_subscribe(topic)) {
        Some(topic) => Err(Refused::new("forbidden", format!("the token does not allow a subscription to {topic:?}"))),
        None => Ok(topics),
    }
}

/// The texts of what waits to be told to a client.
pub(super) fn texts(replies: Vec<Reply>) -> impl Iterator<Item = String> {
    replies.into_iter().filter_map(|reply| match reply {
        Reply::Answer(re, result) => answer_frame(re, result).map(|frame| frames::text(&frame)),
        Reply::Notice(text) => Some(text.to_string()),
    })
}
