//! Decodes arbitrary bytes as a frame and its messages: no panic, no hang.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ably_subscriber::fuzz_decoder(bytes));
