//! What a client sends on its socket: WebSocket frames, and the JSON frames in them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchboard::fuzz::client_sockets(data));
