//! Registers, unregisters and looks up the same few users at once, on any node.

use super::Workload;

/// Linearizable per user.
pub(super) const REGISTER: Workload = Workload {
    name: "register",
    about: "registers, unregisters and looks up the same few users at once, through any process",
    proves: &["I1"],
    plan: |_| {},
    act: |_| Box::pin(async {}),
    settle: |_| Box::pin(async {}),
    checkers: &[],
};
