//! Streams between processes: frames, in whatever pieces they arrive.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchboard::fuzz::peer_streams(data));
