//! What the directory says of this gateway's own connections: that one is granted, or is to be released.
//!
//! It comes by the watch, which is soon, and with the answers to renewals, which is sure: each tells what is still to be
//! released, and the next renewal says up to where that was done. *Done* means that the socket has stopped: nothing is written
//! to it but the goodbye, nothing is read from it, and its unregistration has been handed to the registrar.

use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use super::clients::{Bound, Handle};
use super::lease::Lease;
use super::registrar::Command;
use super::table::Table;
use crate::directory::{Connection, ConnectionId, Epoch, Event, Reason, Release, Revision};

/// Passes on what the directory says of this gateway's own connections.
#[derive(Debug)]
pub(super) struct Ours {
    table: Arc<Table>,
    lease: Arc<Lease>,
    commands: mpsc::Sender<Command>,
    asked: Mutex<Asked>,
}

/// What the newest answer to a renewal asked for.
#[derive(Debug, Default)]
struct Asked {
    /// Up to where all is done.
    handled: Revision,
    /// That of the answer, and the connections that it named.
    revision: Revision,
    open: Vec<Arc<Handle>>,
}

impl Ours {
    pub(super) fn new(table: Arc<Table>, lease: Arc<Lease>, commands: mpsc::Sender<Command>) -> Self {
        Self { table, lease, commands, asked: Mutex::default() }
    }

    /// The watch shows changes. Those that were shown before change nothing.
    pub(super) fn watched(&self, events: &[Event]) {
        let Some(epoch) = self.lease.epoch() else { return };
        for event in events {
            match event {
                Event::Opened { id, connection, .. } if id.epoch == epoch => self.granted(*id, connection),
                Event::ReleaseAsked { id, release, .. } if id.epoch == epoch => drop(self.release(*id, release)),
                Event::Closed { id, reason: Reason::Superseded, .. } if id.epoch == epoch => {
                    // It was taken away at once. That is asked for beside it, too, unless it had been asked for before.
                    drop(self.release(*id, &Release::superseded()));
                }
                _ => {}
            }
        }
    }

    /// The watch shows a part of the present state, because it could not go on where it was.
    pub(super) fn loaded(&self, connections: &[(ConnectionId, Arc<Connection>)]) {
        let Some(epoch) = self.lease.epoch() else { return };
        for (id, connection) in connections.iter().filter(|(id, _)| id.epoch == epoch) {
            self.granted(*id, connection);
        }
    }

    /// The answer to a renewal of this session asks for connections to be released.
    pub(super) fn asked(&self, epoch: Epoch, revision: Revision, release: &[(ConnectionId, Release)]) {
        let mut open = Vec::new();
        for (id, release) in release.iter().filter(|(id, _)| id.epoch == epoch) {
            match self.release(*id, release) {
                Some(handle) => open.push(handle),
                // Usually its unregistration is under way. If there is no room, the next answer names it again.
                None => drop(self.commands.try_send(Command::Forget(*id))),
            }
        }
        let mut asked = self.state();
        if revision > asked.revision {
            (asked.revision, asked.open) = (revision, open);
        }
    }

    /// Up to which revision all that was asked for is done.
    pub(super) fn handled(&self) -> Revision {
        let mut asked = self.state();
        if asked.open.iter().all(|handle| handle.is_finished()) {
            asked.open = Vec::new();
            asked.handled = asked.revision;
        }
        asked.handled
    }

    fn granted(&self, id: ConnectionId, connection: &Connection) {
        if let Some(handle) = self.table.get(id.serial) {
            let granted = connection.granted;
            handle.grant(Bound { epoch: id.epoch, granted }, granted);
        }
    }

    /// Has a connection released; `None` if there is no such one.
    fn release(&self, id: ConnectionId, release: &Release) -> Option<Arc<Handle>> {
        self.table.get(id.serial).filter(|handle| handle.release(id.epoch, release))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Asked> {
        self.asked.lock().expect("no code panics while holding this lock")
    }
}
