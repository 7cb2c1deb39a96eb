//! One timer for all clients: each is looked at when something of it falls due, and costs nothing in between.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::handle::Handle;

/// Slots of the wheel. What is due later than one turn is looked at once a turn, for nothing.
const SLOTS: u64 = 1024;

/// Clients by the moment at which they are looked at next. Times are milliseconds since the gateway started.
#[derive(Debug)]
pub(in crate::gateway) struct Wheel {
    tick_ms: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    slots: Vec<Vec<Arc<Handle>>>,
    /// Ticks that are done.
    done: u64,
}

impl Wheel {
    /// A wheel that looks every `tick_ms`.
    pub(in crate::gateway) fn new(tick_ms: u64) -> Self {
        let slots = (0..SLOTS).map(|_| Vec::new()).collect();
        Self { tick_ms: tick_ms.max(1), state: Mutex::new(State { slots, done: 0 }) }
    }

    /// How often it is to be turned.
    pub(in crate::gateway) fn tick(&self) -> Duration {
        Duration::from_millis(self.tick_ms)
    }

    /// Looks at the client for the first time, and from then on whenever something is due.
    pub(in crate::gateway) fn add(&self, handle: Arc<Handle>, now_ms: u64) {
        if let Some(due_ms) = handle.visit(now_ms) {
            self.place(handle, due_ms);
        }
    }

    /// Looks at everyone who is due by now.
    pub(in crate::gateway) fn turn(&self, now_ms: u64) {
        let now = now_ms / self.tick_ms;
        loop {
            let due = {
                let mut state = self.state();
                if state.done >= now {
                    return;
                }
                // After a stall of more than a turn every slot is due, each once.
                state.done = (state.done + 1).max(now.saturating_sub(SLOTS));
                let slot = slot_of(state.done);
                std::mem::take(&mut state.slots[slot])
            };
            for handle in due {
                if let Some(due_ms) = handle.visit(now_ms) {
                    self.place(handle, due_ms);
                }
            }
        }
    }

    fn place(&self, handle: Arc<Handle>, due_ms: u64) {
        let mut state = self.state();
        let tick = due_ms.div_ceil(self.tick_ms).clamp(state.done + 1, state.done + SLOTS - 1);
        state.slots[slot_of(tick)].push(handle);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while holding this lock")
    }
}

fn slot_of(tick: u64) -> usize {
    usize::try_from(tick % SLOTS).expect("there are far fewer slots than a usize can tell")
}
