//! `switchboard members`

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use bytes::Bytes;
use clap::{Args, Subcommand};
use tokio::time::{Instant, sleep};

use super::http::Caller;
use super::print::{self, or_none};
use super::{ApiOptions, Exit, Failed, Output};
use crate::net::http::Response;
use crate::wire::http::{AddMemberBody, Cluster, LeaderAnswer, MemberAnswer, MemberRole, TransferLeaderBody};

/// Longer than the API takes for a change.
const CHANGE_WITHIN: Duration = Duration::from_secs(25);

/// How often a newcomer is looked at while it catches up.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// A newcomer that gets nothing for so long does not catch up.
const STUCK_AFTER: Duration = Duration::from_secs(120);

/// A learner that lacks so few entries has caught up: there are always some on the way.
const CAUGHT_UP: u64 = 1000;

/// Arguments of `members`.
#[derive(Debug, Clone, Args)]
pub struct MembersArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub verb: MembersVerb,
}

/// What to do with directory nodes.
#[derive(Debug, Clone, Subcommand)]
pub enum MembersVerb {
    /// List the directory nodes
    List {
        /// Where, and how to print.
        #[command(flatten)]
        api: ApiOptions,
    },
    /// Add a node that was started with --join, and wait until it has caught up
    Add {
        /// The new node's id: one that was never used
        id: u64,
        /// Where it listens for peers
        #[arg(value_name = "HOST:PORT")]
        peer: String,
        /// Make it a voter when it has caught up
        #[arg(long)]
        voter: bool,
        /// Don't wait until it has caught up
        #[arg(long)]
        no_wait: bool,
        /// Where, and how to print.
        #[command(flatten)]
        api: ApiOptions,
    },
    /// Make a learner a voter
    Promote {
        /// Its id
        id: u64,
        /// Where, and how to print.
        #[command(flatten)]
        api: ApiOptions,
    },
    /// Remove a node for ever: neither its id nor its data directory can come back
    Remove {
        /// Its id
        id: u64,
        /// Where, and how to print.
        #[command(flatten)]
        api: ApiOptions,
    },
    /// Let another voter lead
    TransferLeader {
        /// Its id
        id: u64,
        /// Where, and how to print.
        #[command(flatten)]
        api: ApiOptions,
    },
}

/// Shows or changes the directory nodes.
pub(super) async fn run(args: &MembersArgs) -> Result<(), Failed> {
    match &args.verb {
        MembersVerb::List { api } => list(api).await,
        MembersVerb::Add { id, peer, voter, no_wait, api } => {
            let role = if *voter { MemberRole::Voter } else { MemberRole::Learner };
            add(AddMemberBody { id: *id, peer: peer.clone(), role }, !no_wait, api).await
        }
        MembersVerb::Promote { id, api } => {
            let answer = change(api, Method::POST, &format!("/v1/cluster/members/{id}/promote"), Bytes::new()).await?;
            tell(api, "members promote", &answer, |_: MemberAnswer| format!("node {id} is a voter"))
        }
        MembersVerb::Remove { id, api } => {
            let answer = change(api, Method::DELETE, &format!("/v1/cluster/members/{id}"), Bytes::new()).await?;
            tell(api, "members remove", &answer, |_: MemberAnswer| {
                format!(
                    "node {id} is removed for ever; stop its process, if it still runs, and delete its data directory"
                )
            })
        }
        MembersVerb::TransferLeader { id, api } => {
            let body = serde_json::to_vec(&TransferLeaderBody { to: *id }).expect("a body of ours has a JSON form");
            let answer = change(api, Method::POST, "/v1/cluster/transfer-leader", body.into()).await?;
            tell(api, "members transfer-leader", &answer, |LeaderAnswer { leader, .. }| format!("node {leader} leads"))
        }
    }
}

async fn list(api: &ApiOptions) -> Result<(), Failed> {
    let answer = Caller::new(api)?.get("/v1/cluster").await?;
    if api.output == Output::Json {
        print::line(&answer.body)?;
    }
    let cluster: Cluster = print::body("members list", &answer)?;
    if api.output == Output::Table {
        print::line(votes(&cluster).as_bytes())?;
        show(&cluster)?;
    }
    Ok(())
}

/// How many vote, and how many must answer.
pub(super) fn votes(cluster: &Cluster) -> String {
    let voters = cluster.members.iter().filter(|member| member.role == "voter").count();
    let learners = cluster.members.len() - voters;
    let changing = if cluster.changing { "   a change of the voters is under way" } else { "" };
    format!("{voters} voters, {} must answer   {learners} learners{changing}", cluster.quorum)
}

/// A table of the members.
pub(super) fn show(cluster: &Cluster) -> Result<(), Failed> {
    let mut table = print::table(&["id", "role", "state", "applied", "last log", "lag", "peer", "api"]);
    for member in &cluster.members {
        table.add_row([
            member.id.to_string(),
            member.role.clone(),
            member.state.clone(),
            or_none(member.applied),
            or_none(member.last_log),
            or_none(member.lag),
            member.peer.clone(),
            member.api.clone(),
        ]);
    }
    print::show(&table)?;
    for member in &cluster.members {
        if let Some(free) = member.short_of_space {
            let free = bytesize::ByteSize(free);
            let short =
                format!("node {} has only {free} of disk left: it writes nothing new; free some there", member.id);
            print::line(short.as_bytes())?;
        }
    }
    Ok(())
}

async fn change(api: &ApiOptions, method: Method, path: &str, body: Bytes) -> Result<Response, Failed> {
    Caller::new(api)?.send(method, path, body, None, CHANGE_WITHIN).await
}

/// Prints the body, or a sentence made of it.
fn tell<T: serde::de::DeserializeOwned>(
    api: &ApiOptions,
    what: &str,
    answer: &Response,
    sentence: impl FnOnce(T) -> String,
) -> Result<(), Failed> {
    if api.output == Output::Json {
        print::line(&answer.body)?;
    }
    let body = print::body(what, answer)?;
    if api.output == Output::Table {
        print::line(sentence(body).as_bytes())?;
    }
    Ok(())
}

/// Adds a node; where a voter is wanted that has far to go, it is asked for again when it has caught up.
async fn add(wanted: AddMemberBody, waits: bool, api: &ApiOptions) -> Result<(), Failed> {
    let body = Bytes::from(serde_json::to_vec(&wanted).expect("a body of ours has a JSON form"));
    let mut answer = change(api, Method::POST, "/v1/cluster/members", body.clone()).await?;
    let caught_up = if waits && answer.status.is_success() {
        if answer.status == StatusCode::ACCEPTED || wanted.role == MemberRole::Learner {
            catch_up(wanted.id, api).await?;
        }
        while answer.status == StatusCode::ACCEPTED {
            answer = change(api, Method::POST, "/v1/cluster/members", body.clone()).await?;
        }
        " and has caught up"
    } else {
        ""
    };
    tell(api, "members add", &answer, |MemberAnswer { id, role, .. }| match role {
        MemberRole::Voter => format!("node {id} is a voter"),
        _ if wanted.role == MemberRole::Voter => {
            format!("node {id} is a learner{caught_up}; when it has caught up: switchboard members promote {id}")
        }
        _ => format!("node {id} is a learner{caught_up}; to let it vote: switchboard members promote {id}"),
    })
}

/// Waits until a newcomer lacks little, and shows on a terminal how far it is.
async fn catch_up(id: u64, api: &ApiOptions) -> Result<(), Failed> {
    let caller = Caller::new(api)?;
    let shows = io::stderr().is_terminal();
    let (mut least, mut moved) = (u64::MAX, Instant::now());
    loop {
        // While the leader changes nobody knows; that passes, or this takes too long.
        let cluster = caller.get("/v1/cluster").await.and_then(|answer| print::body::<Cluster>("members add", &answer));
        let member = cluster.ok().and_then(|cluster| cluster.members.into_iter().find(|member| member.id == id));
        let lag = member.as_ref().and_then(|member| member.lag.filter(|_| member.state != "unknown"));
        if let Some(lag) = lag.filter(|lag| *lag < least) {
            (least, moved) = (lag, Instant::now());
        }
        if shows {
            let lag = lag.map_or_else(|| String::from("it does not answer yet"), |lag| format!("{lag} entries to go"));
            eprint!("\rnode {id} catches up: {lag}        ");
            // A terminal that is gone takes the whole process with it.
            let _ = io::stderr().flush();
        }
        let done = lag.is_some_and(|lag| lag <= CAUGHT_UP);
        let stuck = moved.elapsed() > STUCK_AFTER;
        if shows && (done || stuck) {
            eprintln!();
        }
        if done {
            return Ok(());
        }
        if stuck {
            let message = format!(
                "node {id} is a learner, but it got nothing for {STUCK_AFTER:?}; see its log, and `switchboard members list`"
            );
            return Err(Failed::new(Exit::Failed, message));
        }
        sleep(LOOK_EVERY).await;
    }
}
