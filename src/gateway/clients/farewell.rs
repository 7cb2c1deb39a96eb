//! Why and how a connection ends that the server closes.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::directory::Release;
use crate::wire::close::{ASKED_CODES, CloseCode};

/// Bytes of text in a close frame.
const CLOSE_TEXT_MAX: usize = 123;

/// Why and how a connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::gateway) struct Farewell {
    /// What kind of end it is.
    pub(in crate::gateway) code: CloseCode,
    /// When the client should come back.
    pub(in crate::gateway) after: Duration,
    /// What it is told instead of that code and its word.
    told: Option<Arc<Told>>,
}

/// What a client is told by name of somebody else.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    code: u16,
    reason: Option<Arc<str>>,
    message: Option<Cow<'static, str>>,
}

impl From<CloseCode> for Farewell {
    fn from(code: CloseCode) -> Self {
        Self { code, after: Duration::ZERO, told: None }
    }
}

impl Farewell {
    /// The directory asks for it: another connection takes its place, or somebody disconnects it.
    pub(in crate::gateway) fn released(release: &Release) -> Self {
        let number = if ASKED_CODES.contains(&release.code) { release.code } else { CloseCode::Kicked.code() };
        let code = if number == CloseCode::Superseded.code() { CloseCode::Superseded } else { CloseCode::Kicked };
        let told = Told { code: number, reason: release.reason.clone(), message: None };
        Self { told: Some(Arc::new(told)), ..code.into() }
    }

    /// The policy gives the place to whoever is there. Who that is, is not this client's business.
    pub(in crate::gateway) fn refused() -> Self {
        let code = CloseCode::Superseded;
        let message = Some("another connection has the place, and the policy of this gateway lets it stay".into());
        let told = Told { code: code.code(), reason: None, message };
        Self { told: Some(Arc::new(told)), ..code.into() }
    }

    /// With a sentence for people.
    pub(super) fn because(code: CloseCode, why: String) -> Self {
        let told = Told { code: code.code(), reason: None, message: Some(why.into()) };
        Self { told: Some(Arc::new(told)), ..code.into() }
    }

    /// A moment to come back at.
    pub(super) fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }

    /// The number in `goodbye` and in the close frame.
    pub(super) fn number(&self) -> u16 {
        self.told.as_ref().map_or(self.code.code(), |told| told.code)
    }

    /// The reason in `goodbye`: a word, or what somebody gave as the reason.
    pub(super) fn reason(&self) -> &str {
        self.told.as_ref().and_then(|told| told.reason.as_deref()).unwrap_or(self.code.reason())
    }

    /// As much of the reason as a close frame holds.
    pub(super) fn close_text(&self) -> &str {
        let reason = self.reason();
        &reason[..reason.floor_char_boundary(CLOSE_TEXT_MAX)]
    }

    /// A sentence for people, if the reason does not say enough.
    pub(super) fn message(&self) -> Option<&str> {
        self.told.as_ref().and_then(|told| told.message.as_deref())
    }

    /// Whether nothing may be written or passed on any more but the goodbye: the place is somebody else's now, or soon.
    pub(super) fn stops_at_once(&self) -> bool {
        matches!(self.code, CloseCode::Superseded | CloseCode::Kicked)
    }

    /// Whether the goodbye waits until the directory has forgotten the connection.
    pub(super) fn waits_for_commit(&self) -> bool {
        self.stops_at_once() || self.code == CloseCode::Drain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_says_what_was_asked_within_the_codes_that_there_are() {
        let release = |code, reason: Option<&str>| Farewell::released(&Release { code, reason: reason.map(Arc::from) });
        let superseded = release(4004, None);
        assert_eq!(
            (superseded.code, superseded.number(), superseded.reason()),
            (CloseCode::Superseded, 4004, "superseded")
        );
        let moved = release(4500, Some("moved"));
        assert_eq!((moved.code, moved.number(), moved.reason()), (CloseCode::Kicked, 4500, "moved"));
        assert_eq!(release(1000, None).number(), 4003);
        let long = release(4003, Some(&"é".repeat(100)));
        assert_eq!((long.reason().len(), long.close_text().len()), (200, 122));
    }
}
