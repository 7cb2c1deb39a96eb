//! `switchboard bans`

use axum::http::Method;
use bytes::Bytes;
use clap::{Args, Subcommand};

use super::http::{Caller, WITHIN, encoded, query};
use super::print::{self, or_none};
use super::{ApiOptions, Failed, Output, kick};
use crate::wire::http::{BanAnswer, BanBody, BanList};

/// Arguments of `bans`.
#[derive(Debug, Clone, Args)]
pub struct BansArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub verb: BansVerb,
}

/// What to do with bans.
#[derive(Debug, Clone, Subcommand)]
pub enum BansVerb {
    /// List the users that are banned
    List {
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// Go on where a former list ended
        #[arg(long)]
        cursor: Option<String>,
        /// Where, and how to print.
        #[command(flatten)]
        api: ApiOptions,
    },
    /// Close a user's connections, and refuse new ones from now on
    Add {
        /// The user
        user: String,
        /// When the ban ends, such as 2030-01-31T12:00:00Z; left out: never
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// Why, for people and for the clients that are closed
        #[arg(long)]
        reason: Option<String>,
        /// Where, and how to print.
        #[command(flatten)]
        api: ApiOptions,
    },
    /// Let a user connect again
    Remove {
        /// The user
        user: String,
        /// Where, and how to print.
        #[command(flatten)]
        api: ApiOptions,
    },
}

/// Shows or changes the bans.
pub(super) async fn run(args: &BansArgs) -> Result<(), Failed> {
    match &args.verb {
        BansVerb::List { limit, cursor, api } => list(*limit, cursor.as_deref(), api).await,
        BansVerb::Add { user, until, reason, api } => {
            add(user, BanBody { until: until.clone(), reason: reason.clone(), timeout_ms: None }, api).await
        }
        BansVerb::Remove { user, api } => remove(user, api).await,
    }
}

async fn list(limit: u32, cursor: Option<&str>, api: &ApiOptions) -> Result<(), Failed> {
    let query = query(&[("limit", Some(&limit.to_string())), ("cursor", cursor)]);
    let answer = Caller::new(api)?.get(&format!("/v1/bans{query}")).await?;
    if api.output == Output::Json {
        print::line(&answer.body)?;
    }
    let list: BanList = print::body("bans list", &answer)?;
    if api.output == Output::Table {
        let mut table = print::table(&["user", "until", "since revision", "reason"]);
        for ban in list.bans {
            table.add_row([ban.user, or_none(ban.until), ban.revision.to_string(), or_none(ban.reason)]);
        }
        print::show(&table)?;
        if let Some(cursor) = list.next_cursor {
            eprintln!("there are more: --cursor {cursor}");
        }
    }
    Ok(())
}

async fn add(user: &str, ban: BanBody, api: &ApiOptions) -> Result<(), Failed> {
    let body = serde_json::to_vec(&ban).expect("a body of ours has a JSON form");
    let path = format!("/v1/bans/{}", encoded(user));
    let answer = Caller::new(api)?.send(Method::PUT, &path, body.into(), None, WITHIN).await?;
    if api.output == Output::Json {
        print::line(&answer.body)?;
    }
    let BanAnswer { ban, disconnected, pending } = print::body("bans add", &answer)?;
    if api.output == Output::Table {
        let until = ban.until.map_or_else(|| String::from("for ever"), |until| format!("until {until}"));
        let closed = if disconnected == 0 {
            String::from("no connection had to be closed")
        } else {
            kick::closed(disconnected, &pending)
        };
        print::line(format!("{user} is banned {until}; {closed}").as_bytes())?;
    }
    Ok(())
}

async fn remove(user: &str, api: &ApiOptions) -> Result<(), Failed> {
    let path = format!("/v1/bans/{}", encoded(user));
    let answer = Caller::new(api)?.send(Method::DELETE, &path, Bytes::new(), None, WITHIN).await?;
    if !answer.status.is_success() {
        print::refusal(api, &answer)?;
        return Err(Failed::of_answer("bans remove", &answer));
    }
    match api.output {
        // The route answers without a body.
        Output::Json => Ok(()),
        Output::Table => print::line(format!("{user} may connect again").as_bytes()),
    }
}
