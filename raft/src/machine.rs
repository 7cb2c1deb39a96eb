//! What a replicated application is: a state that committed entries change, and that can be frozen and restored.

use std::io;

/// The replicated application.
///
/// Everything here must be deterministic: the same entries in the same order give the same state on every member.
pub trait StateMachine: Send + Sync + 'static {
    /// Applies one committed entry. `index` is its position in the log, hence the revision of every change it makes.
    ///
    /// Called in the order of the index, by one task at a time; a call must not block on anything but the machine's own
    /// short locks, for every later entry waits behind it. `reply` is given only on the member that proposed the entry:
    /// the outcome for the proposer is written there.
    ///
    /// # Errors
    /// For an entry that this version can't read; nothing may have changed then. A member that went on past it would have
    /// another state than the others, so the replica ends, as it does for a panic.
    fn apply(&self, index: u64, data: &[u8], reply: Option<&mut Vec<u8>>) -> io::Result<()>;

    /// The log moved past an entry that carries nothing for the application (a leader's first entry, a membership).
    /// Called in the same order as `apply`.
    fn applied(&self, index: u64);

    /// A copy of the state as of now, taken between two applies. It must be cheap, O(1) at best: applying waits for
    /// it, serialising does not.
    fn freeze(&self) -> Box<dyn Frozen>;

    /// Replaces the state, up to and including `index`, by what [`Frozen::write_to`] wrote. Called off the async
    /// workers. What was read before an error is unreliable: the caller goes on only after a success.
    fn restore(&self, index: u64, from: &mut dyn io::Read) -> io::Result<()>;
}

/// A state that no longer changes, to be written out.
pub trait Frozen: Send {
    /// Writes the whole state. Called off the async workers, in bounded memory: `to` is a buffered file. Equal states
    /// must give equal bytes, so that members can be compared.
    fn write_to(&self, to: &mut dyn io::Write) -> io::Result<()>;
}
