//! Bytes where a log file should be.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchboard_raft::fuzz::log_records(data));
