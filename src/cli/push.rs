//! `switchboard push`

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::value::RawValue;

use super::http::{Caller, WITHIN, encoded};
use super::{ApiOptions, Exit, Failed, Output, print};
use crate::wire::http::{PushAnswer, PushBody, PushOutcome};
use crate::wire::peer::Ack;

/// Arguments of `push`.
#[derive(Debug, Clone, Args)]
pub struct PushArgs {
    /// To whom.
    #[command(subcommand)]
    pub target: PushTarget,
}

/// To whom to push.
#[derive(Debug, Clone, Subcommand)]
pub enum PushTarget {
    /// Every connection of a user
    User {
        /// The user
        user: String,
        /// What, and how.
        #[command(flatten)]
        message: MessageArgs,
    },
    /// One connection
    Connection {
        /// Its id
        id: String,
        /// What, and how.
        #[command(flatten)]
        message: MessageArgs,
    },
    /// Every connection that is subscribed to a topic
    Topic {
        /// The topic
        topic: String,
        /// How fast.
        #[command(flatten)]
        pace: PaceArgs,
        /// What, and how.
        #[command(flatten)]
        message: MessageArgs,
    },
    /// Every connection of the cluster
    All {
        /// How fast.
        #[command(flatten)]
        pace: PaceArgs,
        /// What, and how.
        #[command(flatten)]
        message: MessageArgs,
    },
}

/// How fast to push to many.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct PaceArgs {
    /// To so many connections a second, with `--ack none`; 0: as fast as it goes
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub rate: u32,
}

/// What to push, and how.
#[derive(Debug, Clone, Args)]
pub struct MessageArgs {
    /// The message, any JSON
    #[arg(long, value_name = "JSON", required_unless_present = "file", conflicts_with = "file")]
    pub data: Option<String>,
    /// Read the message, any JSON, from a file (`-`: stdin)
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// A word for the receiving program
    #[arg(long)]
    pub event: Option<String>,
    /// When the push counts as delivered
    #[arg(long, value_enum, default_value_t)]
    pub ack: AckArg,
    /// How long to wait for that
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Makes a repeated push take effect once
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Where, and how to print.
    #[command(flatten)]
    pub api: ApiOptions,
}

/// When a push counts as delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum AckArg {
    /// As soon as it is queued.
    None,
    /// When it was written to the socket.
    #[default]
    Written,
    /// When the client has acknowledged it.
    Client,
}

/// Pushes; fails unless some target was reached.
pub(super) async fn run(args: &PushArgs) -> Result<(), Failed> {
    let unpaced = PaceArgs::default();
    let (what, path, pace, message) = match &args.target {
        PushTarget::User { user, message } => (&**user, format!("/v1/users/{}/push", encoded(user)), unpaced, message),
        PushTarget::Connection { id, message } => {
            (&**id, format!("/v1/connections/{}/push", encoded(id)), unpaced, message)
        }
        PushTarget::Topic { topic, pace, message } => {
            (&**topic, format!("/v1/topics/{}/push", encoded(topic)), *pace, message)
        }
        PushTarget::All { pace, message } => ("everybody", String::from("/v1/broadcast"), *pace, message),
    };
    let what = format!("push to {what}");
    let body = PushBody { rate_per_s: pace.rate.into(), ..body(message)? };
    let body = serde_json::to_vec(&body).expect("a push has a JSON form");
    let key = message.idempotency_key.as_deref().map(HeaderValue::try_from).transpose();
    let key = key.map_err(|_| Failed::new(Exit::Usage, "--idempotency-key: a key is one line of text"))?;
    let key = key.map(|key| (HeaderName::from_static("idempotency-key"), key));
    let answer = Caller::new(&message.api)?.post(&path, body.into(), key, message.timeout + WITHIN).await?;
    if message.api.output == Output::Json {
        print::line(&answer.body)?;
    }
    let pushed: PushAnswer = print::body(&what, &answer)?;
    if message.api.output == Output::Table {
        show(&pushed)?;
    }
    match pushed.outcome {
        PushOutcome::Failed => Err(Failed::new(Exit::Failed, format!("{what}: no target was reached; try again"))),
        _ => Ok(()),
    }
}

fn body(message: &MessageArgs) -> Result<PushBody, Failed> {
    let (from, text) = match (&message.data, &message.file) {
        (Some(data), _) => (String::from("--data"), data.clone()),
        (None, Some(file)) => (file.display().to_string(), read(file)?),
        (None, None) => return Err(Failed::new(Exit::Usage, "give the message with --data or --file")),
    };
    let data = RawValue::from_string(text.trim().to_owned()).map_err(|error| {
        Failed::new(Exit::Usage, format!("{from} is not JSON ({error}); a text needs quotes: --data '\"hello\"'"))
    })?;
    let ack = match message.ack {
        AckArg::None => Ack::None,
        AckArg::Written => Ack::Written,
        AckArg::Client => Ack::Client,
    };
    let timeout_ms = u64::try_from(message.timeout.as_millis()).unwrap_or(u64::MAX);
    Ok(PushBody {
        data: Some(data),
        event: message.event.clone(),
        ack,
        timeout_ms: Some(timeout_ms),
        ..PushBody::default()
    })
}

fn read(file: &Path) -> Result<String, Failed> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    read.map_err(|error| Failed::new(Exit::Failed, format!("can't read {}: {error}", file.display())))
}

fn show(pushed: &PushAnswer) -> Result<(), Failed> {
    let outcome = match pushed.outcome {
        PushOutcome::Delivered => "delivered",
        PushOutcome::Partial => "partly delivered",
        PushOutcome::Failed => "failed",
        PushOutcome::Accepted => "accepted",
    };
    let PushAnswer { id, delivered, failed, revision, .. } = pushed;
    print::line(format!("{id}   {outcome}: {delivered} reached, {failed} not   revision {revision}").as_bytes())?;
    for gateway in &pushed.unanswered {
        print::line(format!("gateway {gateway} gave no answer; who is there may not have got it").as_bytes())?;
    }
    let mut table = print::table(&["connection", "gateway", "status"]);
    for target in &pushed.results {
        let status = serde_json::to_value(target.status).expect("a status has a JSON form");
        table.add_row([&target.connection, &target.gateway, status.as_str().unwrap_or_default()]);
    }
    print::show(&table)
}
