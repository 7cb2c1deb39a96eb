//! Close codes of client WebSockets. The hundreds tell a client how to come back: 40xx not at all, 41xx with backoff,
//! 42xx at once. Services may ask for any of 4000 to 4999.

use std::ops::RangeInclusive;

/// Codes that may be asked for when somebody's connection is to be closed.
pub const ASKED_CODES: RangeInclusive<u16> = 4000..=4999;

/// Whether a client should come back after this code.
#[must_use]
pub fn reconnect(code: u16) -> bool {
    code >= 4100
}

/// A reason for which the server closes a client's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum CloseCode {
    /// The client did what the protocol does not allow.
    BadProtocol = 4000,
    /// No credentials, or wrong ones.
    Unauthorized = 4001,
    /// Somebody disconnected the user or the connection.
    Kicked = 4003,
    /// A newer connection took its place.
    Superseded = 4004,
    /// The user has as many connections as the policy allows.
    ConnectionLimit = 4005,
    /// The `connect` frame did not come in time.
    ConnectTimeout = 4008,
    /// A frame was larger than the limit told in `hello`.
    FrameTooLarge = 4009,
    /// The cluster can't take the registration now.
    Overloaded = 4100,
    /// The gateway holds as many connections as it may.
    GatewayFull = 4101,
    /// The gateway lost its lease for longer than the grace.
    LeaseLost = 4102,
    /// The client did not answer a ping.
    NoPong = 4108,
    /// The client sent more messages than its rate allows.
    RateLimited = 4129,
    /// The client read too slowly.
    SlowConsumer = 4130,
    /// The gateway is going away.
    Drain = 4200,
    /// The gateway asks to be relieved.
    Rebalance = 4201,
    /// The token ran out.
    TokenExpired = 4202,
    /// The gateway stops at once, or was replaced by another process.
    Restart = 4203,
}

impl CloseCode {
    /// The number in the close frame.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// The word in the close frame and in `goodbye`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::BadProtocol => "bad_protocol",
            Self::Unauthorized => "unauthorized",
            Self::Kicked => "kicked",
            Self::Superseded => "superseded",
            Self::ConnectionLimit => "connection_limit",
            Self::ConnectTimeout => "connect_timeout",
            Self::FrameTooLarge => "frame_too_large",
            Self::Overloaded => "overloaded",
            Self::GatewayFull => "gateway_full",
            Self::LeaseLost => "lease_lost",
            Self::NoPong => "no_pong",
            Self::RateLimited => "rate_limited",
            Self::SlowConsumer => "slow_consumer",
            Self::Drain => "drain",
            Self::Rebalance => "rebalance",
            Self::TokenExpired => "token_expired",
            Self::Restart => "restart",
        }
    }
}
