//! Bytes that earlier builds wrote, kept as text, so that no form changes unnoticed.
//!
//! A form that changes on purpose gets a new number and a new fixture; the old one stays for as long as it has to be read.
//! `UPDATE_GOLDEN=1 cargo test golden` writes fixtures anew.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Compares bytes with a fixture: lines of hexadecimal digits.
pub(crate) fn check(fixture: &Path, bytes: &[u8]) {
    let mut text = String::new();
    for line in bytes.chunks(32) {
        for byte in line {
            write!(text, "{byte:02x}").unwrap();
        }
        text.push('\n');
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(fixture, text).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(fixture).unwrap_or_default();
    assert!(
        text == kept,
        "{} has changed. Other releases and stored data have the old form: give the new one a number of its own, keep the \
         old one readable, and write a fixture for it (UPDATE_GOLDEN=1)",
        fixture.display()
    );
}

/// Messages of one kind, one after the other; each must read back as itself.
pub(crate) fn check_messages<T: Serialize + DeserializeOwned>(fixture: &Path, messages: &[T]) {
    let mut all = Vec::new();
    for message in messages {
        let bytes = postcard::to_allocvec(message).unwrap();
        let read: T = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(postcard::to_allocvec(&read).unwrap(), bytes, "{} reads what it wrote", fixture.display());
        all.extend(bytes);
    }
    check(fixture, &all);
}

/// The bytes of a fixture.
#[allow(dead_code, reason = "not every form has an older one")]
pub(crate) fn read(fixture: &Path) -> Vec<u8> {
    let digits: Vec<u8> = std::fs::read(fixture).unwrap().into_iter().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}
