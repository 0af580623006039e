//! Decodes arbitrary bytes: no panic, no hang, and a decoded message survives a round trip.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vsock_proto::{Decoder, GuestMessage, Hello, HostMessage, encode};

fuzz_target!(|bytes: &[u8]| {
    let decoder = || {
        let mut decoder = Decoder::new();
        decoder.push(bytes);
        decoder
    };
    let _ = Hello::decode(&mut decoder());
    let mut guest = decoder();
    while let Ok(Some(message)) = guest.next::<GuestMessage>() {
        let mut again = Decoder::new();
        let mut wire = Vec::new();
        encode(&message, &mut wire).expect("a decoded message fits into a frame");
        again.push(&wire);
        assert_eq!(again.next().expect("it decodes"), Some(message));
    }
    let mut host = decoder();
    while let Ok(Some(message)) = host.next::<HostMessage>() {
        let mut again = Decoder::new();
        let mut wire = Vec::new();
        encode(&message, &mut wire).expect("a decoded message fits into a frame");
        again.push(&wire);
        assert_eq!(again.next().expect("it decodes"), Some(message));
    }
});
