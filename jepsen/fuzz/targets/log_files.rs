//! The files of a log that an engine wrote, one of them damaged, and opened again.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchboard_raft::fuzz::log_files(data));
