//! Tokens of clients, their claims, and key sets.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchboard::fuzz::client_tokens(data));
