//! Logs and metrics of the process.
//!
//! Every metric of ours is named `switchboard_…` in full where it is recorded. The figures of the operating system's
//! process appear twice: as `switchboard_process_*`, because all our names carry the prefix, and as `process_*`, because
//! dashboards made for any program look there.
//!
//! A development cluster runs several nodes and gateways in one process, which has one recorder. So whatever is recorded
//! by a role carries a label `process` (see [`process_name`]), and [`render`] shows a listener's own part without it.

use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Upper bounds of durations, seconds: from a memory read to a stalled disk.
const SECONDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Upper bounds of sizes and counts.
const COUNTS: &[f64] = &[1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0];

/// How often histograms are condensed when nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// What is logged when nobody asks for more: our own words. What the consensus engine warns of is told by `raft/` in words
/// of its own, and repeats itself while a node is away.
const QUIET: &str = "info,openraft=error,raft_log=warn,chunked_wal=error,sled=warn";

/// The label that tells the roles of one process apart.
const PROCESS_LABEL: &str = "process";

static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();

enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// What every metric of ours tells.
const METRICS_HELP: [(Kind, &str, &str); 52] = {
    use Kind::{Counter, Gauge, Histogram};
    [
        (Gauge, "switchboard_build_info", "Always 1; the labels say what runs."),
        (Counter, "switchboard_http_requests_total", "HTTP requests by route and status."),
        (Histogram, "switchboard_http_request_duration_seconds", "Time to answer HTTP requests."),
        (Gauge, "switchboard_raft_is_leader", "1 on the node that leads."),
        (Gauge, "switchboard_raft_term", "Term of the group, as this node knows it."),
        (Gauge, "switchboard_raft_commit_index", "Log index up to which entries are known to be committed."),
        (Gauge, "switchboard_raft_applied_index", "Log index up to which the directory has applied: its revision."),
        (Gauge, "switchboard_raft_log_bytes", "Bytes of the log on disk."),
        (Counter, "switchboard_raft_leader_changes_total", "Times that another leader, or none, became known."),
        (Counter, "switchboard_raft_snapshots_installed_total", "Snapshots received from a leader and installed."),
        (Histogram, "switchboard_raft_proposal_duration_seconds", "Time from proposing a log entry to its outcome."),
        (Histogram, "switchboard_raft_batch_commands", "Commands that share one log entry."),
        (Histogram, "switchboard_raft_fsync_duration_seconds", "Time to write and flush the log."),
        (Histogram, "switchboard_raft_snapshot_duration_seconds", "Time to write a snapshot."),
        (Gauge, "switchboard_disk_free_bytes", "Bytes that are free in the data directory."),
        (Gauge, "switchboard_disk_refusing", "1 while there is too little of it to write anything new."),
        (Gauge, "switchboard_entries", "Live connections in the directory."),
        (Gauge, "switchboard_users_online", "Users with a live connection."),
        (Gauge, "switchboard_sessions", "Live sessions of gateways."),
        (
            Gauge,
            "switchboard_state_hash",
            "First 52 bits of the SHA-256 of the state at switchboard_state_hash_revision.",
        ),
        (Gauge, "switchboard_state_hash_revision", "Revision of switchboard_state_hash: equal ones have equal hashes."),
        (Gauge, "switchboard_state_bytes", "Memory of the directory's state, estimated."),
        (Counter, "switchboard_ops_total", "Operations that this node proposed, by kind and result."),
        (Counter, "switchboard_takeovers_total", "Exclusive connections that changed hands."),
        (
            Counter,
            "switchboard_session_expirations_total",
            "Sessions that this node ended because their lease ran out.",
        ),
        (Histogram, "switchboard_lease_expiry_lag_seconds", "Time from the end of a lease to its decision."),
        (Counter, "switchboard_lease_renewals_total", "Renewals that this node acknowledged."),
        (Gauge, "switchboard_watchers", "Watches that this node serves."),
        (
            Histogram,
            "switchboard_watch_lag_revisions",
            "Revisions by which a watcher was behind when it was sent more.",
        ),
        (Gauge, "switchboard_watch_retained_events", "Changes that this node retains for watches and histories."),
        (Gauge, "switchboard_watch_retained_bytes", "Memory of these changes, estimated."),
        (Gauge, "switchboard_watch_oldest_revision", "Watches may begin after this revision, or after a later one."),
        (Gauge, "switchboard_gateway_connections", "Client sockets of this gateway."),
        (Counter, "switchboard_gateway_connects_total", "Clients that arrived, by result."),
        (Counter, "switchboard_gateway_disconnects_total", "Clients that went, by close code."),
        (Histogram, "switchboard_gateway_connect_duration_seconds", "Time from the upgrade to the welcome."),
        (Gauge, "switchboard_gateway_send_queue_bytes", "Bytes that wait for client sockets."),
        (Counter, "switchboard_gateway_slow_consumers_total", "Clients that were closed because they did not read."),
        (
            Gauge,
            "switchboard_gateway_lease_remaining_seconds",
            "What is left of this gateway's lease by its own clock.",
        ),
        (Counter, "switchboard_gateway_self_fenced_total", "Times that this gateway's lease ran out by its own clock."),
        (Counter, "switchboard_cache_lookups_total", "Look-ups in the replica, by result."),
        (Gauge, "switchboard_cache_staleness_seconds", "How old the replica may be."),
        (Gauge, "switchboard_cache_users", "Users that the replica holds, online or not."),
        (Counter, "switchboard_push_requests_total", "Pushes by route and outcome."),
        (Counter, "switchboard_push_targets_total", "Targets of pushes by status."),
        (Histogram, "switchboard_push_duration_seconds", "Time to answer pushes."),
        (Counter, "switchboard_push_reresolve_total", "Pushes whose targets were resolved again, by reason."),
        (Counter, "switchboard_process_cpu_seconds_total", "Processor time of the process."),
        (Gauge, "switchboard_process_open_fds", "Open files and sockets of the process."),
        (Gauge, "switchboard_process_max_fds", "Files and sockets that the process may open."),
        (Gauge, "switchboard_process_resident_memory_bytes", "Resident memory of the process."),
        (Gauge, "switchboard_process_start_time_seconds", "Start of the process, seconds since 1970."),
    ]
};

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Sends logs to stderr, filtered by `SWITCHBOARD_LOG` (`info`, `switchboard::api=debug,warn`, …; default: ours from `info`, the consensus engine's from `warn`). Later calls change
/// nothing.
pub fn init_logs(format: LogFormat) {
    let filter = std::env::var("SWITCHBOARD_LOG").ok().and_then(|text| EnvFilter::try_new(text).ok());
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|| EnvFilter::new(QUIET)))
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    // Fails only if logs were set up before, which is what the caller wants.
    let _ = match format {
        LogFormat::Text => logs.try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
}

/// Starts to record metrics, once per process; later calls change nothing.
///
/// # Panics
/// If another metrics recorder was installed in this process, which only a program that embeds this library could do.
pub fn install_metrics() {
    METRICS.get_or_init(|| {
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)
            .and_then(|builder| builder.set_buckets(COUNTS))
            .expect("the bounds are not empty")
            .install_recorder()
            .expect("no other recorder is installed");
        metrics_process::Collector::default().describe();
        for (kind, name, help) in METRICS_HELP {
            match kind {
                Kind::Counter => describe_counter!(name, help),
                Kind::Gauge => describe_gauge!(name, help),
                Kind::Histogram => describe_histogram!(name, help),
            }
        }
        gauge!("switchboard_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        handle
    });
}

/// Condenses histograms now and then until `stop`, so that they stay small when nobody scrapes. One a process.
pub async fn upkeep(stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(UPKEEP)).await.is_some() {
        if let Some(handle) = METRICS.get() {
            handle.run_upkeep();
        }
    }
}

/// Value of the label `process` for a role: `counter!("switchboard_…", "process" => process.clone())`.
pub fn process_name(role: &str, id: &str) -> Arc<str> {
    format!("{role}/{id}").into()
}

/// Records one answered HTTP request.
pub fn http_request(process: &Arc<str>, route: &str, code: u16, took: Duration) {
    let route: Arc<str> = route.into();
    let labels = [
        metrics::Label::new(PROCESS_LABEL, Arc::clone(process)),
        metrics::Label::new("route", Arc::clone(&route)),
        metrics::Label::new("code", code.to_string()),
    ];
    counter!("switchboard_http_requests_total", labels.iter()).increment(1);
    histogram!("switchboard_http_request_duration_seconds", PROCESS_LABEL => Arc::clone(process), "route" => route)
        .record(took);
}

/// Records one push that a service asked for: whether to a `user`, a `connection` or in a `batch`, and what became of it.
pub fn push_request(process: &Arc<str>, route: &'static str, outcome: &'static str) {
    counter!("switchboard_push_requests_total", PROCESS_LABEL => Arc::clone(process), "route" => route, "outcome" => outcome)
        .increment(1);
}

/// Records how long a push, or a batch of them, took to be answered.
pub fn push_took(process: &Arc<str>, route: &'static str, took: Duration) {
    histogram!("switchboard_push_duration_seconds", PROCESS_LABEL => Arc::clone(process), "route" => route)
        .record(took);
}

/// Everything that was recorded by `process` and by no role in particular, in the text form of Prometheus. Empty unless
/// [`install_metrics`] was called.
pub fn render(process: &str) -> String {
    let Some(handle) = METRICS.get() else { return String::new() };
    metrics_process::Collector::default().collect();
    metrics_process::Collector::new("switchboard_").collect();
    own_part(&handle.render(), process)
}

/// Leaves out the samples of other processes and the label from ours; a family without samples goes with its comments.
fn own_part(text: &str, process: &str) -> String {
    let mut own = String::with_capacity(text.len());
    let mut comments = String::new();
    let label = format!("{PROCESS_LABEL}=\"{}\"", process.replace('\\', "\\\\").replace('"', "\\\""));
    let any_label = format!("{PROCESS_LABEL}=\"");
    for line in text.lines() {
        if line.is_empty() {
            comments.clear();
        } else if line.starts_with('#') {
            let _ = writeln!(comments, "{line}");
        } else if let Some(sample) = own_sample(line, &label, &any_label) {
            own.push_str(&std::mem::take(&mut comments));
            let _ = writeln!(own, "{sample}");
        }
    }
    own
}

fn own_sample(line: &str, label: &str, any_label: &str) -> Option<String> {
    let begins = |at: usize| matches!(line.as_bytes().get(at.wrapping_sub(1)), Some(b'{' | b','));
    let Some(at) = line.match_indices(any_label).map(|(at, _)| at).find(|at| begins(*at)) else {
        return Some(line.to_owned());
    };
    let rest = line[at..].strip_prefix(label)?;
    Some(match (line.as_bytes()[at - 1], rest.strip_prefix(','), rest.strip_prefix('}')) {
        (_, Some(more), _) => format!("{}{more}", &line[..at]),
        (b'{', None, Some(value)) => format!("{}{value}", &line[..at - 1]),
        _ => format!("{}{rest}", &line[..at - 1]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_shows_its_own_part_without_the_label() {
        let text = "# TYPE a counter\na{process=\"gateway/g\",code=\"200\"} 1\na{process=\"directory/1\"} 2\n\n\
                    # TYPE b gauge\nb{process=\"directory/1\"} 3\n\n# TYPE c gauge\nc 4\nc{x=\"1\",process=\"gateway/g\"} 5\nd{process=\"gateway/g\"} 6\n";
        let expected = "# TYPE a counter\na{code=\"200\"} 1\n# TYPE c gauge\nc 4\nc{x=\"1\"} 5\nd 6\n";
        assert_eq!(own_part(text, "gateway/g"), expected);
    }

    #[test]
    fn what_is_recorded_is_rendered_under_our_prefix() {
        install_metrics();
        install_metrics();
        let process = process_name("gateway", "telemetry-test");
        http_request(&process, "/v1/info", 200, Duration::from_millis(3));
        let text = render(&process);
        assert!(text.contains("switchboard_http_requests_total{route=\"/v1/info\",code=\"200\"} 1"), "{text}");
        assert!(
            text.contains("switchboard_http_request_duration_seconds_bucket{route=\"/v1/info\",le=\"0.005\"} 1"),
            "{text}"
        );
        assert!(text.contains("switchboard_build_info{version="), "{text}");
        assert!(text.contains("\nprocess_threads ") && text.contains("\nswitchboard_process_threads "), "{text}");
        assert!(!render("gateway/another").contains("route=\"/v1/info\""));
    }
}
