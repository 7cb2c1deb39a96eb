//! A machine: a clock of its own and a process, which is a runtime that is driven from outside, a step at a time.
//!
//! A process that is frozen is not driven; when it goes on, its clock jumps. One that crashes is dropped where it stands.

use std::borrow::Borrow;
use std::cell::RefCell;
use std::time::Duration;

use fastrand::Rng;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, advance, sleep_until};

use super::network::Host;

/// What the clocks that count sleep show when the simulation begins.
const BOOTED: Duration = Duration::from_secs(10_000);

/// What the wall clocks show then, milliseconds since 1970.
const WALL_MS: u64 = 1_790_000_000_000;

/// Whose process runs now, and its clock.
#[derive(Clone, Copy)]
pub(super) struct Current {
    pub(super) host: Host,
    began: Instant,
    booted: Duration,
    wall_ahead_ms: i64,
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// Whose process runs now.
pub(super) fn current() -> Option<Current> {
    CURRENT.with_borrow(|current| *current)
}

impl Current {
    pub(super) fn boottime(&self) -> Duration {
        self.booted + self.began.elapsed()
    }

    pub(super) fn wall_ms(&self) -> u64 {
        let now = WALL_MS + u64::try_from(self.boottime().as_millis()).unwrap_or(u64::MAX);
        now.saturating_add_signed(self.wall_ahead_ms)
    }
}

/// A machine and its process, if one runs.
pub(super) struct Machine {
    pub(super) host: Host,
    pub(super) name: String,
    process: Option<Process>,
    /// By how much its clock is faster, parts of a million; of a slow one below 0.
    pub(super) drift_ppm: i64,
    pub(super) wall_ahead_ms: i64,
    pub(super) frozen: bool,
}

struct Process {
    runtime: Runtime,
    began: Instant,
    /// On the clock of the machine.
    booted: Duration,
}

impl Machine {
    pub(super) fn new(host: Host, name: String, rng: &mut Rng) -> Self {
        let (drift_ppm, wall_ahead_ms) = (rng.i64(-200..=200), rng.i64(-3_600_000..=3_600_000));
        Self { host, name, process: None, drift_ppm, wall_ahead_ms, frozen: false }
    }

    /// What its clock shows at a moment of the simulation.
    fn clock(&self, now: Duration) -> Duration {
        let nanos = i128::try_from(now.as_nanos()).unwrap_or(i128::MAX);
        let ahead = nanos * i128::from(self.drift_ppm) / 1_000_000;
        BOOTED + Duration::from_nanos(u64::try_from(nanos + ahead).unwrap_or(0))
    }

    /// Starts a process, and does `begin` in it.
    pub(super) fn start<T>(&mut self, now: Duration, begin: impl FnOnce(&Runtime) -> T) -> T {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without threads and sockets takes nothing from the system");
        let began = runtime.block_on(async { Instant::now() });
        self.frozen = false;
        self.process = Some(Process { runtime, began, booted: self.clock(now) });
        self.within(|process| begin(&process.runtime)).expect("it was just started")
    }

    /// Whether a process is here, frozen or not.
    pub(super) fn runs(&self) -> bool {
        self.process.is_some()
    }

    fn within<T>(&self, run: impl FnOnce(&Process) -> T) -> Option<T> {
        Some(self.as_current(self.process.as_ref()?, run))
    }

    /// Does something with a process, which is what the system beneath takes for the one that asks.
    fn as_current<P: Borrow<Process>, T>(&self, process: P, run: impl FnOnce(P) -> T) -> T {
        let Process { began, booted, .. } = *process.borrow();
        CURRENT.set(Some(Current { host: self.host, began, booted, wall_ahead_ms: self.wall_ahead_ms }));
        let result = run(process);
        CURRENT.set(None);
        result
    }

    /// Looks at the process from outside, on its clock.
    pub(super) fn look<T>(&self, look: impl FnOnce() -> T) -> Option<T> {
        self.within(|process| {
            let _on_its_clock = process.runtime.enter();
            look()
        })
    }

    /// Does something within the process.
    pub(super) fn begin<T>(&self, begin: impl FnOnce(&Runtime) -> T) -> Option<T> {
        self.within(|process| begin(&process.runtime))
    }

    /// Lets the process run until a moment of the simulation.
    pub(super) fn step(&mut self, now: Duration) {
        if self.frozen {
            return;
        }
        let clock = self.clock(now);
        self.within(|process| {
            let until = process.began + clock.saturating_sub(process.booted);
            process.runtime.block_on(async { sleep_until(until).await });
        });
    }

    /// A frozen process goes on: its clock jumps, and everything that was due is.
    pub(super) fn thaw(&mut self, now: Duration) {
        self.frozen = false;
        let clock = self.clock(now);
        self.within(|process| {
            process.runtime.block_on(async {
                let until = process.began + clock.saturating_sub(process.booted);
                advance(until.saturating_duration_since(Instant::now())).await;
            });
        });
    }

    /// The process is gone, where it stands.
    pub(super) fn crash(&mut self) {
        self.frozen = false;
        if let Some(process) = self.process.take() {
            self.as_current(process, drop);
        }
    }
}
