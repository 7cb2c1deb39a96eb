//! Messages between processes of the cluster.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchboard::fuzz::peer_messages(data));
