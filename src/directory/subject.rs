//! Whom an event is about.

use std::sync::Arc;

use super::outcome::Event;

impl Event {
    /// The user whose connections it changes, where it is about one user.
    pub fn user(&self) -> Option<&Arc<str>> {
        match self {
            Self::Opened { connection, .. } => Some(&connection.user),
            Self::Closed { user, .. } | Self::MetaChanged { user, .. } => Some(user),
            Self::SessionOpened { .. }
            | Self::SessionEnded { .. }
            | Self::ReleaseAsked { .. }
            | Self::TopicJoined { .. }
            | Self::TopicLeft { .. } => None,
        }
    }
}
