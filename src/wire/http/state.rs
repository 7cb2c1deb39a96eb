//! Bodies about the state as a whole.

use serde::{Deserialize, Serialize};

/// What [`StateHash::invariants`] says when all is well.
pub const INVARIANTS_HOLD: &str = "hold";

/// Answer to `GET /v1/cluster/hash`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateHash {
    /// The state that was hashed. Equal revisions of one cluster have equal hashes on all nodes.
    pub revision: u64,
    /// SHA-256 in hexadecimal digits. It is also that of a backup of the same revision.
    pub sha256: String,
    /// Live connections in that state.
    pub connections: u64,
    /// Live sessions in that state.
    pub sessions: u64,
    /// With `check=true`: [`INVARIANTS_HOLD`], or the first invariant of the state that does not hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invariants: Option<String>,
}

impl StateHash {
    /// The first 52 bits of the hash: as much as a metric shows exactly.
    pub fn metric(&self) -> u64 {
        self.sha256.get(..13).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0)
    }
}

/// Answer to `POST /v1/cluster/snapshot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotTaken {
    /// The snapshot shows this state, or none was taken because nothing changed since.
    pub revision: u64,
}

/// Bytes in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A cluster's id as people see it: 16 hexadecimal digits.
pub fn cluster_id(id: u64) -> String {
    format!("{id:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_shows_as_much_of_a_hash_as_it_can_exactly() {
        let sha256 = hex(&[0xff; 32]);
        let hash = StateHash { revision: 1, sha256, connections: 0, sessions: 0, invariants: None };
        assert_eq!(hash.metric(), (1 << 52) - 1);
        assert_eq!(cluster_id(0xab), "00000000000000ab");
    }
}
