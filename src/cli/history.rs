//! `switchboard history`

use clap::Args;
use serde::Deserialize;

use super::http::{Caller, encoded};
use super::print::{self, or_none};
use super::{ApiOptions, Exit, Failed, Output};
use crate::wire::http::HistoryBody;

/// Arguments of `history`.
#[derive(Debug, Clone, Args)]
pub struct HistoryArgs {
    /// The user
    pub user: String,
    /// Where, and how to print.
    #[command(flatten)]
    pub api: ApiOptions,
}

/// What is shown of a change.
#[derive(Debug, Deserialize)]
struct Change {
    revision: u64,
    n: u32,
    #[serde(rename = "type")]
    kind: String,
    connection: Option<String>,
    gateway: Option<String>,
    reason: Option<String>,
    at: Option<String>,
}

/// Shows where a user was, as far back as that is retained; fails as not found where nothing is.
pub(super) async fn run(args: &HistoryArgs) -> Result<(), Failed> {
    let what = format!("history {}", args.user);
    let answer = Caller::new(&args.api)?.get(&format!("/v1/users/{}/history", encoded(&args.user))).await?;
    if args.api.output == Output::Json {
        print::line(&answer.body)?;
    }
    let HistoryBody { events, oldest_revision } = print::body(&what, &answer)?;
    if events.is_empty() {
        let message = format!(
            "nothing has happened to {} since revision {oldest_revision}, and what was before is not retained",
            args.user
        );
        return Err(Failed::new(Exit::NotFound, message));
    }
    if args.api.output == Output::Table {
        let mut table = print::table(&["when", "revision.n", "what", "connection", "gateway", "reason"]);
        for event in &events {
            let change: Change = serde_json::from_str(event.get())
                .map_err(|error| Failed::new(Exit::Failed, format!("{what}: a change that can't be read ({error})")))?;
            table.add_row([
                or_none(change.at),
                format!("{}.{}", change.revision, change.n),
                change.kind,
                or_none(change.connection),
                or_none(change.gateway),
                or_none(change.reason),
            ]);
        }
        print::show(&table)?;
        eprintln!("everything since revision {oldest_revision}; what was before is not retained");
    }
    Ok(())
}
