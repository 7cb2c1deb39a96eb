//! Configuration files, and the units of their values.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchboard::fuzz::configuration(data));
