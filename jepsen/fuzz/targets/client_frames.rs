//! The JSON frames of clients.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchboard::fuzz::client_frames(data));
