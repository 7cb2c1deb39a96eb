//! What every verb of a client is told.

use clap::{Args, ValueEnum};

/// Where the API is, and how to print what it answers.
#[derive(Debug, Clone, Args)]
pub struct ApiOptions {
    /// URL of an API; repeatable, tried in order
    #[arg(
        long = "api",
        value_name = "URL",
        env = "SWITCHBOARD_API",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8101,http://127.0.0.1:7101"
    )]
    pub api: Vec<String>,

    /// API key
    #[arg(long, value_name = "KEY", env = "SWITCHBOARD_KEY", hide_env_values = true)]
    pub key: Option<String>,

    /// How to print: a table, or the body of the HTTP route unchanged
    #[arg(short = 'o', long = "output", value_enum, default_value_t)]
    pub output: Output,
}

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// The body of the HTTP route, unchanged.
    Json,
}
