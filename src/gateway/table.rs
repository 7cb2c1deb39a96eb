//! The connections that this gateway has or is registering, by serial: the truth about its own sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use papaya::HashMap;

use super::clients::{Farewell, Handle};
use super::subscriptions::Subscriptions;
use crate::chance::Hashing;
use crate::directory::Serial;

/// Connections by serial. Entered when a registration is asked for, left when the socket is closed.
#[derive(Debug, Default)]
pub(super) struct Table {
    handles: HashMap<Serial, Arc<Handle>, Hashing>,
    subscriptions: Subscriptions,
    draining: AtomicBool,
}

impl Table {
    /// Enters a connection. `false`: too late, everybody is being sent away.
    pub(super) fn enter(&self, handle: Arc<Handle>) -> bool {
        self.handles.pin().insert(handle.serial(), handle);
        // Looked at after entering: whoever sends everybody away does it the other way round, so one of the two sees it.
        !self.is_draining()
    }

    /// Takes this very connection out; whether it was there.
    pub(super) fn leave(&self, handle: &Arc<Handle>) -> bool {
        let handles = self.handles.pin();
        let removed = handles.remove_if(&handle.serial(), |_, held| Arc::ptr_eq(held, handle));
        matches!(removed, Ok(Some(_)))
    }

    /// The connection with this serial.
    pub(super) fn get(&self, serial: Serial) -> Option<Arc<Handle>> {
        self.handles.pin().get(&serial).cloned()
    }

    /// What they are subscribed to.
    pub(super) fn subscriptions(&self) -> &Subscriptions {
        &self.subscriptions
    }

    /// The serials of all connections, ascending.
    pub(super) fn serials(&self) -> Vec<Serial> {
        let mut serials: Vec<Serial> = self.handles.pin().keys().copied().collect();
        serials.sort_unstable();
        serials
    }

    /// All connections, in no order.
    pub(super) fn all(&self) -> Vec<Arc<Handle>> {
        self.handles.pin().values().cloned().collect()
    }

    /// Nobody may enter any more.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether everybody is being sent away.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Whether no connection is open. One that is not in the table any more has stopped.
    pub(super) fn is_empty(&self) -> bool {
        self.handles.pin().is_empty()
    }

    /// Lets every socket look again whether it may be served.
    pub(super) fn wake_all(&self) {
        for handle in self.handles.pin().values() {
            handle.wake();
        }
    }

    /// Closes every connection that is there.
    pub(super) fn close_all(&self, farewell: impl Fn() -> Farewell) {
        for handle in self.handles.pin().values() {
            handle.close(farewell());
        }
    }
}
