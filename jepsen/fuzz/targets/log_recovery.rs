//! A log file that was written, then damaged: what is found is what was written, or the node refuses to start.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchboard_raft::fuzz::log_recovery(data));
