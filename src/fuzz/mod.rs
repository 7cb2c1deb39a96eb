//! Everything that this service reads from clients, services, other processes and its disks, as functions of bytes.
//!
//! Each panics where something does not hold that is claimed elsewhere: that whatever is there is read or refused, that what is
//! read can be written again, that every refusal has the one form. `jepsen/fuzz` looks for bytes with which one panics; the
//! tests below give a small part of them on every run. No part of the interface: it is there for these two only. What is
//! private is reached by a module of this name beside it.

mod commands;
mod streams;
#[cfg(test)]
mod tests;

use clap::{CommandFactory, FromArgMatches};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::command_line::CommandLine;
use crate::directory::Directory;
use crate::wire::peer::{
    Deliver, Delivered, GatewayRequest, GatewayResponse, Hello, HelloAnswer, Request, Response, Stamp, WatchFrame,
};
use crate::{api, config, gateway, node, tokens};

use commands::populated;

pub use commands::commands;
pub use streams::peer_streams;

/// A function of bytes that panics where a claim does not hold.
pub type Target = fn(&[u8]);

/// Every target with its name.
pub const TARGETS: [(&str, Target); 12] = [
    ("client_frames", client_frames),
    ("client_sockets", client_sockets),
    ("client_upgrades", client_upgrades),
    ("client_tokens", client_tokens),
    ("peer_messages", peer_messages),
    ("peer_streams", peer_streams),
    ("log_entries", log_entries),
    ("states", states),
    ("commands", commands),
    ("http_requests", http_requests),
    ("texts", texts),
    ("configuration", configuration),
];

/// The JSON frames of clients.
pub fn client_frames(data: &[u8]) {
    gateway::fuzz::frames(data);
}

/// What a client sends on its socket.
pub fn client_sockets(data: &[u8]) {
    gateway::fuzz::sockets(data);
}

/// The path and query, and the headers below it, with which a client asks for a socket.
pub fn client_upgrades(data: &[u8]) {
    gateway::fuzz::upgrades(data);
}

/// Tokens of clients, what stands in them, and the keys that they are checked with.
pub fn client_tokens(data: &[u8]) {
    tokens::fuzz::tokens(data);
}

/// Messages between processes of the cluster: the first byte says for which kind they are taken.
pub fn peer_messages(data: &[u8]) {
    let Some((kind, messages)) = data.split_first() else { return };
    match kind % 10 {
        0 => read_back::<Hello>(messages),
        1 => read_back::<HelloAnswer>(messages),
        2 => read_back::<Request>(messages),
        3 => read_back::<Response>(messages),
        4 => read_back::<WatchFrame>(messages),
        5 => read_back::<Stamp>(messages),
        6 => read_back::<Deliver>(messages),
        7 => read_back::<Delivered>(messages),
        8 => read_back::<GatewayRequest>(messages),
        _ => read_back::<GatewayResponse>(messages),
    }
}

/// What can be read, one message after the other, is written as bytes that are read as the same.
fn read_back<T: Serialize + DeserializeOwned>(mut messages: &[u8]) {
    while let Ok((message, rest)) = postcard::take_from_bytes::<T>(messages) {
        let written = postcard::to_allocvec(&message).expect("what was read can be written");
        let again: T = postcard::from_bytes(&written).expect("what was written can be read");
        assert_eq!(postcard::to_allocvec(&again).as_ref(), Ok(&written), "a message reads back as itself");
        if rest.len() == messages.len() {
            return;
        }
        messages = rest;
    }
}

/// Entries of the log, as a directory node reads and applies them.
pub fn log_entries(data: &[u8]) {
    node::fuzz::entries(data, populated());
}

/// States as they are in snapshots and backups. A first byte that is odd says that records follow, which are put into blocks
/// whose checksums fit: so what is inside of them is looked at, too.
pub fn states(data: &[u8]) {
    let Some((summed, data)) = data.split_first() else { return };
    let bytes = if summed % 2 == 1 { crate::directory::fuzz::in_blocks(data) } else { data.to_vec() };
    let Ok(state) = Directory::read_from(&mut bytes.as_slice()) else { return };
    // Whether it is one that commands lead to, nobody promises of bytes that somebody made up; but it can be told.
    let consistent = state.check_invariants().is_ok();
    let mut written = Vec::new();
    state.write_to(&mut written).expect("memory takes all bytes");
    let again = Directory::read_from(&mut written.as_slice()).expect("what was written can be read");
    assert_eq!(again.digest(), state.digest(), "a state reads back as itself");
    assert_eq!(again.check_invariants().is_ok(), consistent, "a state reads back as itself");
}

/// Requests to the HTTP API: a line with method and path, headers, an empty line, a body.
pub fn http_requests(data: &[u8]) {
    api::fuzz::requests(data, populated());
}

/// Forms of text in paths, queries and headers.
pub fn texts(data: &[u8]) {
    api::fuzz::texts(data);
}

/// Configuration files, and the units of their values.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    text.lines().for_each(config::fuzz::units);
    let Some((command, roles)) = config::fuzz::file(text, &CommandLine::command()) else { return };
    for role in roles {
        // What the values are worth is told one by one; that none of them is a panic is all that is asked.
        let matches = command.clone().try_get_matches_from(["switchboard", &role]);
        drop(matches.and_then(|matches| CommandLine::from_arg_matches(&matches)));
    }
}
