//! Reads arbitrary bytes as the head and the chunked body of a request: no panic, no hang.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| http_server::fuzz(bytes));
