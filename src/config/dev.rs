//! Settings of a whole cluster on loopback in one process.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::ConfigError;
use super::policy::PolicyArgs;
use super::tokens::TokenArgs;
use super::units::duration;
use crate::gateway::{Policy, Settings};
use crate::lease;

/// Most nodes or gateways of a development cluster: the fixed ports have one digit for them.
const MEMBERS_MAX: u16 = 9;

/// Run a whole cluster on loopback: real Raft, real sockets, real disk
#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    /// Directory nodes
    #[arg(long, value_name = "N", env = "SWITCHBOARD_DIRECTORIES", default_value_t = 3)]
    pub directories: u16,

    /// Gateways
    #[arg(long, value_name = "N", env = "SWITCHBOARD_GATEWAYS", default_value_t = 2)]
    pub gateways: u16,

    /// Keep the state here; without it, it is temporary and removed at exit
    #[arg(long, value_name = "DIR", env = "SWITCHBOARD_DATA_DIR")]
    pub data_dir: Option<PathBuf>,

    /// Length of the leases of the gateways
    #[arg(long, value_name = "TIME", env = "SWITCHBOARD_LEASE", default_value = "3s", value_parser = duration)]
    pub lease: Duration,

    /// Which connections of a user may live beside each other.
    #[command(flatten)]
    pub policy: PolicyArgs,

    /// How clients show who they are.
    #[command(flatten)]
    pub tokens: TokenArgs,

    /// fixed: directory node i at 710i and 720i, gateway i at 800i, 810i and 820i; auto: any free ports
    #[arg(long, value_enum, env = "SWITCHBOARD_PORTS", default_value_t)]
    pub ports: Ports,
}

/// Which ports a development cluster listens on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Ports {
    /// The documented ones.
    #[default]
    Fixed,
    /// Any free ones.
    Auto,
}

impl DevArgs {
    /// Checks the settings, and gives what all gateways have in common.
    ///
    /// # Errors
    /// The first one that makes no sense.
    pub async fn gateways(&self) -> Result<Settings, ConfigError> {
        self.check()?;
        let (tokens, origins) = (self.tokens.settings().await?, self.tokens.origins()?);
        Ok(Settings { lease: self.lease, policy: self.policy.policy(), tokens, origins, ..Settings::default() })
    }

    /// Checks the settings, also against each other.
    ///
    /// # Errors
    /// The first one that makes no sense.
    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |why: &str| Err(ConfigError(why.to_owned()));
        if !(1..=MEMBERS_MAX).contains(&self.directories) {
            return refuse("--directories is 1 to 9; 3 survive the loss of one");
        }
        if self.gateways > MEMBERS_MAX {
            return refuse("--gateways is at most 9");
        }
        if let Policy::Multi { max: 0, .. } = self.policy.policy() {
            return refuse("--max is at least 1: a user needs a connection");
        }
        if self.ports == Ports::Auto && self.data_dir.is_some() {
            return refuse(
                "--data-dir needs fixed ports: the nodes find each other again by the addresses that they had, \
                 so leave out --ports auto",
            );
        }
        lease::check(self.lease, Duration::from_millis(600)).map_err(|why| ConfigError(format!("--lease: {why}")))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::gateway::{Handover, Per};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: DevArgs,
    }

    fn policy(flags: &[&str]) -> Result<Policy, String> {
        let args = Line::try_parse_from(["dev"].iter().chain(flags)).map_err(|error| error.to_string())?.args;
        args.check().map(|()| args.policy.policy()).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn its_gateways_take_tokens_if_it_is_asked_to() {
        let gateways = async |flags: &[&str]| {
            Line::try_parse_from(["dev"].iter().chain(flags)).unwrap().args.gateways().await.unwrap()
        };
        assert!(gateways(&[]).await.tokens.is_none());
        let secret = "0123456789abcdef0123456789abcdef";
        let given = gateways(&["--client-token-hmac-secret-key", secret, "--client-allowed-origins", "*"]).await;
        assert!(given.tokens.is_some() && given.origins.is_some());
    }

    #[test]
    fn its_gateways_have_the_policy_that_the_flags_say() {
        assert_eq!(policy(&[]), Ok(Policy::multi(16)));
        let flags = ["--policy", "newest_wins", "--per", "device", "--handover", "immediate"];
        let meant = Policy::NewestWins { per: Per::Device, handover: Handover::Immediate };
        assert_eq!(policy(&flags), Ok(meant));
        assert!(policy(&["--max", "0"]).is_err_and(|why| why.contains("--max is at least 1")));
        assert!(policy(&["--policy", "best"]).is_err_and(|why| why.contains("newest_wins, oldest_wins")));
    }
}
