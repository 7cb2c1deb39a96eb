//! What gateways are asked to release, and which of them take no notice.
//!
//! Requests ride on the answers to renewals, so that they arrive even if the watch does not; a renewal says up to which revision
//! they were handled. A gateway that renews and handles nothing would block whoever waits for its connections for
//! ever: once a request is a whole lease old, as this leader counts it, the lease is not extended any more.

use std::time::Duration;

use tokio::time::Instant;

use crate::directory::{ConnectionId, Directory, Epoch, Release, Revision};

/// Requests in one answer; when there are more, the rest comes with later renewals.
const RELEASES_MAX: usize = 1000;

/// The oldest request that a gateway has not handled, and since when this leader knows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lag(Option<(Revision, Instant)>);

impl Lag {
    /// Notes how far a gateway is, and says for how long it has been behind.
    pub(super) fn note(&mut self, oldest: Option<Revision>, now: Instant) -> Duration {
        self.0 = match (self.0, oldest) {
            (_, None) => None,
            (Some((revision, since)), Some(oldest)) if oldest <= revision => Some((revision, since)),
            (_, Some(oldest)) => Some((oldest, now)),
        };
        self.0.map_or(Duration::ZERO, |(_, since)| now.saturating_duration_since(since))
    }
}

/// What a session is asked for, and the oldest of it that is not handled.
pub(super) fn asked_of(
    directory: &Directory,
    epoch: Epoch,
    handled: Revision,
) -> (Vec<(ConnectionId, Release)>, Option<Revision>) {
    let mut oldest = None;
    let asked = directory.asked(epoch).take(RELEASES_MAX).map(|asked| {
        if asked.since > handled {
            oldest = Some(oldest.unwrap_or(asked.since).min(asked.since));
        }
        (asked.id, asked.release.clone())
    });
    (asked.collect(), oldest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_request_counts_until_it_is_handled() {
        let (mut lag, second) = (Lag::default(), Duration::from_secs(1));
        let now = Instant::now();
        assert_eq!(lag.note(None, now), Duration::ZERO);
        assert_eq!(lag.note(Some(7), now), Duration::ZERO);
        assert_eq!(lag.note(Some(7), now + second), second);
        // It keeps up: another one is the oldest now.
        assert_eq!(lag.note(Some(9), now + second * 2), Duration::ZERO);
        assert_eq!(lag.note(Some(9), now + second * 5), second * 3);
        assert_eq!(lag.note(None, now + second * 6), Duration::ZERO);
    }
}
