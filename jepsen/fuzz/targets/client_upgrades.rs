//! The query and the headers with which a client asks for a socket.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchboard::fuzz::client_upgrades(data));
