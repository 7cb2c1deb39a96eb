//! The limits that the state machine itself enforces. They are part of its meaning: every node must decide alike, so
//! they are constants and not settings.

/// Bytes of a user, device, topic or gateway name: enough for any id in use, small enough that a million entries stay small.
pub const NAME_BYTES_MAX: usize = 128;

/// Bytes of metadata, an address or a URL: entries are a directory, not a store.
pub const TEXT_BYTES_MAX: usize = 4096;

/// Batches of a session whose outcomes are held, and so the number that may be in flight.
pub const BATCHES_IN_FLIGHT_MAX: usize = 32;

/// Operations of one batch, see [`super::Batch::size`]: keeps the time to apply an entry, and the answer to it, bounded.
pub const BATCH_OPS_MAX: usize = 4096;

/// Topics of one operation: a gateway joins them as its clients subscribe, and again all of them in a new session.
pub const OP_TOPICS_MAX: usize = 256;

/// Topics of which one session has subscribers: bounds what a gateway costs the directory beside its connections.
pub const SESSION_TOPICS_MAX: u64 = 1_000_000;

/// Users that are banned: a list for operators and services, not for a firewall.
pub const BANS_MAX: usize = 1_000_000;

/// The close code of a connection whose place another one takes. The other codes are the business of whoever asks.
pub const CODE_SUPERSEDED: u16 = 4004;

/// The close code of a connection whose user is banned.
pub const CODE_BANNED: u16 = 4003;

/// Whether a user or gateway name is acceptable: not empty, within the limit, no control characters.
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && is_optional_name(text)
}

/// Like [`is_name`], but may be empty.
pub fn is_optional_name(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control)
}
