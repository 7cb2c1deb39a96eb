//! `switchboard connections`

use clap::{Args, Subcommand};

use super::http::{Caller, query};
use super::print::{self, or_none};
use super::{ApiOptions, Failed, Output};
use crate::wire::http::{ConnectionBody, ConnectionList};

/// Arguments of `connections`.
#[derive(Debug, Clone, Args)]
pub struct ConnectionsArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub verb: ConnectionsVerb,
}

/// What to do with connections.
#[derive(Debug, Clone, Subcommand)]
pub enum ConnectionsVerb {
    /// List connections, ordered by id
    List {
        /// Only of this user
        #[arg(long)]
        user: Option<String>,
        /// Only of this gateway
        #[arg(long)]
        gateway: Option<String>,
        /// Only of this device
        #[arg(long)]
        device: Option<String>,
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
}

/// Lists connections.
pub(super) async fn run(args: &ConnectionsArgs) -> Result<(), Failed> {
    let ConnectionsVerb::List { user, gateway, device, limit, cursor, api } = &args.verb;
    let query = query(&[
        ("user", user.as_deref()),
        ("gateway", gateway.as_deref()),
        ("device", device.as_deref()),
        ("limit", Some(&limit.to_string())),
        ("cursor", cursor.as_deref()),
    ]);
    let answer = Caller::new(api)?.get(&format!("/v1/connections{query}")).await?;
    if api.output == Output::Json {
        print::line(&answer.body)?;
    }
    let list: ConnectionList = print::body("connections list", &answer)?;
    if api.output == Output::Table {
        show(&list.connections, None)?;
        if let Some(cursor) = list.next_cursor {
            eprintln!("there are more: --cursor {cursor}");
        }
    }
    Ok(())
}

/// A table of connections; `user` is whose they are where their bodies do not say so.
pub(super) fn show(connections: &[ConnectionBody], user: Option<&str>) -> Result<(), Failed> {
    let mut table = print::table(&["connection", "user", "gateway", "device", "granted", "connected at", "remote"]);
    for connection in connections {
        table.add_row([
            connection.id.clone(),
            or_none(connection.user.as_deref().or(user)),
            connection.gateway.clone(),
            or_none(connection.device.as_deref()),
            connection.granted.to_string(),
            connection.connected_at.clone(),
            or_none(connection.remote.as_deref()),
        ]);
    }
    print::show(&table)
}
