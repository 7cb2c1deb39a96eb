//! Entries of the log, as a directory node reads and applies them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchboard::fuzz::log_entries(data));
