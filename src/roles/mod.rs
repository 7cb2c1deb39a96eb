//! The life of each role: check the settings, start, say so, wait, end.

mod dev;
mod directory;
mod gateway;

pub use dev::run as dev;
pub use directory::run as directory;
pub use gateway::run as gateway;

use serde::Serialize;
use tokio::task::JoinSet;

use crate::cli::Exit;
pub use crate::cli::Failed;
use crate::config::ConfigError;
use crate::shutdown::Shutdown;
use crate::telemetry;

impl From<ConfigError> for Failed {
    fn from(error: ConfigError) -> Self {
        Self { exit: Exit::Usage, message: error.0 }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "map_err hands the error over")]
fn failed(message: impl ToString) -> Failed {
    Failed { exit: Exit::Failed, message: message.to_string() }
}

/// What the process tells on stdout, in one line, once it listens.
#[derive(Debug, Serialize)]
struct Ready<'a> {
    ready: bool,
    role: &'a str,
    id: &'a str,
    api: String,
    peer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    clients: Option<String>,
}

impl Ready<'_> {
    fn print(&self) {
        println!("{}", serde_json::to_string(self).expect("the line has a JSON form"));
    }
}

/// What every role needs of its process: signals, and metrics that stay small. The tasks end with the set.
fn housekeeping(shutdown: &Shutdown) -> JoinSet<()> {
    telemetry::install_metrics();
    let mut tasks = JoinSet::new();
    tasks.spawn(telemetry::upkeep(shutdown.stop.clone()));
    let signals = shutdown.clone();
    tasks.spawn(async move {
        if let Err(error) = signals.on_signals().await {
            tracing::error!(%error, "signals can't be handled; the process can only be killed");
        }
    });
    tasks
}
