//! `switchboard whereis`

use clap::Args;

use super::http::{Caller, encoded};
use super::{ApiOptions, Exit, Failed, Output, connections, print};
use crate::wire::http::UserBody;

/// Arguments of `whereis`.
#[derive(Debug, Clone, Args)]
pub struct WhereisArgs {
    /// The user
    pub user: String,
    /// Where, and how to print.
    #[command(flatten)]
    pub api: ApiOptions,
}

/// Shows where a user is connected; fails as not found when offline.
pub(super) async fn run(args: &WhereisArgs) -> Result<(), Failed> {
    let answer = Caller::new(&args.api)?.get(&format!("/v1/users/{}", encoded(&args.user))).await?;
    if args.api.output == Output::Json {
        print::line(&answer.body)?;
    }
    let user: UserBody = print::body(&format!("whereis {}", args.user), &answer)?;
    if !user.online {
        let as_of = user.revision.map_or_else(String::new, |revision| format!(" as of revision {revision}"));
        return Err(Failed::new(Exit::NotFound, format!("{} is offline{as_of}", args.user)));
    }
    if args.api.output == Output::Table {
        connections::show(&user.connections, Some(&args.user))?;
    }
    Ok(())
}
