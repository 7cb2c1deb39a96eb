//! `switchboard gateways`

use clap::{Args, Subcommand};

use super::http::Caller;
use super::print::{self, or_none};
use super::{ApiOptions, Failed, Output};
use crate::wire::http::Gateways;

/// Arguments of `gateways`.
#[derive(Debug, Clone, Args)]
pub struct GatewaysArgs {
    /// What to do with them.
    #[command(subcommand)]
    pub verb: GatewaysVerb,
}

/// What to do with gateways.
#[derive(Debug, Clone, Subcommand)]
pub enum GatewaysVerb {
    /// List gateways with a live session
    List {
        /// Where, and how to print.
        #[command(flatten)]
        api: ApiOptions,
    },
}

/// Lists gateways.
pub(super) async fn run(args: &GatewaysArgs) -> Result<(), Failed> {
    let GatewaysVerb::List { api } = &args.verb;
    let answer = Caller::new(api)?.get("/v1/gateways").await?;
    if api.output == Output::Json {
        print::line(&answer.body)?;
    }
    let list: Gateways = print::body("gateways list", &answer)?;
    if api.output == Output::Table {
        let mut table =
            print::table(&["gateway", "epoch", "connections", "weight", "lease left", "draining", "url", "api"]);
        for gateway in list.gateways {
            table.add_row([
                gateway.id,
                gateway.epoch.to_string(),
                gateway.connections.to_string(),
                format!("{:.2}", gateway.weight),
                or_none(gateway.lease_remaining_ms.map(|ms| format!("{ms} ms"))),
                String::from(if gateway.draining { "yes" } else { "no" }),
                or_none(gateway.url),
                or_none(gateway.api),
            ]);
        }
        print::show(&table)?;
    }
    Ok(())
}
