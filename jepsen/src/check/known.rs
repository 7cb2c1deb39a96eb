//! What was known to be committed, and since when: the measure of whether an answer is as new as it must be.

use crate::history::Operation;

/// The largest revision that anyone had seen, by time.
#[derive(Debug)]
pub(super) struct Known {
    /// Times in order, each with the largest revision seen until then.
    by_time: Vec<(u64, u64)>,
}

impl Known {
    /// Every operation that happened tells the `revision` of its result, if it has one. What was answered was committed.
    pub(super) fn of(operations: &[Operation<'_>]) -> Self {
        let told = operations.iter().filter_map(|operation| {
            let result = operation.result()?;
            // The epoch of a session is the revision at which it was opened.
            let revision = result["revision"].as_u64().or_else(|| result["epoch"].as_u64())?;
            Some((operation.known()?, revision))
        });
        let mut by_time: Vec<(u64, u64)> = told.collect();
        by_time.sort_unstable();
        let mut largest = 0;
        for (_, revision) in &mut by_time {
            largest = largest.max(*revision);
            *revision = largest;
        }
        Self { by_time }
    }

    /// The largest revision that had been seen before this time, nanoseconds of the history; 0 if none.
    pub(super) fn before(&self, time: u64) -> u64 {
        let later = self.by_time.partition_point(|(when, _)| *when < time);
        later.checked_sub(1).map_or(0, |last| self.by_time[last].1)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::told::Told;

    #[test]
    fn what_was_seen_is_known_from_then_on_and_never_less() {
        let told = Told::default().ok((1, 5), ("batch", "a"), json!({}), json!({ "revision": 9 })).ok(
            (2, 7),
            ("read", "a"),
            json!({}),
            json!({ "revision": 3 }),
        );
        let history = told.history();
        let known = Known::of(&history.operations());
        assert_eq!([5, 6, 8].map(|ms| known.before(ms * 1_000_000)), [0, 9, 9]);
    }
}
