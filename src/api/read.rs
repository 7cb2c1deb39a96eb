//! Reads: how fresh an answer has to be, and what it shows.

use std::time::Duration;

use tokio::time::timeout;

use super::answer::Shows;
use super::request::Query;
use super::{ApiLimits, Error};
use crate::directory::Revision;
use crate::view::{At, Stale, View};
use crate::wire::http::ErrorCode;

/// How fresh an answer has to be.
#[derive(Debug, Clone)]
pub(super) struct Freshness {
    cached: bool,
    max_stale: Option<Duration>,
    min_revision: Option<Revision>,
    /// What the caller told.
    asked: Option<Duration>,
    within: Duration,
}

impl Freshness {
    /// What the query knobs of every read ask for. Linearizable unless told otherwise.
    pub(super) fn from_query(query: &Query, limits: &ApiLimits) -> Result<Self, Error> {
        Self::with_default(false, query, limits)
    }

    /// What the query knobs of a push ask for. It uses what is cached unless told otherwise, and the resolve rule makes
    /// good what turns out to be stale; only a caller can know of a connection that is new.
    pub(super) fn of_push(query: &Query, limits: &ApiLimits) -> Result<Self, Error> {
        Self::with_default(true, query, limits)
    }

    /// What the query knobs ask for where a process tells of its own state: a node that is cut off may be asked, too.
    pub(super) fn of_own_state(query: &Query, limits: &ApiLimits) -> Result<Self, Error> {
        Self::with_default(true, query, limits)
    }

    /// Whether the answer is to come from memory, whatever else is out of reach.
    pub(super) fn is_cached(&self) -> bool {
        self.cached
    }

    /// Longest wait for what was asked for.
    pub(super) fn within(&self) -> Duration {
        self.within
    }

    fn with_default(cached: bool, query: &Query, limits: &ApiLimits) -> Result<Self, Error> {
        let cached = match query.text("consistency") {
            None => cached,
            Some("linearizable") => false,
            Some("cached") => true,
            Some(other) => {
                return Err(Error::bad_request(format!("consistency: {other:?} is neither linearizable nor cached")));
            }
        };
        let asked = query.millis("timeout_ms")?;
        if asked.is_some_and(|asked| asked.is_zero() || asked > limits.timeout_max) {
            let message = format!("timeout_ms: 1 to {}", limits.timeout_max.as_millis());
            return Err(Error::bad_request(message));
        }
        Ok(Self {
            cached,
            max_stale: query.millis("max_stale_ms")?,
            min_revision: query.parsed("min_revision")?,
            asked,
            within: asked.unwrap_or(limits.read_timeout),
        })
    }

    /// Looks once the view is fresh enough. What `look` reads in one call is exactly the state that the answer names.
    pub(super) async fn read<V: View, T>(
        &self,
        view: &V,
        look: impl FnOnce(&V) -> At<T>,
    ) -> Result<(T, Revision, Shows), Error> {
        self.read_found(view, async { Ok(look(view)) }).await
    }

    /// As [`Self::read`], where a look may have to ask somebody.
    pub(super) async fn read_found<T>(
        &self,
        view: &impl View,
        look: impl Future<Output = Result<At<T>, Stale>>,
    ) -> Result<(T, Revision, Shows), Error> {
        self.freshen(view).await?;
        let found = timeout(self.within, look).await;
        let At { value, revision } =
            found.map_err(|_| Error::new(ErrorCode::Timeout, Stale::Timeout.to_string()))??;
        if !self.cached {
            return Ok((value, revision, Shows::revision(revision)));
        }
        // Taken after the look: what was read can only be younger than this says.
        let staleness = view.staleness();
        self.refuse_stale(staleness)?;
        Ok((value, revision, Shows { revision: Some(revision), staleness }))
    }

    /// Waits until the view is fresh enough.
    pub(super) async fn freshen(&self, view: &impl View) -> Result<(), Error> {
        if !self.cached {
            self.linearize(view).await?;
        }
        match self.min_revision.filter(|revision| view.revision() < *revision) {
            Some(revision) => self.reach(view, revision).await,
            None => Ok(()),
        }
    }

    async fn linearize(&self, view: &impl View) -> Result<(), Error> {
        match timeout(self.within, view.linearize()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(stale)) => Err(stale.into()),
            Err(_) if self.asked.is_none() => Err(Stale::Timeout.into()),
            Err(_) => Err(Error::new(ErrorCode::Timeout, Stale::Timeout.to_string())),
        }
    }

    async fn reach(&self, view: &impl View, revision: Revision) -> Result<(), Error> {
        view.reach(revision, self.within).await.map_err(|stale| match stale {
            Stale::NoQuorum | Stale::TooMany => stale.into(),
            Stale::Timeout => {
                let message =
                    format!("revision {revision} was not reached in time; this process is at {}", view.revision());
                Error::new(ErrorCode::Timeout, message)
            }
        })
    }

    fn refuse_stale(&self, staleness: Option<Duration>) -> Result<(), Error> {
        let message = match staleness {
            Some(staleness) if self.max_stale.is_none_or(|max| staleness <= max) => return Ok(()),
            Some(staleness) => format!("what is cached may be {} ms old", staleness.as_millis()),
            // Never confirmed: it may be nothing at all, and nothing must not be shown as nobody.
            None => String::from("this process has not learned the state of the directory yet"),
        };
        Err(Error::new(ErrorCode::Unavailable, message))
    }
}
