//! What every client socket needs of its gateway.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::farewell::Farewell;
use super::handle::{Common, Handle};
use super::seats::Seats;
use super::wheel::Wheel;
use crate::chance;
use crate::directory::Reason;
use crate::gateway::lease::Lease;
use crate::gateway::meters::Meters;
use crate::gateway::presence::Presence;
use crate::gateway::registrar::Command;
use crate::gateway::replica::Replica;
use crate::gateway::settings::Settings;
use crate::gateway::table::Table;
use crate::push::Asks;
use crate::telemetry;
use crate::tokens::Verifier;
use crate::wire::close::CloseCode;

/// What every client socket needs of its gateway. Shared by all of them.
#[derive(Debug)]
pub(in crate::gateway) struct Hub {
    pub(in crate::gateway) settings: Arc<Settings>,
    pub(in crate::gateway) meters: Meters,
    pub(in crate::gateway) common: Arc<Common>,
    pub(in crate::gateway) table: Arc<Table>,
    pub(in crate::gateway) lease: Arc<Lease>,
    pub(in crate::gateway) replica: Arc<Replica>,
    pub(in crate::gateway) wheel: Wheel,
    pub(in crate::gateway) seats: Arc<Seats>,
    /// Who sees the subscribers of topics.
    pub(in crate::gateway) presence: Arc<Presence>,
    /// To other gateways.
    pub(in crate::gateway) asks: Asks,
    pub(in crate::gateway) commands: mpsc::Sender<Command>,
    /// What checks who clients are; without it they are believed.
    pub(super) tokens: Option<Verifier>,
    /// Everybody is being sent away; also those whom the table does not know yet.
    pub(in crate::gateway) leaving: CancellationToken,
    lease_waiters: Semaphore,
    sockets: Mutex<JoinSet<()>>,
}

impl Hub {
    pub(in crate::gateway) fn new(
        settings: Arc<Settings>,
        meters: Meters,
        table: Arc<Table>,
        lease: Arc<Lease>,
        replica: Arc<Replica>,
        commands: mpsc::Sender<Command>,
    ) -> Self {
        let clients = &settings.clients;
        let process = telemetry::process_name("gateway", &settings.id);
        let tick = (clients.heartbeat / 100).clamp(Duration::from_millis(10), Duration::from_millis(250));
        Self {
            common: Arc::new(Common::new(&settings, &lease, meters.clone())),
            wheel: Wheel::new(u64::try_from(tick.as_millis()).unwrap_or(10)),
            seats: Seats::new(clients.connections_max, clients.per_address_max),
            leaving: CancellationToken::new(),
            presence: Arc::default(),
            asks: Asks::for_questions(&settings.cluster, &format!("gateway {}", settings.id)),
            tokens: settings.tokens.clone().map(|tokens| Verifier::new(tokens, &process)),
            lease_waiters: Semaphore::new(clients.lease_waiters_max),
            sockets: Mutex::default(),
            settings,
            meters,
            table,
            lease,
            replica,
            commands,
        }
    }

    /// Keeps the keys that tokens are checked with, until `end`.
    pub(in crate::gateway) async fn keep_keys(self: Arc<Self>, end: CancellationToken) {
        if let Some(tokens) = &self.tokens {
            end.run_until_cancelled(tokens.keep_keys()).await;
        }
        end.cancelled().await;
    }

    /// Milliseconds since the gateway started.
    pub(in crate::gateway) fn now_ms(&self) -> u64 {
        self.common.now_ms()
    }

    /// Whether this gateway should get clients; otherwise why not.
    pub(in crate::gateway) fn ready(&self) -> Result<(), String> {
        if self.table.is_draining() {
            return Err(String::from("the gateway is draining"));
        }
        if self.lease.epoch().is_none() {
            return Err(String::from("the gateway has no session yet: no leader of the directory has granted one"));
        }
        if !self.lease.is_held() {
            return Err(String::from("the gateway is fenced: its lease could not be renewed in time"));
        }
        if !self.replica.is_loaded() {
            return Err(String::from("the gateway has not loaded the directory yet"));
        }
        Ok(())
    }

    /// Waits for a while if the gateway has no lease: that passes when a leader is elected. Without a place among those who
    /// wait there is no wait.
    pub(super) async fn await_lease(&self) {
        if self.lease.is_held() {
            return;
        }
        let Ok(_place) = self.lease_waiters.try_acquire() else { return };
        let held = self.leaving.run_until_cancelled(self.lease.held());
        // Whether it was worth it, is looked at next.
        let _ = timeout(self.settings.clients.lease_wait, held).await;
    }

    /// Clients that wait for their upgrade.
    #[cfg(test)]
    pub(super) fn lease_waiters(&self) -> usize {
        self.settings.clients.lease_waiters_max - self.lease_waiters.available_permits()
    }

    /// Runs a socket; it belongs to this gateway from now on.
    pub(super) fn run(&self, socket: impl Future<Output = ()> + Send + 'static) {
        let mut sockets = self.sockets.lock().expect("no code panics while holding this lock");
        while let Some(ended) = sockets.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(%error, "the task of a client socket broke");
            }
        }
        sockets.spawn(socket);
    }

    /// Asks for a registration, and with it for subscriptions. `false`: too many wait already.
    pub(super) fn register(&self, handle: &Arc<Handle>, topics: Vec<Arc<str>>) -> bool {
        let handle = Arc::clone(handle);
        let command = match topics.is_empty() {
            true => Command::Register(handle),
            false => Command::RegisterWith(handle, topics),
        };
        self.commands.try_send(command).is_ok()
    }

    /// The socket is closed, or is written to no more but for a goodbye. What comes back ends when the directory has
    /// forgotten the connection.
    pub(super) async fn unregister(&self, handle: Arc<Handle>, reason: Reason) -> oneshot::Receiver<()> {
        let (done, forgotten) = oneshot::channel();
        // Without a registrar the session is over, and the connection with it.
        let _ = self.commands.send(Command::Unregister(handle, reason, done)).await;
        forgotten
    }

    /// Sends everybody away, each to come back at a moment of its own; nobody is let in any more.
    pub(in crate::gateway) fn send_away(&self, code: CloseCode) {
        self.table.drain();
        self.leaving.cancel();
        self.table.close_all(|| self.farewell(code));
    }

    /// A farewell with a moment to come back at.
    pub(super) fn farewell(&self, code: CloseCode) -> Farewell {
        let jitter = u64::try_from(self.settings.clients.reconnect_jitter.as_millis()).unwrap_or(u64::MAX);
        Farewell::from(code).after(Duration::from_millis(chance::below(jitter)))
    }

    /// Ends every socket that is still open, at once.
    pub(in crate::gateway) async fn abort(&self) {
        let mut sockets = std::mem::take(&mut *self.sockets.lock().expect("no code panics while holding this lock"));
        sockets.shutdown().await;
    }
}
