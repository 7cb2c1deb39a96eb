//! The TOML file: its values become the defaults of the flags, so that flags and environment beat it.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use toml::{Table, Value};

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It can't be read.
    #[error("can't read the configuration {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is not TOML.
    #[error("the configuration {} is not TOML: {error}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        error: Box<toml::de::Error>,
    },
    /// It sets what does not exist, or to what can't be.
    #[error("the configuration {}: {why}", path.display())]
    Setting {
        /// The file.
        path: PathBuf,
        /// Which and why.
        why: String,
    },
}

/// Makes the values of the file the defaults of flags: `[directory]`, `[gateway]` and `[dev]` those of the roles, `[client]`
/// those of the verbs that speak to a running cluster, and what stands above all tables those of every verb. Returns the
/// roles that the file has a table for.
///
/// # Errors
/// When the file can't be read, or has a table or a key that is nothing of the kind.
pub fn apply_file(command: Command, path: &Path) -> Result<(Command, Vec<String>), FileError> {
    let read = |error| FileError::Read { path: path.to_owned(), error };
    let text = std::fs::read_to_string(path).map_err(read)?;
    apply_text(command, path, &text)
}

/// As [`apply_file`], with what the file at `path` says.
pub(super) fn apply_text(mut command: Command, path: &Path, text: &str) -> Result<(Command, Vec<String>), FileError> {
    let syntax = |error| FileError::Syntax { path: path.to_owned(), error: Box::new(error) };
    let file: Table = text.parse().map_err(syntax)?;
    let wrong = |why| FileError::Setting { path: path.to_owned(), why };
    let mut roles = Vec::new();
    for (name, value) in &file {
        match value {
            Value::Table(settings) if ROLES.contains(&name.as_str()) => {
                let defaults = defaults(&command, &[name], settings).map_err(wrong)?;
                command = command.mut_subcommand(name, |verb| with_defaults(verb, &defaults));
                roles.push(name.clone());
            }
            Value::Table(settings) if name == CLIENT => {
                let verbs: Vec<String> = command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
                let verbs: Vec<&String> = verbs.iter().filter(|verb| !ROLES.contains(&verb.as_str())).collect();
                let defaults = defaults(&command, &verbs, settings).map_err(wrong)?;
                for verb in verbs {
                    command = command.mut_subcommand(verb, |verb| with_defaults(verb, &defaults));
                }
            }
            Value::Table(_) => {
                let roles = ROLES.join("], [");
                return Err(wrong(format!("there is no table [{name}]; there are [{roles}] and [{CLIENT}]")));
            }
            value => {
                let setting = Table::from_iter([(name.clone(), value.clone())]);
                let defaults = defaults(&command, &[], &setting).map_err(wrong)?;
                command = with_defaults(command, &defaults);
            }
        }
    }
    Ok((command, roles))
}

/// The verbs that run something.
const ROLES: [&str; 3] = ["directory", "gateway", "dev"];

/// The table of all verbs that speak to a running cluster.
const CLIENT: &str = "client";

/// The flags that a table sets, as `(flag, value)`; each has to be known to one of the verbs, or without any to all.
fn defaults(command: &Command, verbs: &[&String], settings: &Table) -> Result<Vec<(String, String)>, String> {
    let mut defaults = Vec::new();
    for (key, value) in settings {
        let flag = key.replace('_', "-");
        let known = if verbs.is_empty() {
            find(command, &flag, false)
        } else {
            verbs.iter().filter_map(|verb| command.find_subcommand(verb)).find_map(|verb| find(verb, &flag, true))
        };
        let Some(arg) = known else {
            return Err(format!("it has a key `{key}`, but there is no flag --{flag} where it stands"));
        };
        defaults.push((flag, text_of(arg, value).ok_or_else(|| format!("{key} can't be {value}"))?));
    }
    Ok(defaults)
}

/// The flag of a verb or, if `below`, of one of its own verbs.
fn find<'a>(verb: &'a Command, flag: &str, below: bool) -> Option<&'a Arg> {
    let own = verb.get_arguments().find(|arg| arg.get_long() == Some(flag));
    own.or_else(|| verb.get_subcommands().filter(|_| below).find_map(|verb| find(verb, flag, true)))
}

/// The verb, and all verbs below it, with other defaults where they have these flags.
fn with_defaults(mut verb: Command, defaults: &[(String, String)]) -> Command {
    for (flag, value) in defaults {
        let id = find(&verb, flag, false).map(|arg| arg.get_id().clone());
        if let Some(id) = id {
            verb = verb.mut_arg(id, |arg| arg.default_value(value.clone()).required(false));
        }
    }
    let below: Vec<String> = verb.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    for name in below {
        verb = verb.mut_subcommand(name, |verb| with_defaults(verb, defaults));
    }
    verb
}

/// A value as it would stand behind the flag: lists with commas, and a table of members as `1=A,2=A`.
fn text_of(arg: &Arg, value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(flag) if matches!(arg.get_action(), ArgAction::SetTrue) => Some(flag.to_string()),
        Value::Array(items) => items.iter().map(Value::as_str).collect::<Option<Vec<_>>>().map(|items| items.join(",")),
        Value::Table(members) => members.iter().try_fold(String::new(), |mut text, (id, address)| {
            let comma = if text.is_empty() { "" } else { "," };
            write!(text, "{comma}{id}={}", address.as_str()?).ok().map(|()| text)
        }),
        _ => None,
    }
}
