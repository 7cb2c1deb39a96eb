//! The life of a gateway: start, serve, drain, end.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::backend::Serving;
use super::clients::{self, Hub};
use super::delivery::Deliveries;
use super::lease::Lease;
use super::meters::Meters;
use super::ours::Ours;
use super::peers;
use super::registrar::{Command, Lines, Registrar};
use super::replica::{self, Replica};
use super::session::{ExitReason, Keeper};
use super::settings::{Settings, StartError};
use super::table::Table;
use crate::api::{self, ApiLimits};
use crate::chance;
use crate::client::{self, Directory};
use crate::directory::{GatewayAddresses, OpenSession};
use crate::memory;
use crate::net::Listener;
use crate::net::http::{Client, ServeLimits, serve};
use crate::peer::Identity;
use crate::push::{Links, Router};
use crate::telemetry;
use crate::threads::Threads;
use crate::wire::close::CloseCode;

/// Registrations and unregistrations that wait for the registrar to take them.
const COMMANDS_MAX: usize = 16_384;

/// Connections of the clients listener beside those that are counted as clients: handshakes and refusals.
const HANDSHAKES_MAX: usize = 10_000;

/// Time for the last goodbyes when a gateway is stopped at once.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How often the figures that nobody counts up are shown.
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// Starts gateways.
#[derive(Debug)]
pub struct Gateway;

/// A gateway that runs. Dropping it cuts everything off.
#[derive(Debug)]
pub struct Running {
    /// Where clients connect.
    pub clients: SocketAddr,
    /// Where services connect.
    pub api: SocketAddr,
    /// Where other processes of the cluster connect.
    pub peer: SocketAddr,
    life: JoinSet<Result<(), ExitReason>>,
    /// What a simulation sees of it.
    #[cfg(feature = "simulation")]
    pub probe: super::probe::Probe,
}

impl Running {
    /// Waits until the gateway has ended, because it was told to or because it must not go on.
    ///
    /// # Errors
    /// In the latter case.
    pub async fn wait(mut self) -> Result<(), ExitReason> {
        self.life.join_next().await.map_or(Ok(()), settle)
    }
}

impl Gateway {
    /// Binds the listeners and starts to serve. The gateway is up at once, also without a quorum; it takes clients when it
    /// has a session and has loaded the directory.
    ///
    /// `stop` begins a drain: clients are sent away, the session is ended last. `kill` closes what is left, at once.
    ///
    /// # Errors
    /// For settings that make no sense and addresses that can't be bound.
    pub async fn start(
        settings: Settings,
        stop: CancellationToken,
        kill: CancellationToken,
    ) -> Result<Running, StartError> {
        settings.check()?;
        let listeners = Listeners {
            clients: Listener::bind(&settings.listen_clients).await?,
            api: Listener::bind(&settings.listen_api).await?,
            peer: Listener::bind(&settings.listen_peer).await?,
        };
        let (clients, api, peer) = (listeners.clients.address(), listeners.api.address(), listeners.peer.address());
        let addresses = advertised(&settings, clients, api, peer);
        let parts = Parts::build(settings, listeners, addresses, Threads::start(1, "lease")?);
        #[cfg(feature = "simulation")]
        let probe = super::probe::Probe::new(&parts.hub);
        let mut life = JoinSet::new();
        life.spawn(parts.live(stop, kill));
        Ok(Running {
            clients,
            api,
            peer,
            life,
            #[cfg(feature = "simulation")]
            probe,
        })
    }
}

struct Listeners {
    clients: Listener,
    api: Listener,
    peer: Listener,
}

impl Listeners {
    fn serve(
        self,
        tasks: &mut JoinSet<()>,
        hub: &Arc<Hub>,
        serving: Arc<Serving>,
        deliveries: Arc<Deliveries>,
        me: Arc<Identity>,
        end: &CancellationToken,
    ) {
        let settings = &hub.settings;
        tasks.spawn(peers::listen(self.peer, me, Arc::clone(hub), deliveries, end.clone()));
        tasks.spawn(serve(self.api, api::router(serving, ApiLimits::default()), ServeLimits::default(), end.clone()));
        let limits = ServeLimits {
            connections_max: settings.clients.connections_max.saturating_add(HANDSHAKES_MAX),
            write_stall: settings.clients.write_stall,
            ..ServeLimits::default()
        };
        tasks.spawn(serve(self.clients, clients::router(Arc::clone(hub)), limits, end.clone()));
    }
}

fn advertised(settings: &Settings, clients: SocketAddr, api: SocketAddr, peer: SocketAddr) -> GatewayAddresses {
    let or = |given: &Option<String>, bound: String| Some(given.clone().unwrap_or(bound).into());
    GatewayAddresses {
        url: or(&settings.advertise_url, format!("ws://{clients}/ws")),
        api: or(&settings.advertise_api, api.to_string()),
        peer: or(&settings.advertise_peer, peer.to_string()),
        deliver_url: None,
    }
}

/// What asks the directory.
fn client_of(settings: &Settings, name: &str) -> Directory {
    let (cluster, nodes) = (settings.cluster.clone(), settings.directory.clone());
    Directory::new(client::Settings { cluster, name: name.to_owned(), nodes })
}

/// The session that is asked for; its keeper counts the attempts.
fn asked_for(settings: &Settings, nonce: Arc<str>, addresses: GatewayAddresses) -> OpenSession {
    OpenSession { gateway: settings.id.as_str().into(), nonce, attempt: 0, lease_ms: settings.lease_ms(), addresses }
}

/// Everything that a gateway is made of, and the tasks of it, ended in the order of the fields of [`Ends`].
struct Parts {
    hub: Arc<Hub>,
    keeper: Keeper<Directory>,
    tasks: JoinSet<()>,
    ends: Ends,
    /// The keeper's own: however busy the gateway is with its clients, its lease is renewed.
    threads: Threads,
}

/// Gives back what a replica no longer holds, until `end`.
async fn give_back_memory(replica: Arc<Replica>, end: CancellationToken) {
    end.run_until_cancelled(memory::keep_giving_back(|| replica.held_bytes())).await;
}

/// What ends the parts, in this order.
#[derive(Default)]
struct Ends {
    session: CancellationToken,
    rest: CancellationToken,
}

impl Parts {
    fn build(settings: Settings, listeners: Listeners, addresses: GatewayAddresses, threads: Threads) -> Self {
        let settings = Arc::new(settings);
        let nonce: Arc<str> = chance::nonce().into();
        let name = format!("gateway {}", settings.id);
        let directory = client_of(&settings, &name);
        let process = telemetry::process_name("gateway", &settings.id);
        let meters = Meters::new(&settings.id);
        let (table, lease) = (Arc::<Table>::default(), Arc::<Lease>::default());
        let replica = Arc::new(Replica::new(meters.clone(), settings.replica, directory.clone()));
        let (commands, commands_out) = mpsc::channel(COMMANDS_MAX);
        let ours = Arc::new(Ours::new(Arc::clone(&table), Arc::clone(&lease), commands.clone()));
        let hub = Arc::new(Hub::new(
            Arc::clone(&settings),
            meters.clone(),
            Arc::clone(&table),
            Arc::clone(&lease),
            Arc::clone(&replica),
            commands,
        ));
        let (session, session_out) = watch::channel(None);
        let (fenced, fenced_out) = watch::channel(0);
        let keeper = Keeper {
            // A stream of its own: renewals never queue behind registrations, and a leader that does not answer one in a
            // third of a lease is left while there is time to ask another node.
            ask: directory.for_leases(settings.lease * 3 / 10),
            lease: Arc::clone(&lease),
            table: Arc::clone(&table),
            ours: Arc::clone(&ours),
            meters: meters.clone(),
            exclusive: settings.may_be_exclusive(),
            open: asked_for(&settings, Arc::clone(&nonce), addresses),
            taken_wait: settings.lease + settings.taken_slack,
            lost_grace: settings.lease_lost_grace,
            session,
            fenced: fenced_out,
            no_quorum: Arc::new(Mutex::new(None)),
        };
        let lines = Lines { commands: commands_out, session: session_out, fenced };
        let registrar =
            Registrar::new(directory.clone(), Arc::clone(&table), settings.registrar.clone(), settings.policy, lines);
        let deliveries = Arc::new(Deliveries::new(table, lease, Arc::clone(&replica), meters, settings.peers.clone()));
        let http = Client::new();
        let links = Links::new(&settings.cluster, &name);
        let serving = Arc::new(Serving {
            hub: Arc::clone(&hub),
            router: Router::new(
                Arc::clone(&replica),
                Arc::clone(&deliveries),
                links,
                http.clone(),
                Arc::clone(&process),
            ),
            directory: directory.clone(),
            http,
            nonce: Arc::clone(&nonce),
            started: Instant::now(),
        });
        let ends = Ends::default();
        let rest = || ends.rest.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(registrar.run(rest()));
        tasks.spawn(give_back_memory(Arc::clone(&replica), rest()));
        tasks.spawn(replica::follow(replica, directory, ours, rest()));
        tasks.spawn(look_after(Arc::clone(&hub), rest()));
        tasks.spawn(Arc::clone(&hub).keep_keys(rest()));
        let me = Arc::new(Identity { cluster: settings.cluster.clone(), name, nonce });
        listeners.serve(&mut tasks, &hub, serving, deliveries, me, &ends.rest);
        Self { hub, keeper, tasks, ends, threads }
    }

    /// Serves until it is told to stop, then drains; or until it must not go on.
    async fn live(self, stop: CancellationToken, kill: CancellationToken) -> Result<(), ExitReason> {
        let Self { hub, keeper, mut tasks, ends, threads } = self;
        let mut session = JoinSet::new();
        session.spawn_on(keeper.run(ends.session.clone()), &threads.handle());
        let ended = tokio::select! {
            () = stop.cancelled() => drain(&hub, &mut session, &ends, &kill).await,
            () = kill.cancelled() => None,
            ended = session.join_next() => ended.map(settle),
            broken = tasks.join_next() => broken.map(|ended| {
                let why = ended.err().map_or_else(|| String::from("it ended"), |error| error.to_string());
                Err(ExitReason::Broken(format!("a part of the gateway broke: {why}")))
            }),
        };
        if let Some(Err(why)) = &ended {
            tracing::error!(%why, "the gateway can't go on; closing its clients");
        }
        hub.send_away(CloseCode::Restart);
        // Whoever does not take the last words in that time is cut off.
        let _ = timeout(LAST_WORDS, hub.seats.all_left()).await;
        hub.abort().await;
        ends.rest.cancel();
        session.shutdown().await;
        while tasks.join_next().await.is_some() {}
        ended.unwrap_or(Ok(()))
    }
}

/// Sends everybody away, waits for their sockets to close and their unregistrations to be committed, and ends the session.
/// `None` when it was cut short.
async fn drain(
    hub: &Hub,
    session: &mut JoinSet<Result<(), ExitReason>>,
    ends: &Ends,
    kill: &CancellationToken,
) -> Option<Result<(), ExitReason>> {
    let open = hub.seats.taken();
    tracing::info!(open, "draining: clients are sent away");
    hub.send_away(CloseCode::Drain);
    let orderly = timeout(hub.settings.drain, async {
        hub.seats.all_left().await;
        let (tell, idle) = oneshot::channel();
        if hub.commands.send(Command::WhenIdle(tell)).await.is_ok() {
            // A registrar that is gone has nothing to wait for.
            let _ = idle.await;
        }
    });
    tokio::select! {
        () = kill.cancelled() => return None,
        left = orderly => if left.is_err() {
            tracing::warn!(open = hub.seats.taken(), "the drain took too long; closing the rest");
        }
    }
    ends.session.cancel();
    tokio::select! {
        () = kill.cancelled() => None,
        ended = session.join_next() => ended.map(settle),
    }
}

fn settle(ended: Result<Result<(), ExitReason>, JoinError>) -> Result<(), ExitReason> {
    ended.unwrap_or_else(|error| Err(ExitReason::Broken(format!("a part of the gateway broke: {error}"))))
}

/// Turns the wheel of the clients' timers and shows figures, until `stop`.
pub(super) async fn look_after(hub: Arc<Hub>, stop: CancellationToken) {
    let mut ticks = interval(hub.wheel.tick());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = Instant::now();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        hub.wheel.turn(hub.now_ms());
        if shown.elapsed() >= SHOW_EVERY {
            shown = Instant::now();
            hub.meters.connections(hub.seats.taken());
            hub.meters.queued_bytes(hub.common.queued());
            hub.meters.pending(hub.common.pending());
            hub.meters.subscriptions(hub.table.subscriptions().figures());
            hub.replica.show_figures();
        }
    }
}

#[cfg(test)]
mod tests;
