//! The whole cluster in one thread, in simulated time: real nodes and gateways over a simulated network, disks and clocks,
//! with faults drawn from a seed and the invariants looked at after every step.
//!
//! - `course`: one run; `book`: what happened, and what must follow from it; `checks`: what is looked at
//! - `cluster`, `clients`, `faults`, `planted`: who takes part, and what goes wrong
//! - `machine`, `network`, `pipes`, `randomness`, `world`: what stands in for the system
//!
//! Each run is a process of its own, because a process has state that no seed decides. A seed reproduces byte for byte.

mod book;
mod checks;
mod clients;
mod cluster;
mod course;
mod faults;
mod machine;
mod network;
mod pipes;
mod planted;
mod randomness;
mod runs;
mod world;

pub use runs::{Arguments, run};
