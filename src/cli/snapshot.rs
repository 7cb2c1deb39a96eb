//! `switchboard snapshot`: backups, and new clusters made of them.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::http::Caller;
use super::print::{self, or_none};
use super::{ApiOptions, Exit, Failed, Output};
use crate::net::http::Streaming;
use crate::node::offline::{self, BackupFacts, Begun, FilesError};
use crate::wire::http::Cluster;

/// Time for a node to take the snapshot that it then sends.
const TAKEN_WITHIN: Duration = Duration::from_secs(320);

/// Progress is shown once in so many bytes.
const PROGRESS_BYTES: u64 = 4 << 20;

/// Arguments of `snapshot`.
#[derive(Debug, Clone, Args)]
pub struct SnapshotArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: SnapshotVerb,
}

/// What to do with the state as a whole.
#[derive(Debug, Clone, Subcommand)]
pub enum SnapshotVerb {
    /// Save a backup of a running cluster to a file
    Save {
        /// Where to.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Replace the file if it exists.
        #[arg(long)]
        overwrite: bool,
        /// Where, and how to print.
        #[command(flatten)]
        api: ApiOptions,
    },
    /// Show what a backup holds, and check all of it
    Inspect {
        /// The backup.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// How to print: a table, or one JSON object.
        #[arg(short = 'o', long = "output", value_enum, default_value_t)]
        output: Output,
    },
    /// Make a new cluster of a backup: sessions and connections of the old one are over, all else stays
    ///
    /// The data directory then belongs to the new cluster's first node, the lowest of its --peers. Stop every node of the old
    /// cluster first and never start one again: gateways that find both would not agree on whom to follow.
    Restore {
        /// The backup.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Data directory of the new cluster's first node; empty or missing.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// How to print: a table, or one JSON object.
        #[arg(short = 'o', long = "output", value_enum, default_value_t)]
        output: Output,
    },
}

pub(super) async fn run(args: &SnapshotArgs) -> Result<(), Failed> {
    match &args.verb {
        SnapshotVerb::Save { file, overwrite, api } => save(file, *overwrite, api).await,
        SnapshotVerb::Inspect { file, output } => inspect(file, *output),
        SnapshotVerb::Restore { file, data_dir, output } => {
            let begun = offline::restore(file, data_dir).map_err(failed)?;
            show_begun(&begun, *output)
        }
    }
}

/// Of a verb on files.
#[expect(clippy::needless_pass_by_value, reason = "map_err hands the error over")]
pub(super) fn failed(error: FilesError) -> Failed {
    Failed::new(Exit::Failed, error.to_string())
}

/// What was saved.
#[derive(Debug, Serialize)]
struct Saved<'a> {
    file: &'a Path,
    from: String,
    revision: u64,
    cluster_id: String,
    bytes: u64,
}

async fn save(file: &Path, overwrite: bool, options: &ApiOptions) -> Result<(), Failed> {
    let exists = || Failed::new(Exit::Usage, format!("{} exists; --overwrite replaces it", file.display()));
    if !overwrite && file.exists() {
        return Err(exists());
    }
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unwritable = |error: std::io::Error| Failed::new(Exit::Failed, format!("{}: {error}", file.display()));
    let caller = Caller::new(options)?;
    let (from, stream) = open(&caller).await?;
    // Under another name, which goes if anything fails.
    let mut aside = tempfile::Builder::new().prefix(".switchboard-backup-").tempfile_in(dir).map_err(unwritable)?;
    let bytes = copy(stream, aside.as_file_mut(), &from).await?;
    aside.as_file().sync_all().map_err(unwritable)?;
    let (revision, cluster_id) = offline::verify(aside.path()).map_err(failed)?;
    let kept = if overwrite { aside.persist(file) } else { aside.persist_noclobber(file) };
    kept.map_err(|error| match error.error.kind() {
        std::io::ErrorKind::AlreadyExists => exists(),
        _ => unwritable(error.error),
    })?;
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(unwritable)?;
    let saved = Saved { file, from, revision, cluster_id, bytes };
    match options.output {
        Output::Json => json(&saved),
        Output::Table => print::line(
            format!("{}: {bytes} bytes, revision {revision}, cluster {}", file.display(), saved.cluster_id).as_bytes(),
        ),
    }
}

/// Opens a backup at a node, preferably one that does not lead, and says at which.
async fn open(caller: &Caller) -> Result<(String, Streaming), Failed> {
    let mut nodes = Vec::new();
    let answer = caller.get("/v1/cluster").await?;
    if let Ok(mut cluster) = print::body::<Cluster>("snapshot save", &answer) {
        // A follower that answers the leader, then the leader, then whoever there is.
        cluster.members.sort_by_key(|member| match member.state.as_str() {
            "follower" => 0,
            "leader" => 1,
            _ => 2,
        });
        nodes.extend(cluster.members.into_iter().map(|member| member.api).filter(|api| !api.is_empty()));
    }
    // Where their own addresses can't be reached from here, those that were given may be.
    nodes.extend(caller.apis().iter().cloned());
    let mut refused = None;
    for node in nodes {
        match caller.stream(&node, "/v1/cluster/backup", TAKEN_WITHIN).await {
            Ok(stream) if stream.status.is_success() => return Ok((node, stream)),
            Ok(stream) => {
                let answer = stream.refusal().await;
                refused = answer
                    .ok()
                    .map(|answer| Failed::of_answer(&format!("the backup from {node}"), &answer))
                    .or(refused);
            }
            Err(error) => {
                refused =
                    refused.or(Some(Failed::new(Exit::Failed, format!("no directory node sends a backup: {error}"))));
            }
        }
    }
    Err(refused.unwrap_or_else(|| Failed::new(Exit::Usage, "--api: name at least one URL")))
}

async fn copy(mut from: Streaming, to: &mut std::fs::File, node: &str) -> Result<u64, Failed> {
    let total: Option<u64> = from.headers.get("content-length").and_then(|length| length.to_str().ok()?.parse().ok());
    let broken = |why: String| Failed::new(Exit::Failed, format!("the backup from {node} broke off: {why}; try again"));
    let show = std::io::stderr().is_terminal();
    let (mut bytes, mut shown) = (0, 0);
    while let Some(part) = from.chunk().await.map_err(|error| broken(error.to_string()))? {
        to.write_all(&part).map_err(|error| Failed::new(Exit::Failed, format!("can't write the backup: {error}")))?;
        bytes += part.len() as u64;
        if show && bytes - shown >= PROGRESS_BYTES {
            shown = bytes;
            let share = total.map_or(100, |total| bytes * 100 / total.max(1));
            eprint!("\r{} MiB, {share} %", bytes >> 20);
        }
    }
    if shown > 0 {
        eprintln!();
    }
    match total {
        Some(total) if total != bytes => Err(broken(format!("{bytes} of {total} bytes came"))),
        _ => Ok(bytes),
    }
}

fn inspect(file: &Path, output: Output) -> Result<(), Failed> {
    let facts = offline::inspect(file).map_err(failed)?;
    match output {
        Output::Json => json(&facts)?,
        Output::Table => show(&facts)?,
    }
    match &facts.damage {
        Some(damage) => Err(Failed::new(Exit::Failed, format!("{}: {damage}", file.display()))),
        None if facts.is_sound() => Ok(()),
        None => Err(Failed::new(Exit::Failed, format!("{}: the state is not sound", file.display()))),
    }
}

fn show(facts: &BackupFacts) -> Result<(), Failed> {
    let state = facts.state.as_ref();
    let members: Vec<String> =
        facts.members.iter().map(|member| format!("{} {} {}", member.id, member.role, member.peer)).collect();
    print::facts([
        ("format", facts.format.to_string()),
        ("cluster", facts.cluster.clone()),
        ("cluster id", facts.cluster_id.clone()),
        ("revision", facts.revision.to_string()),
        ("term", facts.term.to_string()),
        ("bytes", facts.bytes.to_string()),
        ("members", members.join("\n")),
        ("connections", or_none(state.map(|state| state.connections))),
        ("users", or_none(state.map(|state| state.users))),
        ("sessions", or_none(state.map(|state| state.sessions))),
        ("gateways", or_none(state.map(|state| state.gateways))),
        ("sha256", or_none(state.map(|state| state.sha256.clone()))),
        ("checksums", facts.damage.clone().unwrap_or_else(|| "hold".to_owned())),
        ("invariants", or_none(state.map(|state| state.invariants.clone()))),
    ])
}

/// Prints the beginning of a new cluster, and what to do next.
pub(super) fn show_begun(begun: &Begun, output: Output) -> Result<(), Failed> {
    if output == Output::Json {
        return json(begun);
    }
    print::facts([
        ("cluster", begun.cluster.clone()),
        ("new cluster id", begun.cluster_id.clone()),
        ("first revision", begun.revision.to_string()),
        ("old cluster id", begun.old_cluster_id.clone()),
        ("old revision", begun.old_revision.to_string()),
        ("sessions ended", begun.sessions_ended.to_string()),
        ("connections ended", begun.connections_ended.to_string()),
    ])?;
    let next = format!(
        "\nNever start a node of the old cluster again. Start the first node of the new one, N, as\n  switchboard directory --id N \
         --cluster {} --data-dir {} --peers N=HOST:PORT …",
        begun.cluster,
        begun.data_dir.display()
    );
    print::line(next.as_bytes())
}

/// Prints one JSON object.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failed> {
    print::line(&serde_json::to_vec(value).expect("facts have a JSON form"))
}
