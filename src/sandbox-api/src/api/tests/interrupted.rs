//! Calls that are under way when their sandbox is paused or killed: none hangs, each says why, and none keeps the VM.

use super::*;
use crate::envd::tests::{Events, envelope};
use sandbox::fake::Manner;

/// What ends the sandbox, or its run.
type Interrupt = fn(&Lab);

const INTERRUPTS: [Interrupt; 2] = [Lab::pause, Lab::kill];

const OCTETS: &str = "Content-Type: application/octet-stream\r\n";

/// A sandbox in which guest-files takes a request, and so many bytes in all, and answers nothing.
fn silent(input: usize) -> Lab {
    Lab::of(Script::default().hold(PROGRAM, Manner::Deaf).take_input(PROGRAM, input))
}

/// Waits until a command got this input.
fn wait_for_input(lab: &Lab, text: &str) {
    let has = |stdin: &[u8]| stdin.windows(text.len()).any(|window| window == text.as_bytes());
    while !has(&lab.launcher.factory.record().stdin) {
        std::thread::yield_now();
    }
}

/// The reply to a request whose sandbox is gone.
fn assert_gone(stream: TcpStream) {
    let reply = Reply::of(stream);
    assert_eq!(
        (reply.status, &reply.json()["message"]),
        (502, &json!("The sandbox was not found"))
    );
}

/// Whether the VM has ended, if it was killed: no call keeps it.
fn assert_not_kept(lab: &Lab) {
    let record = lab.launcher.factory.record();
    assert_eq!(record.ended + record.parked.len(), 1);
    drop(record);
    assert_eq!(lab.launcher.factory.commands(lab.launcher.vms.lock()[0]), 0);
}

#[test]
fn a_call_that_waits_for_the_guest_ends() {
    for interrupt in INTERRUPTS {
        let lab = silent(usize::MAX);
        let headers = lab.headers() + "Content-Type: application/json\r\n";
        let stream = lab.open("POST /filesystem.Filesystem/Stat", &headers, b"{\"path\":\"a\"}");
        wait_for_input(&lab, "account");
        interrupt(&lab);
        assert_gone(stream);
        assert_not_kept(&lab);
    }
}

#[test]
fn an_upload_that_waits_for_its_client_ends() {
    for interrupt in INTERRUPTS {
        let lab = Lab::new(Script::default());
        let headers = format!("{}{OCTETS}Transfer-Encoding: chunked\r\n", lab.headers());
        let stream = lab.begin("POST /files?path=a", &headers, b"3\r\nabc\r\n");
        wait_for_input(&lab, "abc");
        interrupt(&lab);
        assert_gone(stream);
        assert_not_kept(&lab);
    }
}

#[test]
fn an_upload_that_the_guest_does_not_take_ends_whatever_it_unpacks_to() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::copy(&mut std::io::repeat(0).take(100 << 20), &mut encoder).unwrap();
    let bomb = encoder.finish().unwrap();
    for interrupt in INTERRUPTS {
        let lab = Lab::new(Script::default().take_input(PROGRAM, 100_000));
        let headers = format!("{}{OCTETS}Content-Encoding: gzip\r\n", lab.headers());
        let stream = lab.open("POST /files?path=a", &headers, &bomb);
        wait_for_input(&lab, &"\0".repeat(90_000));
        interrupt(&lab);
        assert_gone(stream);
        assert_not_kept(&lab);
        assert!(lab.launcher.factory.record().stdin.len() < 101_000);
    }
}

#[test]
fn a_download_that_waits_for_the_guest_is_cut() {
    for interrupt in INTERRUPTS {
        let entry = r#"{"entry":{"name":"f","path":"/f","type":"file","size":1000000,"mode":420,"permissions":"","owner":"","group":"","modified":""}}"#;
        let account = r#"{"account":{"uid":0,"gid":0,"home":"/"}}"#;
        let lab = silent(usize::MAX);
        let print = |text: &str| {
            lab.launcher.factory.print(lab.launcher.vms.lock()[0], text.as_bytes());
        };
        let mut stream = lab.open("GET /files?path=f", &lab.headers(), b"");
        wait_for_input(&lab, "account");
        print(&format!("{account}\n{{\"done\":{{}}}}\n"));
        wait_for_input(&lab, "read");
        print(&format!("{entry}\n{}", "x".repeat(100_000)));
        stream.read_exact(&mut [0; 50_000]).unwrap();
        interrupt(&lab);
        let mut rest = Vec::new();
        assert!(stream.read_to_end(&mut rest).is_err(), "the client sees that it is not complete");
        assert!(rest.len() < 100_000);
    }
}

#[test]
fn input_that_a_process_does_not_take_ends() {
    for interrupt in INTERRUPTS {
        let lab = Lab::new(Script::default().hold("sleep", Manner::Deaf).take_input("sleep", 3));
        let message = json!({"process": {"cmd": "sleep"}, "stdin": true});
        let mut events = lab.stream("/process.Process/Start", "", &message);
        let which = json!({"pid": events.pid()});
        let input = json!({"process": which, "input": {"stdin": "YWJjZGVm"}});
        let headers = lab.headers() + "Content-Type: application/json\r\n";
        let body = input.to_string().into_bytes();
        let stream = lab.open("POST /process.Process/SendInput", &headers, &body);
        wait_for_input(&lab, "abc");
        interrupt(&lab);
        assert_gone(stream);
        assert_eq!(events.next(), None);
    }
}

#[test]
fn a_stream_of_input_whose_client_is_silent_ends() {
    for interrupt in INTERRUPTS {
        let lab = Lab::new(Script::default().hold("cat", Manner::Deaf));
        let message = json!({"process": {"cmd": "cat"}, "stdin": true});
        let mut events = lab.stream("/process.Process/Start", "", &message);
        let which = json!({"pid": events.pid()});
        let start = envelope(&json!({"start": {"process": which}}));
        let data = envelope(&json!({"data": {"input": {"stdin": "YWJj"}}}));
        let headers = lab.headers()
            + "Content-Type: application/connect+json\r\nTransfer-Encoding: chunked\r\n";
        let body = [start, data].concat();
        let chunk = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n"].concat();
        let stream = lab.begin("POST /process.Process/StreamInput", &headers, &chunk);
        wait_for_input(&lab, "abc");
        interrupt(&lab);
        assert_gone(stream);
        assert_eq!(events.next(), None);
    }
}

#[test]
fn a_watch_ends() {
    for interrupt in INTERRUPTS {
        let lab = silent(usize::MAX);
        let print = |text: &str| {
            lab.launcher.factory.print(lab.launcher.vms.lock()[0], text.as_bytes());
        };
        let headers = lab.headers() + "Content-Type: application/connect+json\r\n";
        let body = envelope(&json!({"path": "a"}));
        let stream = lab.open("POST /filesystem.Filesystem/WatchDir", &headers, &body);
        wait_for_input(&lab, "account");
        print("{\"account\":{\"uid\":0,\"gid\":0,\"home\":\"/\"}}\n{\"done\":{}}\n");
        wait_for_input(&lab, "watch");
        print("{\"watching\":{}}\n");
        let mut events = Events::new(stream);
        assert_eq!(events.next(), Some((0, json!({"start": {}}))));
        print("{\"event\":{\"name\":\"a\",\"type\":\"create\"}}\n");
        assert_eq!(events.next().unwrap().1["filesystem"]["name"], "a");
        interrupt(&lab);
        assert_eq!(events.next(), None);
    }
}
