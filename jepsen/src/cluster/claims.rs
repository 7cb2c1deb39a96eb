//! Who is out of order: the one place that keeps faults from hitting a majority of the voters together.

use std::collections::{BTreeMap, BTreeSet};

/// Which processes are under which fault, by the fault's family. A process is under one fault at a time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    held: BTreeMap<&'static str, BTreeSet<String>>,
}

impl Claims {
    /// From now on these are under this fault, besides those that are already.
    pub fn take(&mut self, family: &'static str, names: impl IntoIterator<Item = String>) {
        self.held.entry(family).or_default().extend(names);
    }

    /// Ends a fault; who was under it.
    pub fn release(&mut self, family: &str) -> BTreeSet<String> {
        self.held.remove(family).unwrap_or_default()
    }

    /// Who is under this fault.
    pub fn of(&self, family: &str) -> BTreeSet<String> {
        self.held.get(family).cloned().unwrap_or_default()
    }

    /// Whether a process is under any fault.
    pub fn holds(&self, name: &str) -> bool {
        self.held.values().any(|names| names.contains(name))
    }

    /// Whether no process is under a fault.
    pub fn is_empty(&self) -> bool {
        self.held.values().all(BTreeSet::is_empty)
    }

    /// How many of these voters may get out of order, so that a majority of them stays in order.
    pub fn spare<'a>(&self, voters: impl Iterator<Item = &'a String>) -> usize {
        let (mut all, mut out) = (0, 0);
        for voter in voters {
            all += 1;
            out += usize::from(self.holds(voter));
        }
        (usize::saturating_sub(all, 1) / 2).saturating_sub(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_stays_in_order_whatever_is_combined() {
        let voters: Vec<String> = (1..=5).map(|id| format!("node-{id}")).collect();
        let mut claims = Claims::default();
        assert_eq!(claims.spare(voters.iter()), 2);
        assert_eq!(claims.spare(voters[..4].iter()), 1);
        claims.take("kill", ["node-1".to_owned(), "gw-1".to_owned()]);
        claims.take("pause", ["node-2".to_owned()]);
        assert_eq!(claims.spare(voters.iter()), 0, "gateways don't count");
        claims.take("power", ["node-3".to_owned()]);
        assert_eq!(claims.spare(voters.iter()), 0, "a fault that takes more may have been asked for");
        assert_eq!(claims.release("kill").len(), 2);
        assert!(!claims.holds("node-1") && claims.holds("node-2") && !claims.is_empty());
        claims.release("power");
        assert_eq!(claims.spare(voters.iter()), 1);
    }
}
