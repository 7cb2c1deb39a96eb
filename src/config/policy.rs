//! Which connections of a user may live beside each other: the same flags for a gateway and for a development cluster.

use clap::{Args, ValueEnum};

use crate::gateway::{Handover, Per, Policy};

/// The policy of a gateway.
#[derive(Debug, Clone, Args)]
pub struct PolicyArgs {
    /// Which connections of a user may live beside each other, in the whole cluster; the newcomer's gateway decides
    #[arg(long, value_enum, env = "SWITCHBOARD_POLICY", default_value_t)]
    pub policy: PolicyArg,

    /// Whether the policy is about a user, or about each device of a user
    #[arg(long, value_enum, env = "SWITCHBOARD_PER", default_value_t)]
    pub per: PerArg,

    /// When a newcomer gets the place, with newest_wins
    #[arg(long, value_enum, env = "SWITCHBOARD_HANDOVER", default_value_t)]
    pub handover: HandoverArg,

    /// Connections that a user, or each device, may have in the whole cluster, with multi
    #[arg(long, value_name = "N", env = "SWITCHBOARD_MAX", default_value_t = 16)]
    pub max: u32,
}

/// Which connections of a user may live beside each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum PolicyArg {
    /// Several, up to --max
    #[default]
    Multi,
    /// One: the newcomer takes its place
    NewestWins,
    /// One: the newcomer is refused
    OldestWins,
}

/// What a policy is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum PerArg {
    /// All connections of a user
    #[default]
    User,
    /// Those of one device of a user
    Device,
}

/// When a newcomer gets the place of another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum HandoverArg {
    /// When the other's gateway has stopped serving it
    #[default]
    Wait,
    /// At once; for a moment both may be served
    Immediate,
}

impl PolicyArgs {
    /// What the flags mean together.
    pub(crate) fn policy(&self) -> Policy {
        let per = match self.per {
            PerArg::User => Per::User,
            PerArg::Device => Per::Device,
        };
        let handover = match self.handover {
            HandoverArg::Wait => Handover::Wait,
            HandoverArg::Immediate => Handover::Immediate,
        };
        match self.policy {
            PolicyArg::Multi => Policy::Multi { max: self.max, per },
            PolicyArg::NewestWins => Policy::NewestWins { per, handover },
            PolicyArg::OldestWins => Policy::OldestWins { per },
        }
    }
}
