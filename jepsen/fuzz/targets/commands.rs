//! Sequences of commands: what a restored copy makes of them is what the original makes of them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchboard::fuzz::commands(data));
