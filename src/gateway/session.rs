//! Keeping the gateway's session: opening it, renewing its lease, opening another one when it is lost, ending it.
//!
//! The deadline that counts is the gateway's own ([`super::lease`]). Past it the gateway is fenced: it takes no new clients, and
//! exclusive connections are neither written to nor read; shared ones stay open and keep receiving, until the lease has been
//! lost for longer than a grace - and never while a directory node says that there is no quorum, because then nobody else can
//! be granted anything either.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::asking::Ask;
use super::lease::{Lease, Turn};
use super::meters::Meters;
use super::ours::Ours;
use super::table::Table;
use crate::chance;
use crate::clock;
use crate::directory::{Epoch, OpenSession, Reason};
use crate::lease;
use crate::wire::close::CloseCode;
use crate::wire::peer::{Answer, Failure, RequestBody};

/// Renewals under way at most: one more a fifth of the lease later, so these cover more than a lease.
const RENEWALS_UNDER_WAY: usize = 8;

/// Pause after a failed renewal. Several fit between two elections and the end of the lease.
const RENEW_PAUSE: Duration = Duration::from_millis(60);

/// Pause after a failed attempt to open a session.
const OPEN_PAUSE: Duration = Duration::from_millis(200);

/// Pause while another process holds the name.
const TAKEN_PAUSE: Duration = Duration::from_millis(500);

/// Longest wait for the answer to one attempt to open a session: the leader may ask the incumbent first.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest time for telling the directory that the session is over. If it is not told, the lease runs out.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the own deadline is looked at when nobody asks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// For how long the word of a directory node counts that there is no quorum.
const NO_QUORUM_COUNTS: Duration = Duration::from_secs(15);

/// Why a gateway stops although nobody told it to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExitReason {
    /// Another process took the name while this one served.
    #[error("another process runs under the gateway id {id:?} (session s-{epoch}); this one gives way to it")]
    Replaced {
        /// The name.
        id: String,
        /// The other one's session.
        epoch: Epoch,
    },
    /// Another process held the name all along.
    #[error(
        "another process already runs under the gateway id {id:?} (session s-{epoch}) and answers; choose another --id, or stop it"
    )]
    Taken {
        /// The name.
        id: String,
        /// The other one's session.
        epoch: Epoch,
    },
    /// The directory won't open a session as it was asked for.
    #[error("the directory refuses a session: {0}")]
    Refused(String),
    /// A part of the process broke.
    #[error("{0}")]
    Broken(String),
}

/// Keeps the gateway's session.
pub(super) struct Keeper<A> {
    pub(super) ask: A,
    pub(super) lease: Arc<Lease>,
    pub(super) table: Arc<Table>,
    pub(super) ours: Arc<Ours>,
    pub(super) meters: Meters,
    /// Whether its connections are served under the lease only.
    pub(super) exclusive: bool,
    /// What is asked for, but for the attempt.
    pub(super) open: OpenSession,
    /// How long a name that another process holds is asked for at the start.
    pub(super) taken_wait: Duration,
    pub(super) lost_grace: Duration,
    /// To the registrar: the session to register in.
    pub(super) session: watch::Sender<Option<Epoch>>,
    /// From the registrar: a session that the directory says is over.
    pub(super) fenced: watch::Receiver<Epoch>,
    /// When a directory node last said that there is no quorum.
    pub(super) no_quorum: Arc<Mutex<Option<Instant>>>,
}

/// Why a session is no longer renewed.
enum Left {
    Lost,
    Ending,
}

impl<A: Ask> Keeper<A> {
    /// Works until `ending`, then ends the session.
    ///
    /// # Errors
    /// When this process must not go on under its name.
    pub(super) async fn run(mut self, ending: CancellationToken) -> Result<(), ExitReason> {
        let look = keep_looking(Arc::clone(&self.lease), self.meters.clone());
        let grace = close_after_grace(
            Arc::clone(&self.lease),
            Arc::clone(&self.table),
            Arc::clone(&self.no_quorum),
            self.lost_grace,
        );
        tokio::select! {
            kept = self.keep(ending) => kept,
            never = look => match never {},
            never = grace => match never {},
        }
    }

    async fn keep(&mut self, ending: CancellationToken) -> Result<(), ExitReason> {
        loop {
            let opened = tokio::select! {
                () = ending.cancelled() => return Ok(()),
                opened = self.open_session() => opened?,
            };
            self.session.send_replace(Some(opened));
            match self.renew(opened, &ending).await {
                Left::Ending => {
                    self.end(opened).await;
                    return Ok(());
                }
                Left::Lost => {
                    tracing::warn!(epoch = opened, "the session is over; opening another one");
                    self.lease.lose();
                    look(&self.lease, &self.meters);
                    self.session.send_replace(None);
                }
            }
        }
    }

    /// Asks until a session is granted. An attempt whose outcome is not known is repeated under its number.
    async fn open_session(&mut self) -> Result<Epoch, ExitReason> {
        let began = Instant::now();
        let had_session = self.open.attempt > 0;
        self.open.attempt += 1;
        let (mut is_repeated, mut is_told) = (false, false);
        loop {
            let sent = clock::boottime();
            let body = RequestBody::OpenSession(self.open.clone());
            let answer = timeout(OPEN_TIMEOUT, self.ask.ask_once(body)).await.unwrap_or(Err(Failure::Unknown));
            let pause = match answer {
                Ok(Answer::Opened { epoch, lease_ms }) => {
                    self.lease.hold(epoch, sent + lease::serve(Duration::from_millis(lease_ms.into())));
                    look(&self.lease, &self.meters);
                    tracing::info!(epoch, lease_ms, attempt = self.open.attempt, "the gateway has a session");
                    return Ok(epoch);
                }
                Ok(Answer::Taken { epoch }) => {
                    let id = self.open.gateway.to_string();
                    if had_session {
                        return Err(ExitReason::Replaced { id, epoch });
                    }
                    if began.elapsed() >= self.taken_wait {
                        return Err(ExitReason::Taken { id, epoch });
                    }
                    if !std::mem::replace(&mut is_told, true) {
                        let (wait, gateway) = (self.taken_wait, &self.open.gateway);
                        tracing::warn!(%gateway, epoch, ?wait, "another process holds this gateway id; waiting for it to go");
                    }
                    TAKEN_PAUSE
                }
                Ok(Answer::NotOpened { why }) if !is_repeated => return Err(ExitReason::Refused(why)),
                Ok(Answer::NotOpened { .. }) => {
                    // An earlier copy was granted and its session is over by now, so this number is used up.
                    self.open.attempt += 1;
                    is_repeated = false;
                    OPEN_PAUSE
                }
                Ok(other) => {
                    tracing::error!(?other, "an answer to another question");
                    OPEN_PAUSE
                }
                Err(failure) => {
                    note(&self.no_quorum, &failure);
                    is_repeated |= failure == Failure::Unknown;
                    OPEN_PAUSE
                }
            };
            sleep(chance::jittered(pause, 0.5)).await;
        }
    }

    async fn end(&self, epoch: Epoch) {
        // Whatever is still open stops being served here. But only where every socket has stopped that is known by now; a
        // claim that others may take at once must not rest on one that is about to.
        self.lease.lose();
        // That is no news to anybody.
        let _ = self.lease.turn();
        let fenced = !self.exclusive || self.table.is_empty();
        let body = RequestBody::EndSession { epoch, reason: Reason::Drained, fenced };
        let told = timeout(END_TIMEOUT, async {
            while let Err(failure) = self.ask.ask_once(body.clone()).await {
                tracing::debug!(epoch, %failure, "the session is not ended yet");
                sleep(chance::jittered(RENEW_PAUSE, 0.5)).await;
            }
        });
        if told.await.is_err() {
            tracing::warn!(epoch, "the directory was not told that the session is over; its lease will run out");
        }
        self.session.send_replace(None);
    }

    /// Renews until the session is over. Several renewals may be under way, each with the moment at which it was sent, so
    /// that a slow answer counts for what it is worth and delays no other.
    async fn renew(&self, epoch: Epoch, ending: &CancellationToken) -> Left {
        let Self { ask, lease, ours, .. } = self;
        let mut fenced = self.fenced.clone();
        let mut under_way: FuturesUnordered<BoxFuture<'_, (Duration, Result<Answer, Failure>)>> =
            FuturesUnordered::new();
        // The grant told the length of the lease; what is left of it tells a fifth.
        let mut every = (lease.left() / 4).max(RENEW_PAUSE);
        let mut next = Instant::now() + chance::jittered(every, lease::JITTER);
        loop {
            tokio::select! {
                () = ending.cancelled() => return Left::Ending,
                Ok(over) = fenced.wait_for(|fenced| *fenced == epoch) => {
                    drop(over);
                    return Left::Lost;
                }
                () = sleep_until(next), if under_way.len() < RENEWALS_UNDER_WAY => {
                    let handled = ours.handled();
                    under_way.push(Box::pin(async move {
                        let sent = clock::boottime();
                        (sent, ask.ask_once(RequestBody::Renew { epoch, handled }).await)
                    }));
                    next = Instant::now() + chance::jittered(every, lease::JITTER);
                }
                Some((sent, answer)) = under_way.next() => match answer {
                    Ok(Answer::Renewed { lease_ms, release, revision }) => {
                        let length = Duration::from_millis(lease_ms.into());
                        // What is no longer this gateway's stops before the rest may go on.
                        ours.asked(epoch, revision, &release);
                        self.extend(sent + lease::serve(length));
                        every = lease::renew_every(length).max(RENEW_PAUSE);
                    }
                    Ok(Answer::Gone) => return Left::Lost,
                    Ok(other) => tracing::error!(?other, "an answer to another question"),
                    Err(failure) => {
                        tracing::debug!(epoch, %failure, "a renewal failed; repeating it soon");
                        note(&self.no_quorum, &failure);
                        next = next.min(Instant::now() + chance::jittered(RENEW_PAUSE, 0.5));
                    }
                }
            }
        }
    }

    /// The lease is held until then. If it was over meanwhile, sockets that have stopped go on.
    fn extend(&self, deadline: Duration) {
        look(&self.lease, &self.meters);
        if self.lease.extend(deadline) {
            self.table.wake_all();
        }
        look(&self.lease, &self.meters);
    }
}

fn note(no_quorum: &Mutex<Option<Instant>>, failure: &Failure) {
    if *failure == Failure::NoQuorum {
        *no_quorum.lock().expect("no code panics while holding this lock") = Some(Instant::now());
    }
}

/// Says it when the own deadline has passed, and when the lease is held again.
fn look(lease: &Lease, meters: &Meters) {
    meters.lease_remaining(lease.left());
    match lease.turn() {
        Some(Turn::Fenced) => {
            meters.self_fenced();
            tracing::warn!(epoch = ?lease.epoch(), "the lease is over; exclusive connections are not served until it is held again");
        }
        Some(Turn::Held) => tracing::info!(epoch = ?lease.epoch(), "the gateway's lease is held"),
        None => {}
    }
}

/// Notices when the own deadline passes.
async fn keep_looking(lease: Arc<Lease>, meters: Meters) -> std::convert::Infallible {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        look(&lease, &meters);
    }
}

/// Closes the sockets once the lease has been lost for too long.
async fn close_after_grace(
    lease: Arc<Lease>,
    table: Arc<Table>,
    no_quorum: Arc<Mutex<Option<Instant>>>,
    grace: Duration,
) -> std::convert::Infallible {
    let mut lost_since: Option<Instant> = None;
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if lease.is_held() {
            lost_since = None;
            continue;
        }
        let since = *lost_since.get_or_insert_with(Instant::now);
        let said = *no_quorum.lock().expect("no code panics while holding this lock");
        let has_no_quorum = said.is_some_and(|said| said.elapsed() < NO_QUORUM_COUNTS);
        if since.elapsed() >= grace && !has_no_quorum {
            table.close_all(|| CloseCode::LeaseLost.into());
        }
    }
}

#[cfg(test)]
mod tests;
