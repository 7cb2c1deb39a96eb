//! Short codes for common short texts, so that a million connections from `ios` do not hold a million copies of it.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Texts known at most, so that a code is a byte and one value is left to say that there is none. What comes later is stored by
/// itself; the only difference is memory.
const TEXTS_MAX: usize = u8::MAX as usize;

/// Longer texts are names of single devices and not of kinds of them.
const TEXT_BYTES_MAX: usize = 16;

/// Known texts, which only become more. They are no part of the state: no answer depends on them.
#[derive(Debug, Clone, Default)]
pub(super) struct Interner {
    known: Arc<Known>,
}

#[derive(Debug, Clone, Default)]
struct Known {
    texts: Vec<Arc<str>>,
    codes: BTreeMap<Arc<str>, u8>,
}

impl Interner {
    /// The code of a text, below 255; none if it is not a common one.
    pub(super) fn code(&mut self, text: &Arc<str>) -> Option<u8> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        if let Some(code) = self.known.codes.get(text) {
            return Some(*code);
        }
        if self.known.texts.len() == TEXTS_MAX {
            return None;
        }
        let known = Arc::make_mut(&mut self.known);
        let code = known.texts.len() as u8;
        known.texts.push(Arc::clone(text));
        known.codes.insert(Arc::clone(text), code);
        Some(code)
    }

    /// The text of a code that was given out.
    pub(super) fn text(&self, code: u8) -> &Arc<str> {
        &self.known.texts[usize::from(code)]
    }

    /// An equal text, shared if it is a common one.
    pub(super) fn share(&mut self, text: &Arc<str>) -> Arc<str> {
        let code = self.code(text);
        Arc::clone(code.map_or(text, |code| self.text(code)))
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
            let text: Arc<str> = format!("{n}").into();
            assert_eq!(interner.share(&text), text);
            if let Some(code) = interner.code(&text) {
                assert_eq!(*interner.text(code), text);
                assert!(code < u8::MAX);
            }
        }
        assert_eq!(interner.code(&"a device with a name of its own".into()), None);
        assert_eq!((interner.known.texts.len(), interner.known.codes.len()), (TEXTS_MAX, TEXTS_MAX));
        assert!(Arc::ptr_eq(&first, interner.text(0)));
    }
}
