//! What goes to stdout.

use std::io::{self, Write};

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::de::DeserializeOwned;

use super::{ApiOptions, Exit, Failed, Output};
use crate::net::http::Response;

/// What stands for a value that is not there.
const NONE: &str = "-";

/// Writes the bytes and ends the line.
pub(super) fn line(bytes: &[u8]) -> Result<(), Failed> {
    let mut to = io::stdout().lock();
    let written = to.write_all(bytes).and_then(|()| if bytes.ends_with(b"\n") { Ok(()) } else { to.write_all(b"\n") });
    written.and_then(|()| to.flush()).map_err(|error| match error.kind() {
        // Whoever reads has seen enough, as `head` does.
        io::ErrorKind::BrokenPipe => Failed::new(Exit::Failed, ""),
        _ => Failed::new(Exit::Failed, format!("can't write to stdout: {error}")),
    })
}

/// Reads the body of a success.
pub(super) fn body<T: DeserializeOwned>(what: &str, answer: &Response) -> Result<T, Failed> {
    if !answer.status.is_success() {
        return Err(Failed::of_answer(what, answer));
    }
    serde_json::from_slice(&answer.body).map_err(|error| {
        Failed::new(Exit::Failed, format!("{what}: the answer can't be read ({error}); is this a Switchboard API?"))
    })
}

/// Writes the body of a refusal, where bodies are wanted.
pub(super) fn refusal(api: &ApiOptions, answer: &Response) -> Result<(), Failed> {
    if api.output == Output::Json { line(&answer.body) } else { Ok(()) }
}

/// A table with these columns.
pub(super) fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(columns.iter().map(|name| name.to_uppercase()));
    table
}

/// Writes a table.
pub(super) fn show(table: &Table) -> Result<(), Failed> {
    line(table.trim_fmt().as_bytes())
}

/// A value, or what stands for none.
pub(super) fn or_none(value: Option<impl ToString>) -> String {
    value.map_or_else(|| String::from(NONE), |value| value.to_string())
}

/// Writes names and values.
pub(super) fn facts<const N: usize>(rows: [(&str, String); N]) -> Result<(), Failed> {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.add_rows(rows.map(|(name, value)| [name.to_owned(), value]));
    show(&table)
}
