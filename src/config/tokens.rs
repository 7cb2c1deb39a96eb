//! How clients show who they are: the same flags for a gateway and for a development cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::ConfigError;
use super::units::duration;
use crate::pattern::Pattern;
use crate::tokens::{JwksPlace, JwksSource, KeyError, KeySet, Secret, Settings};

/// Shortest time between two looks at keys that may have changed.
const REFRESH_MIN: Duration = Duration::from_secs(10);

/// Longest difference between clocks that is put up with: more would make the end of a token meaningless.
const LEEWAY_MAX: Duration = Duration::from_secs(300);

/// The tokens of clients, and the origins of their pages.
#[derive(Debug, Clone, Args)]
pub struct TokenArgs {
    /// Files with the secret that tokens are signed with (HS256, HS384, HS512); several while it is changed
    #[arg(long, value_name = "FILE,…", env = "SWITCHBOARD_CLIENT_TOKEN_HMAC_SECRET_FILE", value_delimiter = ',')]
    pub client_token_hmac_secret_file: Vec<PathBuf>,

    /// The secret itself; rather in the environment than here, where others on this machine see it
    #[arg(
        long,
        value_name = "SECRET",
        env = "SWITCHBOARD_CLIENT_TOKEN_HMAC_SECRET_KEY",
        hide_env_values = true,
        hide_default_value = true
    )]
    pub client_token_hmac_secret_key: Option<Secret>,

    /// Files with the public key, in PEM, of whoever signs tokens: RSA, P-256, P-384 or Ed25519
    #[arg(long, value_name = "FILE,…", env = "SWITCHBOARD_CLIENT_TOKEN_PUBLIC_KEY_FILE", value_delimiter = ',')]
    pub client_token_public_key_file: Vec<PathBuf>,

    /// A JSON Web Key Set; read again when a token names a key that is not in it
    #[arg(long, value_name = "FILE", env = "SWITCHBOARD_CLIENT_TOKEN_JWKS_FILE")]
    pub client_token_jwks_file: Option<PathBuf>,

    /// URL of a JSON Web Key Set, http:// only; read again when a token names a key that is not in it
    #[arg(long, value_name = "URL", env = "SWITCHBOARD_CLIENT_TOKEN_JWKS_URL")]
    pub client_token_jwks_url: Option<String>,

    /// How often a JSON Web Key Set is read again without any other reason
    #[arg(long, value_name = "TIME", env = "SWITCHBOARD_CLIENT_TOKEN_JWKS_REFRESH", default_value = "5m", value_parser = duration)]
    pub client_token_jwks_refresh: Duration,

    /// Take only tokens that are for one of these (aud)
    #[arg(long, value_name = "NAME,…", env = "SWITCHBOARD_CLIENT_TOKEN_AUDIENCE", value_delimiter = ',')]
    pub client_token_audience: Vec<String>,

    /// Take only tokens that are from one of these (iss)
    #[arg(long, value_name = "NAME,…", env = "SWITCHBOARD_CLIENT_TOKEN_ISSUER", value_delimiter = ',')]
    pub client_token_issuer: Vec<String>,

    /// Which claim names the user
    #[arg(long, value_name = "CLAIM", env = "SWITCHBOARD_CLIENT_TOKEN_USER_CLAIM", default_value = "sub")]
    pub client_token_user_claim: String,

    /// By how much the clock of whoever signs tokens may differ from this one
    #[arg(long, value_name = "TIME", env = "SWITCHBOARD_CLIENT_TOKEN_LEEWAY", default_value = "5s", value_parser = duration)]
    pub client_token_leeway: Duration,

    /// Origins of web pages that may connect, * stands for anything: https://*.example.com; without it, all may
    #[arg(long, value_name = "ORIGIN,…", env = "SWITCHBOARD_CLIENT_ALLOWED_ORIGINS", value_delimiter = ',')]
    pub client_allowed_origins: Vec<String>,
}

impl TokenArgs {
    /// How tokens are checked; nothing where no key is configured.
    ///
    /// # Errors
    /// The first setting that makes no sense, and the first file that holds no key.
    pub(super) async fn settings(&self) -> Result<Option<Settings>, ConfigError> {
        let mut keys = KeySet::default();
        for path in &self.client_token_hmac_secret_file {
            let named = |why: String| refused("client-token-hmac-secret-file", path, &why);
            let secret = Secret::read(path).map_err(|error| named(error.to_string()))?;
            keys.add(KeySet::secret(secret.as_bytes()).map_err(|error| named(error.to_string()))?);
        }
        if let Some(secret) = &self.client_token_hmac_secret_key {
            let named = |error: KeyError| ConfigError(format!("--client-token-hmac-secret-key: {error}"));
            keys.add(KeySet::secret(secret.as_bytes()).map_err(named)?);
        }
        for path in &self.client_token_public_key_file {
            let named = |why: String| refused("client-token-public-key-file", path, &why);
            let pem = std::fs::read(path).map_err(|error| named(error.to_string()))?;
            keys.add(KeySet::public_pem(&pem).map_err(|error| named(error.to_string()))?);
        }
        let jwks = self.jwks().await?;
        if keys.is_empty() && jwks.is_none() {
            return self.needless().map_or(Ok(None), |flag| {
                Err(ConfigError(format!(
                    "--{flag} is about tokens, but no key is configured to check them with: give \
                     --client-token-hmac-secret-file, --client-token-public-key-file, --client-token-jwks-file or \
                     --client-token-jwks-url"
                )))
            });
        }
        if self.client_token_leeway > LEEWAY_MAX {
            return Err(ConfigError(format!("--client-token-leeway is at most {LEEWAY_MAX:?}")));
        }
        Ok(Some(Settings {
            keys,
            jwks,
            audience: self.client_token_audience.clone(),
            issuer: self.client_token_issuer.clone(),
            user_claim: self.client_token_user_claim.clone(),
            leeway: self.client_token_leeway,
        }))
    }

    /// Origins that may connect; nothing where all may.
    pub(super) fn origins(&self) -> Result<Option<Vec<Pattern>>, ConfigError> {
        let bad = self.client_allowed_origins.iter().find(|origin| {
            *origin != "*" && *origin != "null" && !origin.split_once("://").is_some_and(|(_, host)| is_host(host))
        });
        if let Some(origin) = bad {
            return Err(ConfigError(format!(
                "--client-allowed-origins {origin:?} is no origin: it has the form https://host or https://host:port, \
                 without a path, and * stands for anything"
            )));
        }
        let origins = self.client_allowed_origins.iter().map(|origin| Pattern::new(&origin.to_ascii_lowercase()));
        Ok((!self.client_allowed_origins.is_empty()).then(|| origins.collect()))
    }

    async fn jwks(&self) -> Result<Option<JwksSource>, ConfigError> {
        let at = match (&self.client_token_jwks_file, &self.client_token_jwks_url) {
            (Some(_), Some(_)) => {
                return Err(ConfigError(String::from(
                    "--client-token-jwks-file and --client-token-jwks-url are both given, and one key set is followed; \
                     leave one out",
                )));
            }
            (Some(path), None) => JwksPlace::File(path.clone()),
            (None, Some(url)) if url.starts_with("http://") => JwksPlace::Url(url.clone()),
            (None, Some(url)) => {
                return Err(ConfigError(format!(
                    "--client-token-jwks-url {url} can't be read: only http:// is offered yet; have something on this machine \
                     fetch the set, and name it by --client-token-jwks-file"
                )));
            }
            (None, None) => return Ok(None),
        };
        if self.client_token_jwks_refresh < REFRESH_MIN {
            return Err(ConfigError(format!("--client-token-jwks-refresh is at least {REFRESH_MIN:?}")));
        }
        // A URL may be out of reach while this process starts; a file is there or wrong.
        if let JwksPlace::File(path) = &at {
            at.load().await.map_err(|why| refused("client-token-jwks-file", path, &why))?;
        }
        Ok(Some(JwksSource { at, refresh: self.client_token_jwks_refresh }))
    }

    /// A flag that says something of tokens that nothing could check.
    fn needless(&self) -> Option<&'static str> {
        let audience = (!self.client_token_audience.is_empty()).then_some("client-token-audience");
        audience.or((!self.client_token_issuer.is_empty()).then_some("client-token-issuer"))
    }
}

fn refused(flag: &str, path: &Path, why: &str) -> ConfigError {
    ConfigError(format!("--{flag} {} can't be used: {why}", path.display()))
}

fn is_host(host: &str) -> bool {
    !host.is_empty() && !host.contains(['/', '@', '?', '#', ' '])
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: TokenArgs,
    }

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn args(flags: &[&str]) -> TokenArgs {
        Line::try_parse_from(["gateway"].iter().chain(flags)).unwrap().args
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    async fn refused(flags: &[&str]) -> String {
        args(flags).settings().await.unwrap_err().0
    }

    #[tokio::test]
    async fn a_secret_comes_from_a_file_or_the_environment_and_is_never_shown() {
        assert!(args(&[]).settings().await.unwrap().is_none(), "nothing is asked for unless configured");
        let with_newline = file(&format!("{SECRET}\n"));
        let path = with_newline.path().to_str().unwrap();
        let given = args(&["--client-token-hmac-secret-file", path, "--client-token-hmac-secret-key", SECRET]);
        assert!(!format!("{given:?}").contains(SECRET));
        let settings = given.settings().await.unwrap().unwrap();
        assert_eq!(settings.keys.len(), 2);
        assert!(!format!("{settings:?}").contains("0123"));
        let short = refused(&["--client-token-hmac-secret-key", "secret"]).await;
        assert!(short.contains("6 bytes") && short.contains("at least 32"), "{short}");
    }

    #[tokio::test]
    async fn what_can_not_be_used_is_named_with_the_reason() {
        let nonsense = file("nonsense");
        let path = nonsense.path().to_str().unwrap();
        for (flags, why) in [
            (&["--client-token-public-key-file", path][..], "no public key"),
            (&["--client-token-jwks-file", path], "no JSON Web Key Set"),
            (&["--client-token-hmac-secret-file", path], "at least 32"),
            (&["--client-token-hmac-secret-file", "missing"], "--client-token-hmac-secret-file missing"),
            (&["--client-token-jwks-url", "https://example.com/jwks"], "only http://"),
            (&["--client-token-jwks-url", "http://x/", "--client-token-jwks-refresh", "1s"], "at least 10s"),
            (&["--client-token-jwks-url", "http://x/", "--client-token-jwks-file", path], "leave one out"),
            (&["--client-token-audience", "web"], "--client-token-audience is about tokens"),
            (&["--client-token-hmac-secret-key", SECRET, "--client-token-leeway", "1h"], "at most 300s"),
        ] {
            let refused = refused(flags).await;
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn origins_are_patterns_of_origins() {
        assert_eq!(args(&[]).origins(), Ok(None));
        let origins = args(&["--client-allowed-origins", "https://*.Example.com,http://localhost:*"]).origins();
        assert!(origins.unwrap().unwrap().iter().any(|origin| origin.fits("https://a.example.com")));
        for bad in ["example.com", "https://", "https://example.com/", "https://a@b"] {
            let refused = args(&["--client-allowed-origins", bad]).origins().unwrap_err();
            assert!(refused.0.contains("is no origin"), "{refused}");
        }
    }
}
