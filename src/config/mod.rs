//! Every setting of every role: read from flags, environment and file, then checked, also against each other.
//!
//! A flag beats the environment, the environment beats the file (`--config`). The file is TOML: a table per role whose keys
//! are the names of its flags.

mod dev;
mod directory;
mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod gateway;
mod policy;
mod tokens;
mod units;

pub use dev::{DevArgs, Ports};
pub use directory::DirectoryArgs;
pub use file::{FileError, apply_file};
pub use gateway::GatewayArgs;
pub use policy::PolicyArgs;
pub use tokens::TokenArgs;

use std::time::Duration;

use crate::{lease, net};

/// A setting, or a relation between two, that makes no sense. The text says which, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// The listener that needs no more than clients with tokens.
const CLIENTS: &str = "listen-clients";

/// Name of the cluster where none is given.
const CLUSTER: &str = "switchboard";

/// Checks the leases of gateways against the longest elections of directory nodes.
///
/// # Errors
/// When a single fail-over could let a lease run out.
pub fn check_together(leases: &[Duration], elections: &[Duration]) -> Result<(), ConfigError> {
    for (lease, election_max) in leases.iter().flat_map(|lease| elections.iter().map(move |longest| (*lease, *longest)))
    {
        lease::check(lease, election_max)
            .map_err(|why| ConfigError(format!("[gateway] lease and [directory] election: {why}")))?;
    }
    Ok(())
}

/// Refuses to tell others an address that means "all of mine": nobody can connect to it.
fn check_advertised(advertised: [(&str, Option<&String>, &str); 2]) -> Result<(), ConfigError> {
    for (which, given, listened) in advertised {
        let unspecified =
            |address: &str| address.rsplit_once(':').is_some_and(|(host, _)| host == "0.0.0.0" || host == "[::]");
        let told = given.map_or(listened, String::as_str);
        if unspecified(told) {
            return Err(ConfigError(format!(
                "others would be told to connect to {told}, which is no address of this machine in particular; give the one \
                 that reaches it with --advertise-{which}"
            )));
        }
    }
    Ok(())
}

/// Refuses addresses that other machines can reach, as long as nobody has to show credentials.
async fn check_loopback(insecure: bool, listeners: [(&str, &str); 3]) -> Result<(), ConfigError> {
    for (flag, address) in listeners.into_iter().filter(|(_, address)| !insecure && !address.is_empty()) {
        match net::is_loopback(address).await {
            Ok(true) => {}
            Ok(false) => {
                let instead = if flag == CLIENTS { "; --client-token-… has clients show tokens instead" } else { "" };
                return Err(ConfigError(format!(
                    "--{flag} {address} can be reached from other machines, and no credentials are configured: anyone could \
                     register and push; listen on a loopback address, or accept that with --insecure{instead}"
                )));
            }
            Err(error) => return Err(ConfigError(format!("--{flag} {address} is no address: {error}"))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_means_all_needs_one_to_tell_others() {
        let given = String::from("10.0.0.1:7200");
        assert!(check_advertised([("peer", Some(&given), "0.0.0.0:7200"), ("api", None, "10.0.0.1:7100")]).is_ok());
        for listened in ["0.0.0.0:7100", "[::]:7100"] {
            let refused = check_advertised([("peer", Some(&given), ""), ("api", None, listened)]).unwrap_err();
            assert!(refused.0.contains("--advertise-api"), "{refused}");
        }
    }

    #[tokio::test]
    async fn an_address_that_others_can_reach_needs_insecure() {
        let listeners = |address| [("listen-api", address), ("listen-peer", "127.0.0.1:0"), ("listen-clients", "")];
        assert!(check_loopback(false, listeners("[::1]:0")).await.is_ok());
        let refused = check_loopback(false, listeners("0.0.0.0:7101")).await.unwrap_err();
        assert!(refused.0.contains("--listen-api 0.0.0.0:7101") && refused.0.contains("--insecure"), "{refused}");
        assert!(check_loopback(true, listeners("0.0.0.0:7101")).await.is_ok());
        assert!(check_loopback(false, listeners("nonsense")).await.is_err());
    }
}
