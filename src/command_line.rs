//! The command line: which verb, with which settings.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::cli::{ClientVerb, Exit};
use crate::config::{ConfigError, DevArgs, DirectoryArgs, GatewayArgs, apply_file, check_together};
use crate::roles;
use crate::telemetry::{self, LogFormat};

/// A Raft-consistent connection directory for WebSocket clusters
#[derive(Debug, Parser)]
#[command(name = "switchboard", version, max_term_width = 120)]
pub struct CommandLine {
    /// A TOML file with a table of settings per role; flags and environment beat it
    #[arg(long, global = true, value_name = "FILE", env = "SWITCHBOARD_CONFIG")]
    config: Option<PathBuf>,

    /// How log lines on stderr look
    #[arg(long, global = true, value_enum, env = "SWITCHBOARD_LOG_FORMAT", default_value = "text")]
    log_format: LogFormatArg,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormatArg {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Dev(DevArgs),
    Directory(DirectoryArgs),
    Gateway(Box<GatewayArgs>),
    /// Look at the configuration without running anything
    #[command(subcommand)]
    Config(ConfigVerb),
    #[command(flatten)]
    Client(ClientVerb),
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Check settings, also against each other: those of the file's roles, or of the role and flags that follow
    Check(CheckArgs),
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// A role and its flags, as they would be run
    #[arg(value_name = "ROLE FLAGS", trailing_var_arg = true, allow_hyphen_values = true)]
    role: Vec<OsString>,
}

/// Reads the command line and does what it says.
pub async fn run(arguments: Vec<OsString>) -> ExitCode {
    let file = file_of(&arguments);
    let (command_line, roles) = match parse(arguments, file.as_ref()) {
        Ok(parsed) => parsed,
        Err(refused) => return refused,
    };
    telemetry::init_logs(match command_line.log_format {
        LogFormatArg::Text => LogFormat::Text,
        LogFormatArg::Json => LogFormat::Json,
    });
    let done = match command_line.verb {
        Verb::Dev(args) => roles::dev(args).await,
        Verb::Directory(args) => roles::directory(args).await,
        Verb::Gateway(args) => roles::gateway(*args).await,
        Verb::Config(ConfigVerb::Check(args)) => check(args, &roles, file.as_ref()).await,
        Verb::Client(verb) => return verb.run().await.into(),
    };
    match done {
        Ok(()) => Exit::Done.into(),
        Err(roles::Failed { exit, message }) => {
            eprintln!("switchboard: {message}");
            exit.into()
        }
    }
}

/// The file, before anything else is parsed, because its values are defaults of what is.
fn file_of(arguments: &[OsString]) -> Option<PathBuf> {
    let mut found = std::env::var_os("SWITCHBOARD_CONFIG").map(PathBuf::from);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == OsStr::new("--config") {
            found = rest.next().map(PathBuf::from);
        } else if let Some(path) = argument.to_str().and_then(|text| text.strip_prefix("--config=")) {
            found = Some(PathBuf::from(path));
        }
    }
    found.filter(|path| !path.as_os_str().is_empty())
}

/// Parses; what is wrong has been printed when this fails.
fn parse(arguments: Vec<OsString>, file: Option<&PathBuf>) -> Result<(CommandLine, Vec<String>), ExitCode> {
    let mut command = CommandLine::command();
    let mut roles = Vec::new();
    if let Some(file) = file {
        (command, roles) = apply_file(command, file).map_err(|error| {
            eprintln!("switchboard: {error}");
            ExitCode::from(Exit::Usage)
        })?;
    }
    let parsed =
        command.try_get_matches_from(arguments).and_then(|matches: ArgMatches| CommandLine::from_arg_matches(&matches));
    let command_line = parsed.map_err(|error| {
        // Nothing more can be done when not even this can be printed.
        let _ = error.print();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::from(Exit::Done),
            _ => ExitCode::from(Exit::Usage),
        }
    })?;
    Ok((command_line, roles))
}

/// Checks the role that is given, or every role that the file has settings for.
async fn check(args: CheckArgs, of_file: &[String], file: Option<&PathBuf>) -> Result<(), roles::Failed> {
    let given: Vec<Vec<OsString>> = if args.role.is_empty() {
        of_file.iter().map(|role| vec![OsString::from(role)]).collect()
    } else {
        vec![args.role]
    };
    if given.is_empty() {
        return Err(ConfigError(String::from("nothing to check: give --config FILE, or a role and its flags")).into());
    }
    let (mut leases, mut elections) = (Vec::new(), Vec::new());
    for role in given {
        let name = role[0].to_string_lossy().into_owned();
        let arguments = [OsString::from("switchboard")].into_iter().chain(role).collect();
        let (command_line, _) =
            parse(arguments, file).map_err(|_| ConfigError(format!("[{name}] can't be used; see above")))?;
        match command_line.verb {
            Verb::Dev(args) => drop(args.gateways().await?),
            Verb::Directory(args) => elections.push(args.settings().await?.election.1),
            Verb::Gateway(args) => leases.push(args.settings().await?.lease),
            _ => return Err(ConfigError(format!("{name} is no role; there are directory, gateway and dev")).into()),
        }
        println!("{name}: ok");
    }
    check_together(&leases, &elections)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use clap::CommandFactory;

    use super::*;

    fn apply(text: &str) -> Result<(clap::Command, Vec<String>), String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        apply_file(CommandLine::command(), file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_file_gives_defaults_and_flags_beat_them() {
        let text = "log-format = 'json'\n[client]\napi = ['http://a', 'http://b']\n[gateway]\nid = 'gw-1'\nlisten_api = 'x:1'\n\
                    listen-peer = 'x:2'\npolicy = 'newest_wins'\nlisten-clients = 'x:3'\ndirectory = ['d:1', 'd:2']\ninsecure = true";
        let (command, roles) = apply(text).unwrap();
        assert_eq!(roles, ["gateway"]);
        let matches = command.clone().try_get_matches_from(["switchboard", "gateway", "--id", "gw-2"]).unwrap();
        let (_, gateway) = matches.subcommand().unwrap();
        assert_eq!(gateway.get_one::<String>("id").unwrap(), "gw-2");
        assert_eq!(gateway.get_many::<String>("directory").unwrap().collect::<Vec<_>>(), ["d:1", "d:2"]);
        assert!(gateway.get_flag("insecure"));
        assert_eq!(gateway.get_raw("policy").unwrap().collect::<Vec<_>>(), ["newest_wins"]);
        let matches = command.try_get_matches_from(["switchboard", "gateways", "list"]).unwrap();
        let list = matches.subcommand().unwrap().1.subcommand().unwrap().1;
        assert_eq!(list.get_many::<String>("api").unwrap().collect::<Vec<_>>(), ["http://a", "http://b"]);
    }

    #[test]
    fn help_does_not_show_a_secret_of_the_file() {
        let (mut command, _) =
            apply("[gateway]\nclient_token_hmac_secret_key = 'hush, this is long enough to be one'").unwrap();
        let help = command.find_subcommand_mut("gateway").unwrap().render_long_help().to_string();
        assert!(help.contains("--client-token-hmac-secret-key") && !help.contains("hush"), "{help}");
    }

    #[test]
    fn what_is_no_setting_is_named() {
        for (text, why) in [
            ("[gatway]", "[gatway]"),
            ("[gateway]\nidd = 'x'", "--idd"),
            ("[gateway]\ninsecure = 7.5", "insecure can't be 7.5"),
            ("colour = 'red'", "--colour"),
            ("[client]\nlease = '3s'", "--lease"),
            ("[gateway", "not TOML"),
        ] {
            let refused = apply(text).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }
}
