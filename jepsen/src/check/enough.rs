//! Whether enough happened to say anything: a run in which nothing happens proves nothing.

use crate::history::{History, Operation};
use crate::verdict::Checked;

/// Counts operations that were answered, by name; of each so many are wanted.
pub fn check(history: &History, wanted: &[(&str, usize)]) -> Checked {
    let operations = history.operations();
    let mut checked = Checked::new("enough", &[], "Operations that were answered were counted.".to_owned(), Vec::new());
    for (f, wanted) in wanted {
        let of = |operation: &&Operation<'_>| operation.f() == *f;
        let answered = operations.iter().filter(of).filter(|operation| operation.result().is_some()).count();
        let unknown = operations.iter().filter(of).filter(|operation| operation.known().is_none()).count();
        checked = checked.at_least(f, *wanted, answered).figure(&format!("{f}_unknown"), unknown);
    }
    checked
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::made_up::Story;
    use crate::verdict::Verdict;

    #[test]
    fn a_run_in_which_too_little_happened_is_not_valid() {
        let mut story = Story::default();
        story.ok("lookup", "alice", json!(null), json!(1));
        story.begin("lookup", "alice", json!(null));
        assert_eq!(check(&story.history(), &[("lookup", 1)]).verdict, Verdict::Valid);
        assert_eq!(check(&story.history(), &[("lookup", 2)]).verdict, Verdict::Unknown, "one was never answered");
    }
}
