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

/// Makes the values of the file the defaults of the flags of the roles: `[directory]`, `[gateway]`, `[dev]`. Returns the
/// roles that the file has a table for.
///
/// # Errors
/// When the file can't be read, or has a table or a key that is no role or flag.
pub fn apply_file(mut command: Command, path: &Path) -> Result<(Command, Vec<String>), FileError> {
    let read = |error| FileError::Read { path: path.to_owned(), error };
    let text = std::fs::read_to_string(path).map_err(read)?;
    let syntax = |error| FileError::Syntax { path: path.to_owned(), error: Box::new(error) };
    let file: Table = text.parse().map_err(syntax)?;
    let wrong = |why| FileError::Setting { path: path.to_owned(), why };
    let mut roles = Vec::new();
    for (role, settings) in &file {
        let (true, Value::Table(settings)) = (ROLES.contains(&role.as_str()), settings) else {
            return Err(wrong(format!("`{role}` is no table of a role; there are [{}]", ROLES.join("], ["))));
        };
        let known = command.find_subcommand(role).expect("every role is a verb");
        let defaults = defaults(known, role, settings).map_err(wrong)?;
        command = command.mut_subcommand(role, |mut verb| {
            for (id, value) in defaults {
                verb = verb.mut_arg(id, |arg| arg.default_value(value).required(false));
            }
            verb
        });
        roles.push(role.clone());
    }
    Ok((command, roles))
}

/// The verbs that run something.
const ROLES: [&str; 3] = ["directory", "gateway", "dev"];

/// The flags that a table sets, by their ids.
fn defaults(verb: &Command, role: &str, settings: &Table) -> Result<Vec<(String, String)>, String> {
    let mut defaults = Vec::new();
    for (key, value) in settings {
        let flag = key.replace('_', "-");
        let Some(arg) = verb.get_arguments().find(|arg| arg.get_long() == Some(&flag)) else {
            return Err(format!("[{role}] has a key `{key}`, but there is no flag --{flag}"));
        };
        let text = text_of(arg, value).ok_or_else(|| format!("[{role}] {key} can't be {value}"))?;
        defaults.push((arg.get_id().to_string(), text));
    }
    Ok(defaults)
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
