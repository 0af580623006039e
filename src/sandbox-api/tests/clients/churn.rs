//! Sandboxes that are created, used and killed by clients that are killed at random.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base::random::bytes;
use serde_json::{Value, json};

use crate::harness::{Created, Lab, Open, script};

const ROUNDS: usize = 200;
const CLIENTS: usize = 4;

/// Numbers that follow from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        // Xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// Sends a request and is killed at a random moment: before all is sent, or in the reply.
fn begin(lab: &Lab, request: &[u8], random: &mut Random) {
    let mut stream: TcpStream = lab.connect();
    let sent = random.below(2 * request.len()).min(request.len());
    stream.write_all(&request[..sent]).unwrap();
    if sent == request.len() {
        let _ = stream.read(&mut vec![0; random.below(400)]);
    }
}

/// The same, but in half of all cases it lives to read the whole reply.
fn talk(lab: &Lab, request: &[u8], random: &mut Random) -> Option<String> {
    if random.below(2) == 0 {
        begin(lab, request, random);
        return None;
    }
    let mut stream: TcpStream = lab.connect();
    stream.write_all(request).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    Some(reply)
}

fn round(lab: &Lab, random: &mut Random) {
    let create = lab.rest("POST /v2/sandboxes", &json!({"templateID": "base", "timeout": 1}));
    let Some(reply) = talk(lab, &create, random) else { return };
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    // Those whose creator was killed use the key's budget up to their time-out.
    assert!(head.starts_with("HTTP/1.1 201") || head.starts_with("HTTP/1.1 429"), "{head}");
    let Ok(reply @ Value::Object(_)) = serde_json::from_str(body) else { panic!("{body}") };
    if reply["sandboxID"].is_null() {
        return;
    }
    let sandbox = Created::of(&reply);
    let octets = "Content-Type: application/octet-stream\r\n";
    for _ in 0..random.below(4) {
        let request = match random.below(5) {
            0 => sandbox.start("true"),
            1 => sandbox.start("sleep"),
            2 => sandbox.request("POST /files?path=a", octets, &[7; 10_000]),
            3 => sandbox.stream("filesystem.Filesystem/WatchDir", &json!({"path": "a"})),
            _ => sandbox.request("GET /", "E2b-Sandbox-Port: 80\r\n", b""),
        };
        begin(lab, &request, random);
    }
    let kill = lab.rest(&format!("DELETE /sandboxes/{}", sandbox.id), &Value::Null);
    talk(lab, &kill, random);
}

#[test]
fn nothing_is_left_after_two_hundred_creates_and_kills_with_clients_killed_at_random() {
    let lab = Lab::new(script().on("true", &["out"], 0));
    let seed = u64::from_le_bytes(bytes::<8>().unwrap()) | 1;
    println!("seed: {seed}");
    let before = Open::look();

    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (lab, done) = (&lab, &done);
            let work = move || {
                let mut random = Random(seed.wrapping_mul(2 * client as u64 + 1));
                while done.fetch_add(1, Ordering::Relaxed) < ROUNDS {
                    round(lab, &mut random);
                }
            };
            base::thread::spawn_scoped(scope, format!("client-{client}"), work).unwrap();
        }
    });

    while !lab.sandboxes.all().is_empty() {
        std::thread::yield_now();
    }
    lab.wait_for(&before);
    let record = lab.launcher.factory.record();
    assert!(record.started > 0);
    assert_eq!(record.started, record.ended);
    assert_eq!(Arc::strong_count(&lab.launcher.reserved), 1);
    drop(record);
    // The key's budget is free again.
    let all: Vec<_> = (0..64).map(|_| lab.create()).collect();
    all.iter().for_each(|sandbox| lab.kill(sandbox));
}
