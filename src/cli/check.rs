//! `switchboard check`: do the nodes of a cluster agree, or is a data directory sound?

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;
use serde::Serialize;

use super::http::Caller;
use super::print::{self, or_none};
use super::snapshot::{failed, json};
use super::{ApiOptions, Exit, Failed, Output};
use crate::node::offline;
use crate::wire::http::{Cluster, ErrorBody, ErrorCode, INVARIANTS_HOLD, Member, StateHash, Stats};

/// Longest time for a node to say how it is.
const STATUS_WITHIN: Duration = Duration::from_secs(5);

/// Longest time for a node to check its state, which takes seconds for millions of connections.
const CHECK_WITHIN: Duration = Duration::from_secs(120);

/// Looks before nodes that differ about the leader are said to disagree: an election takes less than two.
const LOOKS: usize = 8;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(400);

/// How far ahead of the newest node the common revision is tried: where nothing changes the present one is the one, under load
/// it must not have passed before every node was asked.
const AHEAD: [u64; 9] = [0, 16, 0, 128, 0, 1024, 8192, 65_536, 0];

/// How long a node waits for the common revision.
const REVISION_WAIT: Duration = Duration::from_secs(3);

/// Arguments of `check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// Check this data directory of a node that does not run, instead of a running cluster; nothing in it is changed
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Where, and how to print.
    #[command(flatten)]
    pub api: ApiOptions,
}

pub(super) async fn run(args: &CheckArgs) -> Result<(), Failed> {
    match &args.data_dir {
        Some(dir) => offline_check(dir, args.api.output).await,
        None => live_check(&args.api).await,
    }
}

async fn offline_check(dir: &Path, output: Output) -> Result<(), Failed> {
    let found = offline::check(dir).await.map_err(failed)?;
    match output {
        Output::Json => json(&found)?,
        Output::Table => print::facts([
            ("node", format!("{} of cluster {} ({})", found.node, found.cluster, found.cluster_id)),
            (
                "snapshot",
                or_none(found.snapshot.map(|(revision, bytes)| format!("revision {revision}, {bytes} bytes"))),
            ),
            ("log", or_none(found.log.map(|(first, last)| format!("{first} to {last}, no gap")))),
            ("committed up to", found.committed.to_string()),
            ("last term", found.term.to_string()),
            (
                "torn bytes at the end",
                match found.torn_bytes {
                    0 => "none".to_owned(),
                    torn => format!("{torn}: a write that was never acknowledged; the next start cuts it off"),
                },
            ),
            ("revision", found.state.revision.to_string()),
            ("connections", found.state.connections.to_string()),
            ("sessions", found.state.sessions.to_string()),
            ("sha256", found.state.sha256.clone()),
            ("invariants", found.state.invariants.clone()),
        ])?,
    }
    if found.state.is_sound() {
        return Ok(());
    }
    Err(Failed::new(Exit::Failed, format!("{}: the state is not sound: {}", dir.display(), found.state.invariants)))
}

/// What was found of a running cluster.
#[derive(Debug, Serialize)]
struct Findings {
    ok: bool,
    cluster_id: Option<String>,
    leader: Option<u64>,
    term: u64,
    /// All hashes are of this one.
    revision: Option<u64>,
    nodes: Vec<NodeFindings>,
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct NodeFindings {
    id: u64,
    api: String,
    sha256: Option<String>,
    connections: Option<u64>,
    sessions: Option<u64>,
    invariants: Option<String>,
}

async fn live_check(options: &ApiOptions) -> Result<(), Failed> {
    let caller = Caller::new(options)?;
    let cluster: Cluster = print::body("check", &caller.get("/v1/cluster").await?)?;
    let check = LiveCheck { caller, members: cluster.members };
    let findings = check.run().await;
    match options.output {
        Output::Json => json(&findings)?,
        Output::Table => show(&findings)?,
    }
    if findings.ok { Ok(()) } else { Err(Failed::new(Exit::Failed, findings.problems.join("\nswitchboard: "))) }
}

struct LiveCheck {
    caller: Caller,
    members: Vec<Member>,
}

impl LiveCheck {
    async fn run(&self) -> Findings {
        let mut problems = Vec::new();
        let seen = self.agree(&mut problems).await;
        let first = seen.iter().flatten().next().cloned().unwrap_or_default();
        let hashes = if problems.is_empty() { self.hashes(&mut problems).await } else { Vec::new() };
        let checked = self.invariants(&mut problems).await;
        self.stats(hashes.first(), &mut problems).await;
        let nodes = self.members.iter().enumerate().map(|(at, member)| NodeFindings {
            id: member.id,
            api: member.api.clone(),
            sha256: hashes.get(at).map(|hash| hash.sha256.clone()),
            connections: hashes.get(at).map(|hash| hash.connections),
            sessions: hashes.get(at).map(|hash| hash.sessions),
            invariants: checked[at].clone(),
        });
        Findings {
            ok: problems.is_empty(),
            cluster_id: first.cluster_id,
            leader: first.leader,
            term: first.term,
            revision: hashes.first().map(|hash| hash.revision),
            nodes: nodes.collect(),
            problems,
        }
    }

    /// Whether all nodes name one cluster, leader, term and membership.
    async fn agree(&self, problems: &mut Vec<String>) -> Vec<Option<Cluster>> {
        let mut looks = 0;
        loop {
            looks += 1;
            let seen = self.ask_all("/v1/cluster", STATUS_WITHIN).await;
            let found = disagreements(&self.members, &seen);
            if found.is_empty() || looks == LOOKS {
                problems.extend(found);
                return seen.into_iter().map(Result::ok).collect();
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The hashes of all nodes at one revision, or none.
    async fn hashes(&self, problems: &mut Vec<String>) -> Vec<StateHash> {
        let mut last = String::new();
        for ahead in AHEAD {
            let seen: Vec<Cluster> = self.ask_all("/v1/cluster", STATUS_WITHIN).await.into_iter().flatten().collect();
            let target = seen.iter().map(|cluster| cluster.applied).max().unwrap_or(0) + ahead;
            let path = format!("/v1/cluster/hash?revision={target}&timeout_ms={}", REVISION_WAIT.as_millis());
            let mut hashes: Vec<StateHash> = Vec::new();
            for (member, answer) in self.members.iter().zip(self.ask_all(&path, CHECK_WITHIN).await) {
                match answer {
                    Ok(hash) => hashes.push(hash),
                    Err(why) => last = format!("node {}: {}", member.id, why.text),
                }
            }
            if hashes.len() == self.members.len() {
                let differ = hashes.iter().any(|hash| hash.sha256 != hashes[0].sha256);
                if differ {
                    problems.push(format!(
                        "the states differ at revision {target}: a defect, or broken hardware. Stop the nodes that are in the \
                         minority and keep their data directories for inspection"
                    ));
                }
                return hashes;
            }
        }
        problems.push(format!("the hashes of one revision could not be had from all nodes: {last}; try again"));
        Vec::new()
    }

    /// What each node says of its own state.
    async fn invariants(&self, problems: &mut Vec<String>) -> Vec<Option<String>> {
        let answers = self.ask_all::<StateHash>("/v1/cluster/hash?check=true", CHECK_WITHIN).await;
        let said = self.members.iter().zip(answers).map(|(member, answer)| {
            let said = match answer {
                Ok(hash) => hash.invariants.unwrap_or_default(),
                Err(why) => why.text,
            };
            if said != INVARIANTS_HOLD {
                problems.push(format!("node {}: its state could not be checked or is not sound: {said}", member.id));
            }
            Some(said)
        });
        said.collect()
    }

    /// Whether what services are told of counts is what the hashed state holds, where that is still the present one.
    async fn stats(&self, hashed: Option<&StateHash>, problems: &mut Vec<String>) {
        let Some(hashed) = hashed else { return };
        let path = format!("/v1/stats?consistency=cached&min_revision={}", hashed.revision);
        for (member, answer) in self.members.iter().zip(self.ask_all::<Stats>(&path, STATUS_WITHIN).await) {
            match answer {
                Ok(stats) if stats.revision != hashed.revision || stats.connections == hashed.connections => {}
                Ok(stats) => problems.push(format!(
                    "node {} tells of {} connections at revision {}, its state holds {}",
                    member.id, stats.connections, stats.revision, hashed.connections
                )),
                Err(why) => problems.push(format!("node {}: /v1/stats: {}", member.id, why.text)),
            }
        }
    }

    /// Asks every member.
    async fn ask_all<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        within: Duration,
    ) -> Vec<Result<T, Unanswered>> {
        join_all(self.members.iter().map(|member| self.ask(&member.api, path, within))).await
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        api: &str,
        path: &str,
        within: Duration,
    ) -> Result<T, Unanswered> {
        let answer = self.caller.get_at(api, path, within).await;
        let answer = answer.map_err(|error| Unanswered { text: error.to_string() })?;
        if answer.status.is_success() {
            return serde_json::from_slice(&answer.body).map_err(|error| Unanswered { text: error.to_string() });
        }
        let text = match serde_json::from_slice::<ErrorBody>(&answer.body) {
            Ok(body) if body.error.code == ErrorCode::NotImplemented => format!("{api} is no directory node"),
            Ok(body) => body.error.message,
            Err(_) => format!("it answered {}", answer.status),
        };
        Err(Unanswered { text })
    }
}

/// Why a node has no answer.
struct Unanswered {
    text: String,
}

/// What the nodes do not agree about, or who does not answer.
fn disagreements(members: &[Member], seen: &[Result<Cluster, Unanswered>]) -> Vec<String> {
    let mut found = Vec::new();
    let Some(first) = seen.iter().flatten().next() else {
        return vec!["no node answers".to_owned()];
    };
    if first.leader.is_none() {
        found.push(format!("node {} knows of no leader", or_none(first.node)));
    }
    let membership = |cluster: &Cluster| -> Vec<(u64, String)> {
        cluster.members.iter().map(|member| (member.id, member.role.clone())).collect()
    };
    for (member, seen) in members.iter().zip(seen) {
        let id = member.id;
        let seen = match seen {
            Ok(seen) => seen,
            Err(why) => {
                found.push(format!("node {id} does not answer: {}", why.text));
                continue;
            }
        };
        if seen.cluster_id != first.cluster_id {
            found.push(format!(
                "node {id} is of cluster {}, others of {}: one that was restored, or left, still runs",
                or_none(seen.cluster_id.clone()),
                or_none(first.cluster_id.clone())
            ));
        }
        if (seen.leader, seen.term) != (first.leader, first.term) {
            let (leader, term) = (or_none(seen.leader), seen.term);
            found.push(format!(
                "node {id} follows leader {leader} in term {term}, others {} in {}",
                or_none(first.leader),
                first.term
            ));
        }
        if membership(seen) != membership(first) {
            found.push(format!("node {id} knows other members: {:?}", membership(seen)));
        }
    }
    found
}

fn show(findings: &Findings) -> Result<(), Failed> {
    print::line(
        format!(
            "cluster {}   leader {}   term {}   revision {}",
            or_none(findings.cluster_id.clone()),
            or_none(findings.leader),
            findings.term,
            or_none(findings.revision)
        )
        .as_bytes(),
    )?;
    let mut table = print::table(&["node", "connections", "sessions", "invariants", "sha256", "api"]);
    for node in &findings.nodes {
        table.add_row([
            node.id.to_string(),
            or_none(node.connections),
            or_none(node.sessions),
            or_none(node.invariants.clone()),
            or_none(node.sha256.clone()),
            node.api.clone(),
        ]);
    }
    print::show(&table)
}
