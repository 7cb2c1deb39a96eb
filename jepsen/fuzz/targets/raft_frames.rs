//! Frames between members of the group, whatever the stream is for.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchboard_raft::fuzz::raft_frames(data));
