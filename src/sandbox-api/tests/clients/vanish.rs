//! A client that vanishes in the middle of a call.

use std::io::{Read as _, Write as _};

use files_proto::PROGRAM;
use sandbox::fake::{Manner, Script};
use serde_json::json;

use crate::harness::{Created, Lab, Open, script, until};

/// All calls on a sandbox, as bytes.
fn calls(sandbox: &Created) -> Vec<Vec<u8>> {
    let path = json!({"path": "a"});
    let pid = json!({"process": {"pid": 1}});
    let octets = "Content-Type: application/octet-stream\r\n";
    let port = "E2b-Sandbox-Port: 80\r\n";
    let socket = format!("{port}Connection: Upgrade\r\nUpgrade: websocket\r\n");
    let form = "Content-Type: multipart/form-data; boundary=X\r\n";
    let part = b"--X\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nabc";
    vec![
        sandbox.start("cat"),
        sandbox.stream("process.Process/Connect", &pid),
        sandbox.stream("process.Process/StreamInput", &json!({"start": pid})),
        sandbox.stream("filesystem.Filesystem/WatchDir", &path),
        sandbox.unary("process.Process/List", &json!({})),
        sandbox.unary("filesystem.Filesystem/Stat", &path),
        sandbox.unary("filesystem.Filesystem/CreateWatcher", &path),
        sandbox.request("POST /files?path=a", octets, &[7; 1000]),
        sandbox.request("POST /files", form, part),
        sandbox.request("GET /", port, b""),
        sandbox.request("GET /", &socket, b""),
    ]
}

#[test]
fn a_request_that_is_cut_off_anywhere_leaves_nothing() {
    let lab = Lab::new(script());
    let before = Open::with(0);
    let sandbox = lab.create();
    for request in calls(&sandbox) {
        // All of it is another matter: then the call is under way.
        for end in (0..request.len() - 1).step_by(29) {
            lab.connect().write_all(&request[..end]).unwrap();
        }
    }
    lab.kill(&sandbox);
    lab.wait_for(&before);
}

#[test]
fn a_client_that_follows_a_process_leaves_the_process_alone() {
    let lab = Lab::new(script());
    let sandbox = lab.create();
    let message = json!({"process": {"cmd": "sleep"}, "tag": "t"});
    let mut first = lab.connect();
    first.write_all(&sandbox.stream("process.Process/Start", &message)).unwrap();
    until(&mut first, "\"pid\":");
    let before = Open::with(1);
    for _ in 0..20 {
        let which = json!({"process": {"tag": "t"}});
        let mut client = lab.connect();
        client.write_all(&sandbox.stream("process.Process/Connect", &which)).unwrap();
        until(&mut client, "\"pid\":");
    }
    while Open::look() != before {
        std::thread::yield_now();
    }
    assert_eq!(lab.launcher.factory.commands(lab.vm()), 1);
    let listed = lab.call(&sandbox.unary("process.Process/List", &json!({}))).1;
    assert_eq!(listed["processes"].as_array().unwrap().len(), 1);
}

#[test]
fn a_call_that_the_guest_never_answers_ends_with_its_time() {
    let lab = Lab::new(Script::default().hold(PROGRAM, Manner::Deaf));
    let sandbox = lab.create();
    let before = Open::with(0);
    let request = sandbox.unary("filesystem.Filesystem/Stat", &json!({"path": "a"}));
    lab.connect().write_all(&request).unwrap();
    while lab.launcher.factory.record().execs.is_empty() {
        std::thread::yield_now();
    }
    lab.wait_for(&before);
}

#[test]
fn an_upload_whose_client_vanishes_ends_its_program() {
    let lab = Lab::new(script());
    let sandbox = lab.create();
    let before = Open::with(0);
    let octets = "Content-Type: application/octet-stream\r\n";
    let request = sandbox.request("POST /files?path=a", octets, &[b'z'; 500_000]);
    for end in [request.len() - 1, request.len() - 400_000] {
        let mut client = lab.connect();
        client.write_all(&request[..end]).unwrap();
        while !lab.launcher.factory.record().stdin.ends_with(b"zz") {
            std::thread::yield_now();
        }
        drop(client);
        lab.wait_for(&before);
        lab.launcher.factory.record().stdin.clear();
    }
}

#[test]
fn a_download_whose_client_vanishes_ends_its_program() {
    let lab = Lab::new(Script::default().answer(PROGRAM, |_, request| {
        let entry = json!({"entry": {"name": "f", "path": "/f", "type": "file", "size": 1 << 30, "mode": 420,
            "permissions": "", "owner": "", "group": "", "modified": ""}});
        let account = json!({"account": {"uid": 0, "gid": 0, "home": "/"}});
        if request.starts_with(b"{\"account") {
            return (format!("{account}\n{{\"done\":{{}}}}\n").into_bytes(), 0);
        }
        ([format!("{entry}\n").as_bytes(), &vec![7; 50 << 20]].concat(), 0)
    }));
    let sandbox = lab.create();
    let before = Open::with(0);
    let mut client = lab.connect();
    client.write_all(&sandbox.request("GET /files?path=f", "", b"")).unwrap();
    client.read_exact(&mut [0; 100_000]).unwrap();
    drop(client);
    lab.wait_for(&before);
}

#[test]
fn a_port_sees_that_its_client_vanished() {
    let lab = Lab::new(script());
    let sandbox = lab.create();
    let before = Open::with(0);
    for upgrade in ["", "Connection: Upgrade\r\nUpgrade: websocket\r\n"] {
        let headers = format!("E2b-Sandbox-Port: 80\r\n{upgrade}");
        let mut client = lab.connect();
        client.write_all(&sandbox.request("GET /", &headers, b"")).unwrap();
        let (_, mut guest) = loop {
            if let Some(connection) = lab.launcher.factory.record().connections.pop() {
                break connection;
            }
            std::thread::yield_now();
        };
        until_unix(&mut guest, "\r\n\r\n");
        guest.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        until(&mut client, "\r\n\r\n");
        drop(client);
        assert_eq!(guest.read(&mut [0; 8]).unwrap(), 0);
        drop(guest);
        lab.wait_for(&before);
    }
}

fn until_unix(stream: &mut std::os::unix::net::UnixStream, text: &str) {
    let (mut all, mut byte) = (Vec::new(), [0]);
    while !all.ends_with(text.as_bytes()) {
        stream.read_exact(&mut byte).unwrap();
        all.push(byte[0]);
    }
}

#[test]
fn a_sandbox_whose_creator_vanished_ends_at_its_time_out() {
    let lab = Lab::new(script());
    let before = Open::with(0);
    for _ in 0..10 {
        let body = json!({"templateID": "base", "timeout": 1});
        lab.connect().write_all(&lab.rest("POST /v2/sandboxes", &body)).unwrap();
    }
    while lab.launcher.factory.record().ended < 10 {
        std::thread::yield_now();
    }
    lab.wait_for(&before);
    assert_eq!(std::sync::Arc::strong_count(&lab.launcher.reserved), 1);
}

#[test]
fn a_client_that_vanishes_in_a_pause_leaves_a_sandbox_that_can_be_resumed_or_killed() {
    let lab = Lab::new(script());
    let before = Open::with(0);
    let sandbox = lab.create();
    let pause = lab.rest(&format!("POST /sandboxes/{}/pause", sandbox.id), &json!({}));
    lab.connect().write_all(&pause).unwrap();
    while lab.launcher.factory.record().parked.is_empty() {
        std::thread::yield_now();
    }
    let connect = format!("POST /v2/sandboxes/{}/connect", sandbox.id);
    assert_eq!(lab.call(&lab.rest(&connect, &json!({"timeout": 60}))).0, 201);
    lab.kill(&sandbox);
    lab.wait_for(&before);
}
