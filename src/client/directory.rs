//! Finding and following the leader.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::clusters::Clusters;
use super::watch::WatchStream;
use crate::chance;
use crate::directory::Batch;
use crate::peer::{Broken, Calls};
use crate::wire::peer::{Answer, Failure, GroupChange, Hello, Purpose, Request, RequestBody, Response, WatchFrom};

type Control = Calls<Response>;

/// Longest wait for one answer. Longer than an election, so that a request that waits for a new leader's first commit is
/// not given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest wait for a node to be connected and to answer the hello: a frozen one takes connections and says nothing.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(700);

/// Longest wait for the answer to a change of the group, longer than a leader takes for it at worst.
const CHANGE_ANSWER_TIMEOUT: Duration = Duration::from_secs(12);

/// Longest time for which a change of the group follows the leader.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(18);

/// First and longest wait before asking again where nothing points to a better node. Leadership that is handed over arrives
/// within a few of the first, an election takes a few of the longest.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(3), Duration::from_millis(40));

/// How to reach the directory.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the cluster.
    pub cluster: String,
    /// Role and name of the caller, for logs: `gateway gw-1`.
    pub name: String,
    /// Peer addresses of directory nodes; one that can be reached is enough.
    pub nodes: Vec<String>,
}

/// The directory as seen from another process. Cheap to clone; clones share one control stream.
#[derive(Debug, Clone)]
pub struct Directory {
    settings: Arc<Settings>,
    purpose: Purpose,
    answer_timeout: Duration,
    known: Arc<Mutex<Known>>,
    control: Arc<tokio::sync::Mutex<Option<Arc<Control>>>>,
}

/// What has been learned of the nodes.
#[derive(Debug, Default)]
struct Known {
    nodes: Vec<String>,
    leader: Option<String>,
    turn: usize,
    clusters: Clusters,
}

impl Directory {
    /// Nothing is connected before the first question.
    pub fn new(settings: Settings) -> Self {
        let turn = usize::try_from(chance::below(settings.nodes.len() as u64)).unwrap_or(0);
        let known = Known { nodes: settings.nodes.clone(), leader: None, turn, clusters: Clusters::default() };
        Self {
            settings: Arc::new(settings),
            purpose: Purpose::Control,
            answer_timeout: ANSWER_TIMEOUT,
            known: Arc::new(Mutex::new(known)),
            control: Arc::default(),
        }
    }

    /// The same directory over a stream of its own for what concerns sessions, which never queues behind anything else. A node
    /// that lets one of them wait for `answer_timeout` and says nothing meanwhile is left.
    #[must_use]
    pub fn for_leases(&self, answer_timeout: Duration) -> Self {
        Self { purpose: Purpose::Leases, ..self.separate(answer_timeout) }
    }

    /// The same directory over a control stream of its own.
    fn separate(&self, answer_timeout: Duration) -> Self {
        Self { control: Arc::default(), answer_timeout, ..self.clone() }
    }

    /// Asks until there is an answer or `within` is over. Repeats only what takes effect once however often it arrives.
    pub async fn ask(&self, body: RequestBody, within: Duration) -> Result<Answer, Failure> {
        let deadline = Instant::now() + within;
        let mut may_have_applied = false;
        let mut retry_pause = RETRY_PAUSE.0;
        loop {
            let failure = match tokio::time::timeout_at(deadline, self.ask_once(body.clone())).await {
                Ok(Ok(answer)) => return Ok(of_all_copies(answer, may_have_applied)),
                Ok(Err(failure)) => failure,
                Err(_) => return Err(Failure::Unknown),
            };
            may_have_applied |= failure == Failure::Unknown;
            let pause = match &failure {
                Failure::Refused { .. } => return Err(failure),
                // Somebody has to free space; whoever asks is told at once.
                Failure::NoSpace { .. } if !may_have_applied => return Err(failure),
                Failure::Unknown if !is_repeatable(&body) => return Err(failure),
                Failure::NotLeader { leader: Some(_) } => Duration::from_millis(1),
                _ => {
                    let pause = chance::jittered(retry_pause, 0.5);
                    retry_pause = (retry_pause * 2).min(RETRY_PAUSE.1);
                    pause
                }
            };
            if Instant::now() + pause >= deadline {
                // An earlier copy may still take effect, whatever was said of the last one.
                return Err(if may_have_applied { Failure::Unknown } else { failure });
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Changes the group. That takes longer than other requests, so it has a stream of its own.
    pub async fn change(&self, change: GroupChange) -> Result<Answer, Failure> {
        self.separate(CHANGE_ANSWER_TIMEOUT).ask(RequestBody::Change(change), CHANGE_TIMEOUT).await
    }

    /// One attempt at the leader, as far as it is known. Requests leave in the order in which these calls are first polled.
    pub async fn ask_once(&self, body: RequestBody) -> Result<Answer, Failure> {
        let (control, sent) = {
            let mut slot = self.control.lock().await;
            let control = match &*slot {
                Some(open) if open.is_open() => Arc::clone(open),
                _ => Arc::clone(slot.insert(self.connect().await?)),
            };
            let sent = control.send(|id| Request { id, body }).await;
            (control, sent)
        };
        let result = match control.answer(sent, self.answer_timeout).await {
            Ok(response) => response.result,
            Err(Broken) => Err(Failure::Unknown),
        };
        match &result {
            Ok(Answer::Cluster(cluster)) => self.learn(cluster.members.iter().map(|m| m.peer.clone()).collect()),
            // It leads since a moment ago.
            Err(Failure::NotLeader { leader: Some((_, address)) }) if address == control.address() => {}
            Err(Failure::NotLeader { leader }) => self.turn_away(&control, leader.as_ref().map(|l| l.1.clone())).await,
            Err(Failure::NoQuorum | Failure::Unknown | Failure::ShutOut { .. }) => self.turn_away(&control, None).await,
            _ => {}
        }
        result
    }

    /// Opens a watch at a node, at another one each time.
    ///
    /// # Errors
    /// When that node can't be reached or refuses.
    pub async fn watch(&self, from: WatchFrom) -> std::io::Result<WatchStream> {
        let node = self.next_node();
        let watch = WatchStream::open(node, &self.hello(Purpose::Watch(from))).await?;
        let met = self.known().clusters.meet(watch.node(), watch.cluster());
        met.map(|()| watch).map_err(std::io::Error::other)
    }

    /// The id of the cluster that is followed, once a node has told it.
    pub fn cluster_id(&self) -> Option<u64> {
        self.known().clusters.followed()
    }

    fn hello(&self, purpose: Purpose) -> Hello {
        Hello::new(&self.settings.cluster, &self.settings.name, purpose)
    }

    async fn connect(&self) -> Result<Arc<Control>, Failure> {
        let leader = self.known().leader.take();
        let address = leader.unwrap_or_else(|| self.next_node());
        let hello = self.hello(self.purpose.clone());
        match tokio::time::timeout(CONNECT_TIMEOUT, Control::connect(&address, &hello)).await {
            Ok(Ok(control)) if self.known().clusters.meet(&address, control.cluster()).is_ok() => {
                return Ok(Arc::new(control));
            }
            // It was told to the log.
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(node = %address, %error, "a directory node can't be reached"),
            Err(_) => tracing::debug!(node = %address, "a directory node does not answer"),
        }
        // Nothing was sent, so nothing can have been applied; another node is next.
        Err(Failure::NotLeader { leader: None })
    }

    /// Leaves a node that does not lead, unless somebody else already did.
    async fn turn_away(&self, control: &Arc<Control>, leader: Option<String>) {
        let mut slot = self.control.lock().await;
        if slot.as_ref().is_some_and(|held| Arc::ptr_eq(held, control)) {
            let mut known = self.known();
            known.leader = leader.filter(|address| address != control.address());
            // Whoever is tried next, it is this one last.
            known.turn = known.nodes.iter().position(|node| node == control.address()).unwrap_or(known.turn);
            *slot = None;
        }
    }

    fn next_node(&self) -> String {
        let mut known = self.known();
        known.turn = (known.turn + 1) % known.nodes.len().max(1);
        known.nodes.get(known.turn).cloned().unwrap_or_default()
    }

    /// Learns the peer addresses of the members. The given nodes are kept in mind beside them, for a group whose members have
    /// all moved.
    pub fn learn(&self, mut members: Vec<String>) {
        members.retain(|address| !address.is_empty());
        if members.is_empty() {
            return;
        }
        members
            .extend(self.settings.nodes.iter().filter(|given| !members.contains(given)).cloned().collect::<Vec<_>>());
        self.known().nodes = members;
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().expect("no code panics while holding this lock")
    }
}

/// What a request came to whose last copy was answered, when an earlier one may have taken effect. It may have lifted the ban
/// that the last one did not find any more; nobody can tell, and there is none, as was asked.
fn of_all_copies(answer: Answer, may_have_applied: bool) -> Answer {
    match answer {
        Answer::Unbanned { existed, revision } => Answer::Unbanned { existed: existed || may_have_applied, revision },
        other => other,
    }
}

/// Whether a second copy of the request changes nothing.
fn is_repeatable(body: &RequestBody) -> bool {
    !matches!(body, RequestBody::Batch(Batch { seq: None, .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_that_an_earlier_copy_may_have_lifted_counts_as_lifted() {
        let answer = |existed| Answer::Unbanned { existed, revision: 7 };
        assert_eq!(of_all_copies(answer(false), true), answer(true));
        assert_eq!(of_all_copies(answer(true), true), answer(true));
        assert_eq!(of_all_copies(answer(false), false), answer(false));
        assert_eq!(of_all_copies(Answer::Gone, true), Answer::Gone);
    }
}
