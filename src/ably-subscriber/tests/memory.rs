//! What a hostile server can make a subscription hold. Memory is that of the process, so this is its only
//! test.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, reason = "other tests use more of it")]
#[path = "subscription/expect.rs"]
mod expect;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "subscription/server.rs"]
mod server;

use std::fs;

use ably_subscriber::{Event, Gap};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use expect::Subscriber;
use server::Server;

/// What the hostile part of a frame has, in bytes: nearly as much as a frame may have.
const MANY: u32 = 900_000;

/// What 4 events, a frame on its way and the allocator's slack take.
const MOST_KIB: usize = 8 << 10;

fn kib(key: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// A frame with messages for the channel.
fn frame(id: &str, messages: &[u8]) -> Vec<u8> {
    let id_length = u16::try_from(id.len()).unwrap().to_be_bytes();
    let head = b"\x84\xa6action\x0f\xa7channel\xa4jobs\xa2id\xda";
    [&head[..], &id_length, id.as_bytes(), b"\xa8messages", messages].concat()
}

/// A message whose data is this text in JSON.
fn json_message(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap().to_be_bytes();
    [b"\x91\x82\xa8encoding\xa4json\xa4data\xdb", &length[..], text.as_bytes()].concat()
}

#[test]
fn no_frame_costs_more_than_its_bytes() {
    let many = MANY as usize;
    let empty = [&[0xdd], &MANY.to_be_bytes()[..], &vec![0x80; many]].concat();
    let hostile = [
        // Said to be four billion messages.
        frame("id", b"\xdd\xff\xff\xff\xff\x80"),
        // Many empty ones, in a frame with a long id.
        frame(&"x".repeat(60_000), &empty),
        // Containers in containers, as data and as JSON.
        frame("id", &[b"\x91\x81\xa4data", &vec![0x91; many][..], b"\xc0"].concat()),
        frame("id", &json_message(&"[".repeat(many))),
        // A long list in JSON.
        frame("id", &json_message(&format!("[{}0]", "0,".repeat(many / 2)))),
    ];
    let server = Server::start();
    let subscriber = Subscriber::connected(server.config().max_events(4));
    server.say("a");
    subscriber.expect("a");

    let before = kib("VmRSS:");
    for bytes in &hostile {
        let command = json!({ "op": "sendRaw", "base64": STANDARD.encode(bytes) });
        (0..4).for_each(|_| drop(server.command(&command)));
    }
    server.command(&json!({ "op": "ping" }));
    server.wait("pong", 1);
    let grown = kib("VmHWM:") - before;

    // They were read as messages, too many of them.
    assert_eq!(subscriber.expect_message().name, None);
    assert!(subscriber.0.iter().any(|event| event == Event::Gap(Gap::Overflow)));
    assert!(grown < MOST_KIB, "{grown} KiB");
}
