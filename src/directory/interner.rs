//! One copy of each common short text, so that a million connections from `ios` do not hold a million copies of it.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Texts kept at most. What comes later is stored by itself; the only difference is memory.
const TEXTS_MAX: usize = 256;

/// Longer texts are names of single devices and not of kinds of them.
const TEXT_BYTES_MAX: usize = 16;

/// Known texts. They are no part of the state: no answer depends on them.
#[derive(Clone, Default)]
pub(super) struct Interner {
    known: Arc<BTreeSet<Arc<str>>>,
}

impl Interner {
    /// An equal text, shared if it is a common one.
    pub(super) fn share(&mut self, text: &Arc<str>) -> Arc<str> {
        if text.len() > TEXT_BYTES_MAX {
            return Arc::clone(text);
        }
        if let Some(known) = self.known.get(text) {
            return Arc::clone(known);
        }
        if self.known.len() < TEXTS_MAX {
            Arc::make_mut(&mut self.known).insert(Arc::clone(text));
        }
        Arc::clone(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_texts_are_shared_and_memory_is_bounded() {
        let mut interner = Interner::default();
        let first = interner.share(&"ios".into());
        assert!(Arc::ptr_eq(&first, &interner.share(&"ios".into())));
        for n in 0..10 * TEXTS_MAX {
            assert_eq!(*interner.share(&format!("{n}").into()), *format!("{n}"));
        }
        interner.share(&"a device with a name of its own".into());
        assert_eq!(interner.known.len(), TEXTS_MAX);
    }
}
