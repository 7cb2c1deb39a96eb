//! What a request may ask for, in one place.

use std::time::Duration;

use crate::directory::limits::BATCH_OPS_MAX;

/// What a request may ask for. More is refused with 413, 429 or 400.
#[derive(Debug, Clone)]
pub struct ApiLimits {
    /// Bytes of the body of a push.
    pub push_bytes_max: usize,
    /// Bytes of the body of a push batch; no item may be larger than one push.
    pub push_batch_bytes_max: usize,
    /// Pushes in a push batch.
    pub push_items_max: usize,
    /// Bytes of the body of a session's batch. Its binary form is smaller and has to fit into one frame to the leader.
    pub batch_bytes_max: usize,
    /// Operations in a session's batch.
    pub batch_ops_max: usize,
    /// Bytes of the body of a lookup: room for that many users whose names are all escapes would be more than anyone needs.
    pub lookup_bytes_max: usize,
    /// Users in a lookup.
    pub lookup_users_max: usize,
    /// Bytes of every other body.
    pub body_bytes_max: usize,
    /// Time for a body to arrive.
    pub body_timeout: Duration,
    /// Connections in one page of a list.
    pub page_max: usize,
    /// Connections looked at for one page; a page of a rare filter may be empty and still have a next one.
    /// The look is not interrupted, so this also bounds how long one request holds a worker: some milliseconds.
    pub page_scan_max: usize,
    /// Open watches.
    pub watches_max: usize,
    /// Wait for the leader before the outcome is called unknown.
    pub ask_timeout: Duration,
    /// Wait for a change of the group: a node is asked, may have to catch up a little, and two entries are decided.
    pub change_timeout: Duration,
    /// Wait for a fresh view, unless the caller told one.
    pub read_timeout: Duration,
    /// Longest wait that a caller may ask for.
    pub timeout_max: Duration,
    /// Wait for the outcome of a push, unless the caller told one.
    pub push_timeout: Duration,
    /// Wait for the answer of a gateway about its own connections: it looks at what it has in memory.
    pub gateway_timeout: Duration,
    /// Wait for connections that were asked to be closed, unless the caller told one. Their gateways need milliseconds; one
    /// that needs longer than this may be gone, and then the lease decides.
    pub disconnect_timeout: Duration,
}

impl Default for ApiLimits {
    fn default() -> Self {
        Self {
            push_bytes_max: 1 << 20,
            push_batch_bytes_max: 16 << 20,
            push_items_max: 1000,
            batch_bytes_max: 4_000_000,
            batch_ops_max: BATCH_OPS_MAX,
            lookup_bytes_max: 4 << 20,
            lookup_users_max: 10_000,
            body_bytes_max: 64 << 10,
            body_timeout: Duration::from_secs(10),
            page_max: 10_000,
            page_scan_max: 20_000,
            watches_max: 1000,
            ask_timeout: Duration::from_secs(10),
            change_timeout: Duration::from_secs(20),
            read_timeout: Duration::from_secs(5),
            timeout_max: Duration::from_secs(60),
            push_timeout: Duration::from_secs(2),
            gateway_timeout: Duration::from_secs(1),
            disconnect_timeout: Duration::from_secs(2),
        }
    }
}
