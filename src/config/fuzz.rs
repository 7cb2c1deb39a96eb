//! Configuration files, and the units of their values.

use std::path::Path;

use clap::Command;

use super::file::apply_text;
use super::units::{duration, member, range, size};

/// What a file makes of a command line, and the roles that it has settings for; `None` if it is refused.
pub(crate) fn file(text: &str, command: &Command) -> Option<(Command, Vec<String>)> {
    apply_text(command.clone(), Path::new("switchboard.toml"), text).ok()
}

/// A value with units that is taken is one that its own text gives again.
pub(crate) fn units(text: &str) {
    if let Ok(time) = duration(text) {
        assert_eq!(duration(&humantime::format_duration(time).to_string()), Ok(time), "{text}");
    }
    if let Ok(bytes) = size(text) {
        assert_eq!(size(&format!("{bytes}B")), Ok(bytes), "{text}");
    }
    if let Ok((short, long)) = range(text) {
        assert!(short < long, "{text}");
    }
    if let Ok((id, address)) = member(text) {
        assert_eq!(member(&format!("{id}={address}")), Ok((id, address)), "{text}");
    }
}
