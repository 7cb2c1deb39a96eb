//! Snapshot files: whatever is there, and one that was written, then damaged.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchboard_raft::fuzz::snapshot_files(data));
