//! Bugs that are planted to see that they are found.

use switchboard::node::probe::Flaw;
use switchboard::simulation::Bug;

/// What is wrong on purpose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Planted {
    /// Nothing.
    #[default]
    Nothing,
    /// Disks say that all is synced when it has only begun.
    AcknowledgesUnsynced,
    /// Disks keep no votes.
    ForgetsVotes,
    /// Leaders acknowledge renewals without asking a quorum whether they still lead.
    RenewsUnconfirmed,
    /// New leaders give no lease to the sessions that they find.
    ForgetsLeases,
    /// The clocks of gateways run at half the speed, which no margin allows for.
    SlowClocks,
}

impl Planted {
    pub(super) fn flaw(self) -> Flaw {
        match self {
            Self::AcknowledgesUnsynced => Flaw::AcknowledgesUnsynced,
            Self::ForgetsVotes => Flaw::ForgetsVotes,
            _ => Flaw::None,
        }
    }

    pub(super) fn bug(self) -> Option<Bug> {
        match self {
            Self::RenewsUnconfirmed => Some(Bug::RenewsUnconfirmed),
            Self::ForgetsLeases => Some(Bug::ForgetsLeases),
            _ => None,
        }
    }

    /// By how much the clocks of gateways are wrong, parts of a million.
    pub(super) fn drift_ppm(self) -> Option<i64> {
        (self == Self::SlowClocks).then_some(-500_000)
    }
}
