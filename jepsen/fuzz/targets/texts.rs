//! Forms of text in paths, queries and headers: ids, marks, cursors, times, `If-Match`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchboard::fuzz::texts(data));
