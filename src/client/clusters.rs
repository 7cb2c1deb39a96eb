//! Which cluster is followed. A restore makes another one under the same name and addresses, and its nodes are told from those
//! that were left behind.

use crate::wire::peer::ClusterMark;

/// The cluster that is followed.
#[derive(Debug, Default)]
pub(super) struct Clusters {
    /// Its id, and the largest revision that a node of it has told.
    followed: Option<ClusterMark>,
    /// The one that was refused last, so that it is told once and not at every attempt.
    refused: Option<u64>,
}

/// A node of a cluster that was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node is of cluster {id:016x}, which was replaced by {followed:016x}")]
pub(super) struct Replaced {
    id: u64,
    followed: u64,
}

impl Clusters {
    /// The id of the cluster that is followed.
    pub(super) fn followed(&self) -> Option<u64> {
        self.followed.map(|followed| followed.id)
    }

    /// Notes whose state a node has. One that has none yet is as good as any.
    ///
    /// Of two clusters the one that is ahead is followed: a restored one begins far above everything that the old one can have
    /// reached. Its nodes know of no old session, and their watches begin after everything old, so sessions are opened anew and
    /// watches begin with a snapshot by themselves.
    pub(super) fn meet(&mut self, node: &str, met: Option<ClusterMark>) -> Result<(), Replaced> {
        let Some(met) = met else { return Ok(()) };
        match &mut self.followed {
            Some(followed) if followed.id == met.id => followed.revision = followed.revision.max(met.revision),
            Some(followed) if met.revision <= followed.revision => {
                let replaced = Replaced { id: met.id, followed: followed.id };
                if self.refused.replace(met.id) != Some(met.id) {
                    tracing::error!(
                        node,
                        cluster_id = format!("{:016x}", met.id),
                        followed = format!("{:016x}", followed.id),
                        "this directory node belongs to a cluster that was replaced, or that begins again from nothing, and is \
                         not followed. Stop it; or, if its data was removed on purpose, restart this process"
                    );
                }
                return Err(replaced);
            }
            followed => {
                if let Some(former) = followed {
                    tracing::warn!(
                        node,
                        cluster_id = format!("{:016x}", met.id),
                        former = format!("{:016x}", former.id),
                        revision = met.revision,
                        "the directory is another cluster than before: it was restored. Sessions are opened anew, open sockets \
                         are registered again"
                    );
                }
                *followed = Some(met);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_that_is_ahead_is_followed_and_none_that_was_left() {
        let mut clusters = Clusters::default();
        let mark = |id, revision| Some(ClusterMark { id, revision });
        assert_eq!(clusters.meet("a", None), Ok(()));
        assert_eq!(clusters.followed(), None);
        assert_eq!(clusters.meet("a", mark(1, 500)), Ok(()));
        assert_eq!(clusters.meet("b", mark(1, 300)), Ok(()), "a node that is behind");
        let base = (1 << 40) + 400;
        assert_eq!(clusters.meet("a", mark(2, base)), Ok(()), "it was restored");
        assert_eq!(clusters.meet("b", mark(1, 600)), Err(Replaced { id: 1, followed: 2 }));
        assert_eq!(clusters.meet("c", None), Ok(()));
        assert_eq!(clusters.followed(), Some(2));
        assert_eq!(clusters.meet("a", mark(3, 7)), Err(Replaced { id: 3, followed: 2 }), "it begins from nothing");
    }
}
