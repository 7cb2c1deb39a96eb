//! `switchboard watch`

use std::time::Duration;

use axum::http::StatusCode;
use clap::Args;
use serde::Deserialize;
use tokio::time::sleep;

use super::http::{Caller, query};
use super::{ApiOptions, Exit, Failed, Output, print};
use crate::chance;
use crate::net::http::{ClientError, Response, Streaming};

/// First wait before a broken watch is opened again; it doubles.
const WAIT_MIN: Duration = Duration::from_millis(200);

/// Longest such wait.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Bytes of an error that are read.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// Arguments of `watch`.
#[derive(Debug, Clone, Args)]
pub struct WatchArgs {
    /// Begin after this mark: a revision, or a change of it
    #[arg(long, value_name = "R[.n]")]
    pub from: Option<String>,
    /// Only these types, separated by commas
    #[arg(long, value_name = "TYPES")]
    pub types: Option<String>,
    /// Only of this user
    #[arg(long)]
    pub user: Option<String>,
    /// Where, and how to print.
    #[command(flatten)]
    pub api: ApiOptions,
}

/// What is looked at in a line; the rest is passed on.
#[derive(Debug, Deserialize)]
struct Change {
    revision: u64,
    n: Option<u32>,
    #[serde(rename = "type")]
    kind: String,
    user: Option<String>,
    connection: Option<String>,
    gateway: Option<String>,
    topic: Option<String>,
    reason: Option<String>,
    at: Option<String>,
}

/// Prints changes until interrupted. A watch that breaks goes on after the last change that was printed, elsewhere if
/// need be; one that could never be opened fails.
pub(super) async fn run(args: &WatchArgs) -> Result<(), Failed> {
    let caller = Caller::new(&args.api)?;
    let mut from = args.from.clone();
    let mut opened = false;
    let mut wait = WAIT_MIN;
    loop {
        let path = query(&[
            ("from_revision", from.as_deref()),
            ("types", args.types.as_deref()),
            ("user", args.user.as_deref()),
        ]);
        let why = match open(&caller, &format!("/v1/watch{path}")).await {
            Ok(mut stream) => {
                opened = true;
                match follow(&mut stream, args.api.output, &mut from, &mut wait).await? {
                    None => String::from("the watch ended"),
                    Some(error) => error.to_string(),
                }
            }
            Err(NotOpened::Later(failed)) if opened => failed.message,
            Err(NotOpened::Later(failed) | NotOpened::Never(failed)) => return Err(failed),
        };
        let going_on = from.as_deref().map_or_else(|| String::from("from now on"), |mark| format!("after {mark}"));
        eprintln!("switchboard: {why}; going on {going_on}");
        sleep(chance::jittered(wait, 0.3)).await;
        wait = (wait * 2).min(WAIT_MAX);
    }
}

/// Why a watch could not be opened.
enum NotOpened {
    /// Another process, or the same one later, may be able to.
    Later(Failed),
    /// It would always be refused.
    Never(Failed),
}

async fn open(caller: &Caller, path: &str) -> Result<Streaming, NotOpened> {
    let stream = caller.lines(path).await.map_err(NotOpened::Later)?;
    if stream.status.is_success() {
        return Ok(stream);
    }
    let (status, headers) = (stream.status, stream.headers.clone());
    let body = stream.rest(ERROR_BYTES_MAX).await.unwrap_or_default();
    let failed = Failed::of_answer("watch", &Response { status, headers, body });
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        Err(NotOpened::Later(failed))
    } else {
        Err(NotOpened::Never(failed))
    }
}

/// Prints lines until the stream ends, and keeps the mark of the last.
async fn follow(
    stream: &mut Streaming,
    output: Output,
    from: &mut Option<String>,
    wait: &mut Duration,
) -> Result<Option<ClientError>, Failed> {
    loop {
        let line = match stream.line().await {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(None),
            Err(error) => return Ok(Some(error)),
        };
        if line.is_empty() {
            continue;
        }
        let change: Change = serde_json::from_slice(&line)
            .map_err(|error| Failed::new(Exit::Failed, format!("watch: a line that can't be read ({error})")))?;
        match output {
            Output::Json => print::line(&line)?,
            Output::Table if change.kind == "progress" => {}
            Output::Table => print::line(text(&change).as_bytes())?,
        }
        *from = Some(change.n.map_or_else(|| change.revision.to_string(), |n| format!("{}.{n}", change.revision)));
        *wait = WAIT_MIN;
    }
}

fn text(change: &Change) -> String {
    let mark = format!("{}.{}", change.revision, change.n.unwrap_or(0));
    let mut text = format!("{}  {mark:<10}  {:<18}", change.at.as_deref().unwrap_or("-"), change.kind);
    for part in [&change.user, &change.connection, &change.topic, &change.gateway, &change.reason].into_iter().flatten()
    {
        text.push_str("  ");
        text.push_str(part);
    }
    text
}
