//! Requests to the HTTP API: paths, queries, headers and bodies.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchboard::fuzz::http_requests(data));
