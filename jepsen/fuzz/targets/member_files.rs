//! The identity of a data directory, and the mark of the end of its log.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchboard_raft::fuzz::member_files(data));
