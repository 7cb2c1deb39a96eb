//! The long-lived, multiplexed connections to gateways.

/// x
pub struct Links;
