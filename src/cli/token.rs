//! `switchboard token`: makes and checks tokens of clients, here; nothing is asked of a cluster.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::print::{self, or_none};
use super::{Exit, Failed, Output};
use crate::clock;
use crate::pattern::Pattern;
use crate::tokens::{
    Grant, JwksPlace, JwksSource, KeySet, Minter, Refused, Secret, Settings, TOKEN_BYTES_MAX, Verifier,
};

/// Longest token that is read from stdin. What is longer than this is refused anyway.
const READ_MAX: u64 = 4 * TOKEN_BYTES_MAX as u64;

/// Arguments of `token`.
#[derive(Debug, Clone, Args)]
pub struct TokenArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: TokenVerb,
}

/// What to do with tokens.
#[derive(Debug, Clone, Subcommand)]
pub enum TokenVerb {
    /// Make a token and print it. A gateway that is configured with the same key takes it
    Mint(Box<MintArgs>),
    /// Check a token as a gateway does, and show what it grants. Exit code 1: it is not taken, and stderr says why
    Verify(Box<VerifyArgs>),
}

/// Arguments of `token mint`.
#[derive(Debug, Clone, Args)]
pub struct MintArgs {
    /// Who the bearer is
    #[arg(long)]
    pub user: String,
    /// The bearer's device
    #[arg(long)]
    pub device: Option<String>,
    /// A topic that the connection is subscribed to; repeatable
    #[arg(long = "topic", value_name = "T")]
    pub topics: Vec<String>,
    /// Topics that the client may subscribe to by itself, * stands for anything; repeatable
    #[arg(long = "subscribe", value_name = "PATTERN")]
    pub subscribe: Vec<String>,
    /// When it ends, from now
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    pub expires: Duration,
    /// Further claims: meta, policy, max, …
    #[arg(long, value_name = "JSON")]
    pub claims: Option<String>,
    /// For whom it is (aud)
    #[arg(long, value_name = "NAME", env = "SWITCHBOARD_CLIENT_TOKEN_AUDIENCE", value_delimiter = ',')]
    pub audience: Vec<String>,
    /// From whom it is (iss)
    #[arg(long, value_name = "NAME", env = "SWITCHBOARD_CLIENT_TOKEN_ISSUER", value_delimiter = ',')]
    pub issuer: Vec<String>,
    /// Which claim names the user
    #[arg(long, value_name = "CLAIM", env = "SWITCHBOARD_CLIENT_TOKEN_USER_CLAIM", default_value = "sub")]
    pub user_claim: String,
    /// The private key to sign with, in PEM (PKCS#8): RSA, P-256, P-384 or Ed25519
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// The name of that key in a key set (kid)
    #[arg(long, value_name = "ID")]
    pub key_id: Option<String>,
    /// HS256, HS384, HS512, RS256, RS384, RS512, ES256, ES384 or EdDSA; without it the first that fits the key
    #[arg(long)]
    pub algorithm: Option<String>,
    /// The secret, where there is no private key.
    #[command(flatten)]
    pub secret: SecretArgs,
    /// How to print: the token, or one JSON object
    #[arg(short = 'o', long = "output", value_enum, default_value_t)]
    pub output: Output,
}

/// A secret that is shared with gateways.
#[derive(Debug, Clone, Args)]
pub struct SecretArgs {
    /// Files with the secret; of several the first one signs
    #[arg(long, value_name = "FILE", env = "SWITCHBOARD_CLIENT_TOKEN_HMAC_SECRET_FILE", value_delimiter = ',')]
    pub secret_file: Vec<PathBuf>,
    /// The secret itself; rather in the environment than here, where others on this machine see it
    #[arg(long, env = "SWITCHBOARD_CLIENT_TOKEN_HMAC_SECRET_KEY", hide_env_values = true, hide_default_value = true)]
    pub secret: Option<Secret>,
}

/// Arguments of `token verify`.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// The token; - reads it from stdin, so that nobody else on this machine sees it
    #[arg(value_name = "TOKEN")]
    pub token: String,
    /// The secret.
    #[command(flatten)]
    pub secret: SecretArgs,
    /// Public keys, in PEM
    #[arg(long, value_name = "FILE", env = "SWITCHBOARD_CLIENT_TOKEN_PUBLIC_KEY_FILE", value_delimiter = ',')]
    pub key_file: Vec<PathBuf>,
    /// A JSON Web Key Set
    #[arg(long, value_name = "FILE", env = "SWITCHBOARD_CLIENT_TOKEN_JWKS_FILE")]
    pub jwks_file: Option<PathBuf>,
    /// URL of a JSON Web Key Set, http:// only
    #[arg(long, value_name = "URL", env = "SWITCHBOARD_CLIENT_TOKEN_JWKS_URL")]
    pub jwks_url: Option<String>,
    /// Take it only if it is for one of these (aud)
    #[arg(long, value_name = "NAME", env = "SWITCHBOARD_CLIENT_TOKEN_AUDIENCE", value_delimiter = ',')]
    pub audience: Vec<String>,
    /// Take it only if it is from one of these (iss)
    #[arg(long, value_name = "NAME", env = "SWITCHBOARD_CLIENT_TOKEN_ISSUER", value_delimiter = ',')]
    pub issuer: Vec<String>,
    /// Which claim names the user
    #[arg(long, value_name = "CLAIM", env = "SWITCHBOARD_CLIENT_TOKEN_USER_CLAIM", default_value = "sub")]
    pub user_claim: String,
    /// By how much the clock of whoever signed it may differ from this one
    #[arg(long, value_name = "TIME", env = "SWITCHBOARD_CLIENT_TOKEN_LEEWAY", default_value = "5s", value_parser = humantime::parse_duration)]
    pub leeway: Duration,
    /// How to print: a table, or one JSON object
    #[arg(short = 'o', long = "output", value_enum, default_value_t)]
    pub output: Output,
}

pub(super) async fn run(args: &TokenArgs) -> Result<(), Failed> {
    match &args.verb {
        TokenVerb::Mint(args) => mint(args),
        TokenVerb::Verify(args) => verify(args).await,
    }
}

fn mint(args: &MintArgs) -> Result<(), Failed> {
    let minter = minter(args)?.key_id(args.key_id.clone());
    let claims = claims(args)?;
    let refused = |refused: Refused| usage(format!("a gateway would refuse this token: {refused}"));
    Grant::read(claims.clone(), &args.user_claim).map_err(refused)?;
    let token = minter.mint(&claims);
    if token.len() > TOKEN_BYTES_MAX {
        return Err(refused(Refused::TooLarge));
    }
    match args.output {
        Output::Table => print::line(token.as_bytes()),
        Output::Json => {
            let made = json!({ "token": token, "algorithm": minter.algorithm(), "claims": claims });
            print::line(made.to_string().as_bytes())
        }
    }
}

fn minter(args: &MintArgs) -> Result<Minter, Failed> {
    let algorithm = args.algorithm.as_deref();
    if let Some(path) = &args.key_file {
        let pem = std::fs::read(path).map_err(|error| unusable("key-file", path, error))?;
        return Minter::private_pem(&pem, algorithm).map_err(|error| unusable("key-file", path, error));
    }
    if let Some(path) = args.secret.secret_file.first() {
        let secret = Secret::read(path).map_err(|error| unusable("secret-file", path, error))?;
        return Minter::secret(secret.as_bytes(), algorithm).map_err(|error| unusable("secret-file", path, error));
    }
    let secret = args.secret.secret.as_ref().ok_or_else(|| {
        usage(String::from(
            "nothing to sign with: give --key-file, a private key, or --secret-file, what gateways have",
        ))
    })?;
    Minter::secret(secret.as_bytes(), algorithm).map_err(|error| usage(format!("the secret can't be used: {error}")))
}

fn claims(args: &MintArgs) -> Result<Map<String, Value>, Failed> {
    let further = args.claims.as_deref().unwrap_or("{}");
    let mut claims: Map<String, Value> =
        serde_json::from_str(further).map_err(|error| usage(format!("--claims is no JSON object: {error}")))?;
    let now_s = clock::wall_ms() / 1000;
    claims.insert(args.user_claim.clone(), json!(args.user));
    claims.insert(String::from("iat"), json!(now_s));
    claims.insert(String::from("exp"), json!(now_s.saturating_add(args.expires.as_secs())));
    if let Some(device) = &args.device {
        claims.insert(String::from("device"), json!(device));
    }
    for (name, texts) in [("topics", &args.topics), ("subscribe", &args.subscribe), ("aud", &args.audience)] {
        if !texts.is_empty() {
            claims.insert(name.to_owned(), json!(texts));
        }
    }
    if let Some(issuer) = args.issuer.first() {
        claims.insert(String::from("iss"), json!(issuer));
    }
    Ok(claims)
}

async fn verify(args: &VerifyArgs) -> Result<(), Failed> {
    let settings = settings(args).await?;
    let token = match args.token.as_str() {
        "-" => {
            let mut token = String::new();
            let read = std::io::stdin().lock().take(READ_MAX).read_to_string(&mut token);
            read.map_err(|error| Failed::new(Exit::Failed, format!("can't read the token from stdin: {error}")))?;
            token
        }
        token => token.to_owned(),
    };
    let verified = Verifier::new(settings, &"token verify".into()).verify(token.trim()).await;
    if args.output == Output::Json {
        let shown = match &verified {
            Ok(grant) => described(grant),
            Err(refused) => json!({ "valid": false, "reason": refused.reason(), "message": refused.to_string() }),
        };
        print::line(shown.to_string().as_bytes())?;
    }
    let grant = verified.map_err(|refused| Failed::new(Exit::Failed, refused.to_string()))?;
    if args.output == Output::Table { show(&grant) } else { Ok(()) }
}

async fn settings(args: &VerifyArgs) -> Result<Settings, Failed> {
    let mut keys = KeySet::default();
    for path in &args.secret.secret_file {
        let secret = Secret::read(path).map_err(|error| unusable("secret-file", path, error))?;
        keys.add(KeySet::secret(secret.as_bytes()).map_err(|error| unusable("secret-file", path, error))?);
    }
    if let Some(secret) = &args.secret.secret {
        let of_secret = KeySet::secret(secret.as_bytes());
        keys.add(of_secret.map_err(|error| usage(format!("the secret can't be used: {error}")))?);
    }
    for path in &args.key_file {
        let pem = std::fs::read(path).map_err(|error| unusable("key-file", path, error))?;
        keys.add(KeySet::public_pem(&pem).map_err(|error| unusable("key-file", path, error))?);
    }
    let of_file = args.jwks_file.clone().map(|path| ("jwks-file", JwksPlace::File(path)));
    let of_url = args.jwks_url.clone().map(|url| ("jwks-url", JwksPlace::Url(url)));
    for (flag, place) in of_file.into_iter().chain(of_url) {
        let set = place.load().await;
        keys.add(set.map_err(|why| Failed::new(Exit::Failed, format!("--{flag} {place} can't be read: {why}")))?);
    }
    if keys.is_empty() {
        return Err(usage(String::from(
            "nothing to check it with: give --secret-file, --key-file, --jwks-file or --jwks-url",
        )));
    }
    let (audience, issuer) = (args.audience.clone(), args.issuer.clone());
    let jwks: Option<JwksSource> = None;
    Ok(Settings { keys, jwks, audience, issuer, user_claim: args.user_claim.clone(), leeway: args.leeway })
}

fn described(grant: &Grant) -> Value {
    let meta: Option<Value> = grant.meta.as_deref().and_then(|meta| serde_json::from_str(meta).ok());
    let rights = &grant.rights;
    json!({
        "valid": true,
        "user": &*grant.user,
        "device": grant.device.as_deref(),
        "expires_at": grant.expires_ms.map(clock::rfc3339),
        "topics": rights.topics.iter().map(|topic| &**topic).collect::<Vec<_>>(),
        "subscribe": rights.subscribe.iter().map(Pattern::as_str).collect::<Vec<_>>(),
        "meta": meta,
    })
}

fn show(grant: &Grant) -> Result<(), Failed> {
    let rights = &grant.rights;
    let listed = |texts: Vec<&str>| or_none((!texts.is_empty()).then(|| texts.join(" ")));
    print::facts([
        ("user", grant.user.to_string()),
        ("device", or_none(grant.device.as_deref())),
        ("expires", grant.expires_ms.map_or_else(|| String::from("never"), clock::rfc3339)),
        ("topics", listed(rights.topics.iter().map(|topic| &**topic).collect())),
        ("subscribe", listed(rights.subscribe.iter().map(Pattern::as_str).collect())),
        ("meta", or_none(grant.meta.as_deref())),
    ])
}

fn unusable(flag: &str, path: &Path, why: impl std::fmt::Display) -> Failed {
    usage(format!("--{flag} {} can't be used: {why}", path.display()))
}

fn usage(message: String) -> Failed {
    Failed::new(Exit::Usage, message)
}
