//! Whatever bytes a server sends, decoding a frame and its messages neither panics nor hangs.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ably_subscriber::fuzz_decoder(bytes));
