//! The numbers that a gateway shows. Handles are looked up once, so that counting costs one atomic addition.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::telemetry;
use crate::wire::peer::TargetStatus;

/// Handles to all metrics of a gateway. Cheap to clone.
#[derive(Clone)]
pub(super) struct Meters(Arc<Handles>);

struct Handles {
    process: Arc<str>,
    connections: Gauge,
    pending: Gauge,
    topics: Gauge,
    subscriptions: Gauge,
    connected: Counter,
    connect_seconds: Histogram,
    queued_bytes: Gauge,
    slow_consumers: Counter,
    lease_remaining: Gauge,
    self_fenced: Counter,
    hits: Counter,
    misses: Counter,
    cache_staleness: Gauge,
    cache_users: Gauge,
    acked: Counter,
    written: Counter,
    gone: Counter,
    fenced: Counter,
    slow: Counter,
    unreachable: Counter,
    timeout: Counter,
}

impl fmt::Debug for Meters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meters")
    }
}

impl Meters {
    /// Handles of the recorder that is installed by now, for the gateway `id`.
    pub(super) fn new(id: &str) -> Self {
        let process = telemetry::process_name("gateway", id);
        let p = || Arc::clone(&process);
        let target = |s: &'static str| counter!("switchboard_push_targets_total", "process" => p(), "status" => s);
        let lookups = |r: &'static str| counter!("switchboard_cache_lookups_total", "process" => p(), "result" => r);
        Self(Arc::new(Handles {
            process: p(),
            connections: gauge!("switchboard_gateway_connections", "process" => p()),
            pending: gauge!("switchboard_gateway_pending_connections", "process" => p()),
            topics: gauge!("switchboard_gateway_topics", "process" => p()),
            subscriptions: gauge!("switchboard_gateway_subscriptions", "process" => p()),
            connected: counter!("switchboard_gateway_connects_total", "process" => p(), "result" => "welcomed"),
            connect_seconds: histogram!("switchboard_gateway_connect_duration_seconds", "process" => p()),
            queued_bytes: gauge!("switchboard_gateway_send_queue_bytes", "process" => p()),
            slow_consumers: counter!("switchboard_gateway_slow_consumers_total", "process" => p()),
            lease_remaining: gauge!("switchboard_gateway_lease_remaining_seconds", "process" => p()),
            self_fenced: counter!("switchboard_gateway_self_fenced_total", "process" => p()),
            hits: lookups("hit"),
            misses: lookups("miss"),
            cache_staleness: gauge!("switchboard_cache_staleness_seconds", "process" => p()),
            cache_users: gauge!("switchboard_cache_users", "process" => p()),
            acked: target("acked"),
            written: target("written"),
            gone: target("gone"),
            fenced: target("fenced"),
            slow: target("slow"),
            unreachable: target("unreachable"),
            timeout: target("timeout"),
        }))
    }

    /// How many sockets are open.
    pub(super) fn connections(&self, open: usize) {
        self.0.connections.set(open as f64);
    }

    /// How many clients wait for the place of another.
    pub(super) fn subscriptions(&self, (topics, subscriptions): (usize, usize)) {
        self.0.topics.set(topics as f64);
        self.0.subscriptions.set(subscriptions as f64);
    }

    pub(super) fn pending(&self, waiting: usize) {
        self.0.pending.set(waiting as f64);
    }

    /// A client was welcomed, so long after its upgrade.
    pub(super) fn welcomed(&self, after: Duration) {
        self.0.connected.increment(1);
        self.0.connect_seconds.record(after);
    }

    /// A client was turned away, before the upgrade or before its welcome.
    pub(super) fn turned_away(&self, result: &'static str) {
        let process = Arc::clone(&self.0.process);
        counter!("switchboard_gateway_connects_total", "process" => process, "result" => result).increment(1);
    }

    /// A client's credentials were not taken, for this reason.
    pub(super) fn auth_failed(&self, reason: &'static str) {
        let process = Arc::clone(&self.0.process);
        counter!("switchboard_auth_failures_total", "process" => process, "reason" => reason).increment(1);
    }

    /// A socket ended with this close code; 1006 where there was none.
    pub(super) fn disconnected(&self, code: u16) {
        let process = Arc::clone(&self.0.process);
        counter!("switchboard_gateway_disconnects_total", "process" => process, "code" => code.to_string())
            .increment(1);
    }

    /// Bytes that wait in all outboxes.
    pub(super) fn queued_bytes(&self, bytes: i64) {
        self.0.queued_bytes.set(bytes as f64);
    }

    /// A connection is closed because it reads too slowly.
    pub(super) fn slow_consumer(&self) {
        self.0.slow_consumers.increment(1);
    }

    /// What is left of the lease.
    pub(super) fn lease_remaining(&self, left: Duration) {
        self.0.lease_remaining.set(left.as_secs_f64());
    }

    /// The gateway's own deadline passed.
    pub(super) fn self_fenced(&self) {
        self.0.self_fenced.increment(1);
    }

    /// A read of the replica that showed somebody; of one that does not hold everybody, that found the user there.
    pub(super) fn looked_up(&self, hit: bool) {
        if hit { self.0.hits.increment(1) } else { self.0.misses.increment(1) }
    }

    /// How old the replica is.
    pub(super) fn cache_staleness(&self, age: Duration) {
        self.0.cache_staleness.set(age.as_secs_f64());
    }

    /// How many users the replica holds.
    pub(super) fn cache_users(&self, held: u64) {
        self.0.cache_users.set(held as f64);
    }

    /// What became of a delivery for one connection here.
    pub(super) fn target(&self, status: TargetStatus) {
        let counter = match status {
            TargetStatus::Acked => &self.0.acked,
            TargetStatus::Written => &self.0.written,
            TargetStatus::Gone => &self.0.gone,
            TargetStatus::Fenced => &self.0.fenced,
            TargetStatus::Slow => &self.0.slow,
            TargetStatus::Unreachable => &self.0.unreachable,
            TargetStatus::Timeout => &self.0.timeout,
        };
        counter.increment(1);
    }
}
