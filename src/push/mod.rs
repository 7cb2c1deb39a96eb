//! Pushes: from a service's request to the gateways that hold the connections. Used by gateways and directory nodes alike.
//!
//! - [`Router`] resolves the target, sends one message per gateway and follows the resolve rule
//! - `spread` is the way of what goes to a topic or to everybody: the gateways know to whom
//! - [`Links`] are the long-lived, multiplexed connections to gateways, [`Asks`] those for questions
//! - `deliver_url` reaches gateways of one's own by HTTP

mod deliver_url;
mod links;
mod order;
mod router;
mod spread;
#[cfg(test)]
mod tests;

pub use links::{Asks, Links};
pub use order::{Order, PushRefused, Pushed, Spread, Target, TargetResult};
pub use router::{Local, Router};
