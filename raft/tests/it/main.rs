//! The replica through its public interface: clusters on loopback sockets, with a register machine.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails right there")]

mod cluster;
mod disk;
mod founding;
mod golden;
mod harness;
mod kill;
mod measure;
mod members;
mod refusals;
mod register;
mod seed;
mod transfer;
mod upgrade;
