//! `switchboard topics`

use clap::Args;

use super::http::{Caller, query};
use super::{ApiOptions, Failed, Output, print};
use crate::wire::http::TopicList;

/// Arguments of `topics`.
#[derive(Debug, Clone, Args)]
pub struct TopicsArgs {
    /// Only those that begin so
    #[arg(long, value_name = "P")]
    pub prefix: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 100)]
    pub limit: u32,
    /// Where, and how to print.
    #[command(flatten)]
    pub api: ApiOptions,
}

/// Lists topics.
pub(super) async fn run(args: &TopicsArgs) -> Result<(), Failed> {
    let query = query(&[("prefix", args.prefix.as_deref()), ("limit", Some(&args.limit.to_string()))]);
    let answer = Caller::new(&args.api)?.get(&format!("/v1/topics{query}")).await?;
    if args.api.output == Output::Json {
        print::line(&answer.body)?;
    }
    let list: TopicList = print::body("topics", &answer)?;
    if args.api.output == Output::Table {
        // A gateway that can't be asked counts as one subscriber, which it has at least.
        let at_least = if list.at_least { "at least " } else { "" };
        let mut table = print::table(&["topic", "connections", "gateways"]);
        for topic in list.topics {
            table.add_row([topic.topic, format!("{at_least}{}", topic.connections), topic.gateways.to_string()]);
        }
        print::show(&table)?;
    }
    Ok(())
}
