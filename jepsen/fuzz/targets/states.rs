//! States as they are in snapshots and backups.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchboard::fuzz::states(data));
