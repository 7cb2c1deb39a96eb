//! What a client may do beside being connected.

use std::sync::Arc;

/// What a client may do beside being connected. Without client authentication that is everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::gateway) struct Permissions {
    /// Topics that it may subscribe to, each a name or a beginning of names that ends with `*`; `None`: all.
    topics: Option<Arc<[Box<str>]>>,
}

impl Permissions {
    /// Only these topics: names, and beginnings of names that end with `*`.
    #[cfg(test)]
    pub(in crate::gateway) fn only(topics: &[&str]) -> Self {
        Self { topics: Some(topics.iter().map(|topic| Box::from(*topic)).collect()) }
    }

    /// Whether it may subscribe to a topic.
    pub(super) fn may_subscribe(&self, topic: &str) -> bool {
        let allows = |pattern: &str| match pattern.strip_suffix('*') {
            Some(beginning) => topic.starts_with(beginning),
            None => pattern == topic,
        };
        self.topics.as_ref().is_none_or(|topics| topics.iter().any(|pattern| allows(pattern)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_name_or_the_beginning_of_names() {
        let some = Permissions::only(&["room:*", "news"]);
        let allowed = ["room:7", "room:", "news", "newsroom", "room", ""].map(|topic| some.may_subscribe(topic));
        assert_eq!(allowed, [true, true, true, false, false, false]);
        assert!(Permissions::default().may_subscribe("anything") && !Permissions::only(&[]).may_subscribe("news"));
    }
}
