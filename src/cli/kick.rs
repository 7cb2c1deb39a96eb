//! `switchboard kick`

use axum::http::Method;
use bytes::Bytes;
use clap::Args;

use super::http::{Caller, WITHIN, encoded, query};
use super::{ApiOptions, Exit, Failed, Output, print};
use crate::wire::http::{DisconnectAnswer, DisconnectBody};

/// Arguments of `kick`.
#[derive(Debug, Clone, Args)]
pub struct KickArgs {
    /// The user whose connections are closed
    #[arg(required_unless_present = "connection", conflicts_with = "connection")]
    pub user: Option<String>,
    /// Only those of this device; repeatable
    #[arg(long, value_name = "D", conflicts_with = "connection")]
    pub device: Vec<String>,
    /// Only this connection
    #[arg(long, value_name = "ID")]
    pub connection: Option<String>,
    /// The close code that clients get, 4000 to 4999
    #[arg(long, default_value_t = 4003)]
    pub code: u16,
    /// A sentence that clients get
    #[arg(long)]
    pub reason: Option<String>,
    /// Where, and how to print.
    #[command(flatten)]
    pub api: ApiOptions,
}

/// Closes connections; fails as not found where there is none.
pub(super) async fn run(args: &KickArgs) -> Result<(), Failed> {
    let caller = Caller::new(&args.api)?;
    match (&args.user, &args.connection) {
        (_, Some(id)) => kick_one(args, &caller, id).await,
        (Some(user), None) => kick_user(args, &caller, user).await,
        (None, None) => Err(Failed::new(Exit::Usage, "kick: name a user, or --connection ID")),
    }
}

async fn kick_one(args: &KickArgs, caller: &Caller, id: &str) -> Result<(), Failed> {
    let query = query(&[("code", Some(&args.code.to_string())), ("reason", args.reason.as_deref())]);
    let path = format!("/v1/connections/{}{query}", encoded(id));
    let answer = caller.send(Method::DELETE, &path, Bytes::new(), None, WITHIN).await?;
    if !answer.status.is_success() {
        print::refusal(&args.api, &answer)?;
        return Err(Failed::of_answer("kick", &answer));
    }
    match args.api.output {
        // The route answers without a body.
        Output::Json => Ok(()),
        Output::Table => print::line(format!("{id} is closed").as_bytes()),
    }
}

async fn kick_user(args: &KickArgs, caller: &Caller, user: &str) -> Result<(), Failed> {
    let body = DisconnectBody {
        code: Some(args.code),
        reason: args.reason.clone(),
        devices: args.device.clone(),
        ..DisconnectBody::default()
    };
    let body = serde_json::to_vec(&body).expect("a body of ours has a JSON form");
    let path = format!("/v1/users/{}/disconnect", encoded(user));
    let answer = caller.post(&path, body.into(), None, WITHIN).await?;
    if args.api.output == Output::Json {
        print::line(&answer.body)?;
    }
    let DisconnectAnswer { disconnected, pending, revision } = print::body("kick", &answer)?;
    if disconnected == 0 {
        let with = if args.device.is_empty() { "" } else { " with such a device" };
        let message = format!("{user} is not connected{with} as of revision {revision}: there is nothing to close");
        return Err(Failed::new(Exit::NotFound, message));
    }
    if args.api.output == Output::Table {
        print::line(closed(disconnected, &pending).as_bytes())?;
    }
    Ok(())
}

/// What became of connections that were to be closed.
pub(super) fn closed(disconnected: u64, pending: &[String]) -> String {
    match (disconnected, pending) {
        (1, []) => "1 connection is closed".to_owned(),
        (all, []) => format!("{all} connections are closed"),
        (all, left) => format!(
            "{all} connections were asked to close; {} did not yet and will when their gateway answers or its lease is over: {}",
            left.len(),
            left.join(", ")
        ),
    }
}
