//! Many streams at once.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Created, Lab, Open, script, until};

/// Sandboxes with as many processes each, and a stream for each process.
fn open(lab: &Lab, sandboxes: usize, processes: usize) -> Vec<(Created, Vec<TcpStream>)> {
    let open = |sandbox: &Created| {
        let mut client = lab.connect();
        client.write_all(&sandbox.start("sleep")).unwrap();
        until(&mut client, "\"pid\":");
        until(&mut client, "}\r\n");
        client
    };
    let sandboxes = std::iter::repeat_with(|| lab.create()).take(sandboxes);
    sandboxes
        .map(|sandbox| {
            let streams = (0..processes).map(|_| open(&sandbox)).collect();
            (sandbox, streams)
        })
        .collect()
}

/// Reads what is left of a stream that is cut.
fn assert_cut(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(!rest.ends_with(b"0\r\n\r\n"), "a stream that is cut has no last chunk");
}

#[test]
fn a_thousand_idle_streams_leave_room_for_others_and_end_with_their_sandbox_or_the_server() {
    let mut lab = Lab::new(script());
    let mut all = open(&lab, 4, 250);

    for (sandbox, _) in &all {
        let (status, listed) = lab.call(&sandbox.unary("process.Process/List", &json!({})));
        assert_eq!((status, listed["processes"].as_array().unwrap().len()), (200, 250));
    }
    assert_eq!(lab.call(&lab.rest("GET /v2/sandboxes", &json!({}))).0, 200);

    let (sandbox, mut streams) = all.pop().unwrap();
    lab.kill(&sandbox);
    streams.iter_mut().for_each(assert_cut);
    let (sandbox, mut streams) = all.pop().unwrap();
    let pause = format!("POST /sandboxes/{}/pause", sandbox.id);
    assert_eq!(lab.call(&lab.rest(&pause, &json!({}))).0, 204);
    streams.iter_mut().for_each(assert_cut);

    // A stop that waits for them would last an hour.
    lab.server.stop(Duration::from_secs(3600)).unwrap();
    all.iter_mut().flat_map(|(_, streams)| streams).for_each(assert_cut);
    lab.sandboxes.stop();
    drop((all, streams));
    assert!(Open::look().is_none());
}

#[test]
fn five_hundred_streams_get_all_output_at_once() {
    const PIECE: &[u8] = &[b'x'; 1000];
    let lab = Lab::new(script());
    let mut all = open(&lab, 2, 250);

    for _ in 0..20 {
        for vm in lab.launcher.vms.lock().iter() {
            lab.launcher.factory.print(*vm, PIECE);
        }
    }

    // Each piece is 1336 characters in base64.
    for stream in all.iter_mut().flat_map(|(_, streams)| streams) {
        let mut count = 0;
        let mut buffer = [0; 4096];
        while count < 20 * 1333 {
            let read = stream.read(&mut buffer).unwrap();
            assert_ne!(read, 0);
            count += buffer[..read].iter().filter(|byte| b"eHh4".contains(byte)).count();
        }
    }
}
