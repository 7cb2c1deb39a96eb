//! Patterns with `*`, as they stand in settings and tokens: `https://*.example.com`, `room:*`.

/// A text in which `*` stands for any characters, or none. There is no way to mean the character itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// The pattern that this text says.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether all of `text` fits. Letters are told apart by case.
    pub fn fits(&self, text: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = text.strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        // The leftmost place is as good as any for what stands between two stars.
        for part in parts {
            let Some((_, after)) = rest.split_once(part) else { return false };
            rest = after;
        }
        rest.ends_with(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything_and_everything_else_for_itself() {
        for (pattern, fitting, others) in [
            ("room:7", &["room:7"][..], &["room:77", "room:", "Room:7", ""][..]),
            ("room:*", &["room:7", "room:", "room:a*b"], &["room", "xroom:7"]),
            ("*", &["", "anything"], &[]),
            ("", &[""], &["x"]),
            (
                "https://*.example.com",
                &["https://a.example.com", "https://a.b.example.com"],
                &["https://example.com", "https://a.example.com.evil.org"],
            ),
            ("a*b*c", &["abc", "axbxc", "abbcc", "abcbc"], &["ab", "acb", "abcx"]),
            ("a*a", &["aa", "aba"], &["a"]),
            ("**a**", &["a", "bab"], &["b"]),
            ("*é*", &["é", "xéy"], &["e"]),
        ] {
            for text in fitting {
                assert!(Pattern::new(pattern).fits(text), "{pattern} {text}");
            }
            for text in others {
                assert!(!Pattern::new(pattern).fits(text), "{pattern} {text}");
            }
        }
    }
}
