//! Settings of a gateway.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use super::policy::PolicyArgs;
use super::tokens::TokenArgs;
use super::units::duration;
use super::{CLIENTS, CLUSTER, ConfigError, check_advertised, check_loopback};
use crate::gateway::{ClientLimits, ReplicaMode, Settings};
use crate::lease;

/// Run a gateway: it terminates client WebSockets and delivers pushes
#[derive(Debug, Clone, Args)]
pub struct GatewayArgs {
    /// Name of this gateway in the cluster
    #[arg(long, value_name = "NAME", env = "SWITCHBOARD_ID")]
    pub id: String,

    /// Peer addresses of directory nodes; one that can be reached is enough
    #[arg(long, value_name = "HOST:PORT,…", env = "SWITCHBOARD_DIRECTORY", value_delimiter = ',', required = true)]
    pub directory: Vec<String>,

    /// Address for clients: WebSocket
    #[arg(long, value_name = "HOST:PORT", env = "SWITCHBOARD_LISTEN_CLIENTS")]
    pub listen_clients: String,

    /// Address for services: HTTP
    #[arg(long, value_name = "HOST:PORT", env = "SWITCHBOARD_LISTEN_API")]
    pub listen_api: String,

    /// Address for other processes of the cluster
    #[arg(long, value_name = "HOST:PORT", env = "SWITCHBOARD_LISTEN_PEER")]
    pub listen_peer: String,

    /// Length of the lease on the connections of this gateway; when it is silent for so long, they are gone
    #[arg(long, value_name = "TIME", env = "SWITCHBOARD_LEASE", default_value = "3s", value_parser = duration)]
    pub lease: Duration,

    /// Name of the cluster; processes of other clusters are refused
    #[arg(long, value_name = "NAME", env = "SWITCHBOARD_CLUSTER", default_value = CLUSTER)]
    pub cluster: String,

    /// WebSocket URL that clients are told
    #[arg(long, value_name = "URL", env = "SWITCHBOARD_ADVERTISE_URL")]
    pub advertise_url: Option<String>,

    /// Peer address that others are told, if it is not the listening one
    #[arg(long, value_name = "HOST:PORT", env = "SWITCHBOARD_ADVERTISE_PEER")]
    pub advertise_peer: Option<String>,

    /// API address that others are told, if it is not the listening one
    #[arg(long, value_name = "HOST:PORT", env = "SWITCHBOARD_ADVERTISE_API")]
    pub advertise_api: Option<String>,

    /// How much of the directory is kept in memory: full, or lru:N, the N users that were asked for last
    #[arg(long, value_name = "MODE", env = "SWITCHBOARD_REPLICA", default_value = "full", value_parser = ReplicaMode::from_str)]
    pub replica: ReplicaMode,

    /// Which connections may live beside each other.
    #[command(flatten)]
    pub policy: PolicyArgs,

    /// How clients show who they are.
    #[command(flatten)]
    pub tokens: TokenArgs,

    /// How often clients are pinged
    #[arg(long, value_name = "TIME", env = "SWITCHBOARD_PING", default_value = "25s", value_parser = duration)]
    pub ping: Duration,

    /// Silence longer than this and --ping ends a connection
    #[arg(long, value_name = "TIME", env = "SWITCHBOARD_PONG_TIMEOUT", default_value = "10s", value_parser = duration)]
    pub pong_timeout: Duration,

    /// How long clients may take to leave when the gateway shuts down
    #[arg(long, value_name = "TIME", env = "SWITCHBOARD_DRAIN", default_value = "10s", value_parser = duration)]
    pub drain: Duration,

    /// How long sockets stay open after the lease was lost
    #[arg(long, value_name = "TIME", env = "SWITCHBOARD_LEASE_LOST_GRACE", default_value = "60s", value_parser = duration)]
    pub lease_lost_grace: Duration,

    /// Listen on addresses that other machines can reach although nobody has to show credentials
    #[arg(long, env = "SWITCHBOARD_INSECURE")]
    pub insecure: bool,
}

impl GatewayArgs {
    /// Checks the settings, also against each other.
    ///
    /// # Errors
    /// The first one that makes no sense.
    pub async fn settings(self) -> Result<Settings, ConfigError> {
        if !lease::LEASES.contains(&self.lease) {
            let (shortest, longest) = (lease::LEASES.start(), lease::LEASES.end());
            return Err(ConfigError(format!("--lease is {shortest:?} to {longest:?}, not {:?}", self.lease)));
        }
        if self.ping < Duration::from_secs(1) || self.pong_timeout < Duration::from_secs(1) {
            return Err(ConfigError(String::from(
                "--ping and --pong-timeout are at least 1s: a slow network needs as much",
            )));
        }
        let tokens = self.tokens.settings().await?;
        let listeners = [
            ("listen-api", &*self.listen_api),
            ("listen-peer", &*self.listen_peer),
            // Who has to show a token may come from anywhere.
            (CLIENTS, if tokens.is_some() { "" } else { &*self.listen_clients }),
        ];
        check_loopback(self.insecure, listeners).await?;
        check_advertised([
            ("peer", self.advertise_peer.as_ref(), &self.listen_peer),
            ("api", self.advertise_api.as_ref(), &self.listen_api),
        ])?;
        let settings = Settings {
            id: self.id,
            cluster: self.cluster,
            directory: self.directory,
            listen_clients: self.listen_clients,
            listen_api: self.listen_api,
            listen_peer: self.listen_peer,
            advertise_url: self.advertise_url,
            advertise_api: self.advertise_api,
            advertise_peer: self.advertise_peer,
            replica: self.replica,
            policy: self.policy.policy(),
            tokens,
            origins: self.tokens.origins()?,
            lease: self.lease,
            lease_lost_grace: self.lease_lost_grace,
            drain: self.drain,
            clients: ClientLimits { heartbeat: self.ping, pong_timeout: self.pong_timeout, ..ClientLimits::default() },
            ..Settings::default()
        };
        settings.check().map_err(|error| ConfigError(error.to_string()))?;
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::gateway::{Handover, Per, Policy};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: GatewayArgs,
    }

    async fn policy(flags: &[&str]) -> Result<Policy, String> {
        let needed = ["gateway", "--id", "gw-1", "--directory", "d:1"];
        let listeners =
            ["--listen-clients", "127.0.0.1:0", "--listen-api", "127.0.0.1:0", "--listen-peer", "127.0.0.1:0"];
        // What is given twice counts as it is given last.
        let listeners = listeners.chunks(2).filter(|pair| !flags.contains(&pair[0])).flatten();
        let line = needed.iter().chain(listeners).chain(flags);
        let line = Line::try_parse_from(line).map_err(|error| error.to_string())?;
        line.args.settings().await.map(|settings| settings.policy).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn clients_who_show_tokens_may_come_from_anywhere_and_services_may_not() {
        let anywhere = ["--listen-clients", "0.0.0.0:0"];
        let secret = ["--client-token-hmac-secret-key", "0123456789abcdef0123456789abcdef"];
        let refused = policy(&anywhere).await.unwrap_err();
        assert!(refused.contains("--listen-clients") && refused.contains("--client-token-"), "{refused}");
        assert!(policy(&[anywhere, secret].concat()).await.is_ok());
        let refused = policy(&[["--listen-api", "0.0.0.0:0"], secret].concat()).await.unwrap_err();
        assert!(refused.contains("--listen-api") && !refused.contains("--client-token-"), "{refused}");
    }

    #[tokio::test]
    async fn policies_are_put_together_from_their_flags() {
        let (user, device) = (Per::User, Per::Device);
        for (flags, meant) in [
            (&[][..], Policy::multi(16)),
            (&["--max", "3", "--per", "device"], Policy::Multi { max: 3, per: device }),
            (&["--policy", "newest_wins"], Policy::NewestWins { per: user, handover: Handover::Wait }),
            (
                &["--policy", "newest_wins", "--per", "device", "--handover", "immediate"],
                Policy::NewestWins { per: device, handover: Handover::Immediate },
            ),
            (&["--policy", "oldest_wins", "--per", "device"], Policy::OldestWins { per: device }),
        ] {
            assert_eq!(policy(flags).await, Ok(meant), "{flags:?}");
        }
        for (flags, why) in [
            (["--policy", "best"], "newest_wins, oldest_wins"),
            (["--per", "town"], "user, device"),
            (["--handover", "never"], "wait, immediate"),
            (["--max", "0"], "at least one connection"),
        ] {
            let refused = policy(&flags).await.unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
