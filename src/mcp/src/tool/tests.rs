//! The tools, against scripted sandboxes.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sandbox::fake::{Manner, Script};
use serde_json::{Value, json};

use crate::options::Options;
use crate::testing::Client;

const SHELL: &str = "/bin/sh";

fn client() -> Client {
    Client::ready(Script::default().on(SHELL, &["hello\n"], 3))
}

fn small(script: Script) -> Client {
    let mut client = Client::with(script, Options { max_result: 40, ..Options::default() });
    client.initialize();
    client
}

#[test]
fn a_command_returns_its_output_and_its_exit_code() {
    let mut client = client();
    let arguments = json!({"command": "make", "cwd": "src", "env": {"A": "1"}});
    let result = client.call("run_command", &arguments);
    assert_eq!(result["content"][0]["text"], "hello\n[exit code 3]");
    assert_eq!((&result["isError"], &result["_meta"]["exit_code"]), (&json!(false), &json!(3)));
    let record = client.world.launcher.factory.record();
    let exec = record.execs.iter().find(|exec| exec.argv[0] == SHELL).unwrap();
    assert_eq!(exec.argv.last().unwrap(), "make");
    assert_eq!(exec.cwd.as_ref().unwrap(), &client.world.home.path().join("src"));
    assert!(exec.env.contains(&("A".into(), "1".into())));
    assert!(!exec.stdin && !exec.follow_descendants);
    assert_eq!(exec.timeout, Some(std::time::Duration::from_secs(120)));
}

#[test]
fn a_command_reads_its_standard_input() {
    let mut client = Client::ready(
        Script::default().answer(SHELL, |_, input| (input.iter().rev().copied().collect(), 0)),
    );
    let text = client.text("run_command", &json!({"command": "rev", "stdin": "abc"}));
    assert_eq!(text, "cba\n[exit code 0]");
}

#[test]
fn a_command_that_does_not_start_says_why() {
    let mut client = Client::ready(Script::default());
    let text = client.fail("run_command", &json!({"command": "ls"}));
    assert_eq!(text, "cannot run the command: not in the script");
}

#[test]
fn much_output_is_cut_in_the_middle_and_kept_in_a_file() {
    let mut client = small(Script::default().on(SHELL, &["0123456789", &"x".repeat(95), "end"], 0));
    let text = client.text("run_command", &json!({"command": "yes"}));
    let path = client.world.launcher.factory.record().writes[0].target.clone();
    assert!(text.starts_with("0123456789xxxxxxxxxx\n\n[68 bytes are left out here. "), "{text}");
    assert!(
        text.contains(&format!(
            "all of the 108 bytes of output are in the file {}",
            path.display()
        )),
        "{text}"
    );
    assert!(text.ends_with("xxxxxxxxxxxxxxxxxend\n[exit code 0]"), "{text}");
    let kept = client.world.launcher.factory.record().files[&path].clone();
    assert_eq!(kept, format!("0123456789{}end", "x".repeat(95)).into_bytes());
}

#[test]
fn a_background_command_is_left_running() {
    let mut client = Client::ready(Script::default().hold(SHELL, Manner::Deaf));
    let result = client.call("run_command", &json!({"command": "serve", "background": true}));
    let (pid, text) = (&result["_meta"]["pid"], result["content"][0]["text"].as_str().unwrap());
    assert!(text.contains(&format!("/tmp/command-{pid}.log")), "{text}");
    let record = client.world.launcher.factory.record();
    let exec = record.execs.last().unwrap();
    assert!(exec.follow_descendants && exec.timeout.is_none());
    assert!(exec.argv[2].to_str().unwrap().starts_with("exec >\"/tmp/command-$$.log\" 2>&1; "));
}

#[test]
fn calls_without_a_sandbox_share_one_which_is_replaced_after_its_end() {
    let mut client = client();
    let first = client.call("run_command", &json!({"command": "a"}));
    let note = first["content"][1]["text"].as_str().unwrap();
    assert!(note.starts_with("[new sandbox ") && !note.contains("ended"), "{note}");
    let again = client.call("run_command", &json!({"command": "a"}));
    assert_eq!(again["content"].as_array().unwrap().len(), 1);
    let id = again["_meta"]["sandbox_id"].clone();
    client.text("end_sandbox", &json!({"sandbox_id": id}));
    let gone = client.fail("read_file", &json!({"path": "a", "sandbox_id": id}));
    assert!(gone.contains("list_sandboxes"), "{gone}");

    // One that ended by itself.
    client.text("run_command", &json!({"command": "a"}));
    let vm = *client.world.launcher.vms.lock().last().unwrap();
    client.world.launcher.factory.end(vm);
    while !client.world.sandboxes.all().is_empty() {
        std::thread::yield_now();
    }
    let next = client.call("run_command", &json!({"command": "a"}));
    assert!(next["content"][1]["text"].as_str().unwrap().contains("has ended"), "{next}");
}

#[test]
fn sandboxes_are_created_listed_and_ended() {
    let mut client = client();
    let arguments =
        json!({"template": "other", "timeout": 60, "no_internet": true, "env": {"B": "2"}});
    let created = client.call("create_sandbox", &arguments)["structuredContent"].clone();
    assert_eq!((&created["template"], &created["timeout"]), (&json!("other"), &json!(60.0)));
    assert!(!client.world.launcher.requests.lock()[0].network.allow_internet);
    let id = created["sandbox_id"].clone();
    client.text("run_command", &json!({"command": "x", "sandbox_id": id}));
    let env = client.world.launcher.factory.record().execs.last().unwrap().env.clone();
    assert!(env.contains(&("B".into(), "2".into())));
    let listed = client.call("list_sandboxes", &json!({}));
    assert_eq!(listed["structuredContent"]["sandboxes"][0], created);
    client.text("end_sandbox", &json!({"sandbox_id": id}));
    let none = client.call("list_sandboxes", &json!({}));
    assert_eq!(none["structuredContent"], json!({"sandboxes": []}));
    let unknown = client.fail("create_sandbox", &json!({"template": "no"}));
    assert!(unknown.contains("template `no` does not exist"), "{unknown}");
}

#[test]
fn structured_results_have_the_shape_that_the_tool_promises() {
    let mut client = client();
    let tools = client.request("tools/list", &json!({}))["result"]["tools"].clone();
    let promised = tools.as_array().unwrap().iter().find(|tool| tool["name"] == "create_sandbox");
    let created = client.call("create_sandbox", &json!({}));
    let text = created["content"][0]["text"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), created["structuredContent"]);
    for name in promised.unwrap()["outputSchema"]["required"].as_array().unwrap() {
        assert_ne!(created["structuredContent"][name.as_str().unwrap()], Value::Null, "{name}");
    }
}

#[test]
fn a_file_is_read_by_lines() {
    let mut client = small(Script::default());
    client.world.file("a.txt", "one\ntwo\nthree\nfour é\nfive".as_bytes());
    client.world.file("empty", b"");
    client.world.file("long", "x".repeat(100).as_bytes());
    let mut read = |arguments: Value| client.text("read_file", &arguments);
    assert_eq!(read(json!({"path": "a.txt"})), "one\ntwo\nthree\nfour é\nfive");
    let part = read(json!({"path": "a.txt", "offset": 2, "limit": 2}));
    assert!(part.starts_with("two\nthree\n[lines 2 to 3 of "), "{part}");
    assert!(part.ends_with("(26 bytes): go on with offset 4]"), "{part}");
    assert_eq!(read(json!({"path": "a.txt", "offset": 5})), "five");
    assert!(read(json!({"path": "a.txt", "offset": 9})).ends_with("has no line 9]"));
    assert!(read(json!({"path": "empty"})).ends_with("is empty]"));
    let cut = read(json!({"path": "long"}));
    assert!(cut.starts_with(&format!("{}\n[line 1 is cut", "x".repeat(40))), "{cut}");
}

#[test]
fn a_result_ends_with_a_whole_line() {
    let mut client = small(Script::default());
    client.world.file("lines", "0123456789\n".repeat(9).as_bytes());
    let text = client.text("read_file", &json!({"path": "lines"}));
    assert!(text.starts_with(&format!("{}[lines 1 to 3 of ", "0123456789\n".repeat(3))), "{text}");
}

#[test]
fn a_binary_file_is_a_resource_and_a_picture_is_shown() {
    let mut client = client();
    client.world.file("a.bin", b"\x7fELF\0\0");
    client.world.file("a.png", b"\x89PNG\r\n\x1a\nrest");
    let refused = client.fail("read_file", &json!({"path": "a.bin"}));
    let uri = refused.rsplit(' ').next().unwrap();
    let read = client.request("resources/read", &json!({"uri": uri}));
    let content = &read["result"]["contents"][0];
    assert_eq!(content["blob"], STANDARD.encode(b"\x7fELF\0\0"), "{read}");
    let shown = client.call("read_file", &json!({"path": "a.png"}));
    assert_eq!(shown["content"][0]["mimeType"], "image/png");
    assert_eq!(shown["content"][0]["data"], STANDARD.encode(b"\x89PNG\r\n\x1a\nrest"));
}

#[test]
fn files_and_folders_of_sandboxes_are_resources() {
    let mut client = client();
    client.world.file("a b.txt", b"text");
    let id = client.call("create_sandbox", &json!({}))["structuredContent"]["sandbox_id"].clone();
    let listed = client.request("resources/list", &json!({}));
    let uri = listed["result"]["resources"][0]["uri"].as_str().unwrap().to_owned();
    assert_eq!(uri, format!("sandbox://{}/", id.as_str().unwrap()));
    let home = client.world.home.path().to_str().unwrap().to_owned();
    let folder = client.request("resources/read", &json!({"uri": uri.clone() + &home[1..]}));
    let text = folder["result"]["contents"][0]["text"].as_str().unwrap();
    assert!(text.contains("/a b.txt\n"), "{text}");
    let file =
        client.request("resources/read", &json!({"uri": format!("{uri}{}/a%20b.txt", &home[1..])}));
    assert_eq!(file["result"]["contents"][0]["text"], "text");
    let missing = client.request("resources/read", &json!({"uri": format!("{uri}missing")}));
    assert_eq!(missing["error"]["code"], -32002);
    let other = client.request("resources/read", &json!({"uri": "sandbox://other/etc/passwd"}));
    assert_eq!(other["error"]["code"], -32002);
}

#[test]
fn files_are_written_edited_and_listed() {
    let mut client = client();
    let home = client.world.home.path().to_owned();
    let written = client.text("write_file", &json!({"path": "new/a.txt", "content": "one two"}));
    assert_eq!(written, format!("wrote 7 bytes to {}/new/a.txt", home.display()));
    assert_eq!(std::fs::read_to_string(home.join("new/a.txt")).unwrap(), "one two");
    let bytes = json!({"path": "b.bin", "content": STANDARD.encode([0, 255]), "is_base64": true});
    client.text("write_file", &bytes);
    assert_eq!(std::fs::read(home.join("b.bin")).unwrap(), [0, 255]);
    let bad = json!({"path": "b.bin", "content": "?", "is_base64": true});
    assert!(client.fail("write_file", &bad).contains("not base64"));

    client.world.file("new/a.txt", b"one two");
    let edit = json!({"path": "new/a.txt", "old_text": "two", "new_text": "three"});
    assert!(client.text("edit_file", &edit).starts_with("replaced 1 place in "));
    assert_eq!(std::fs::read_to_string(home.join("new/a.txt")).unwrap(), "one three");
    let missing = json!({"path": "none", "old_text": "a", "new_text": "b"});
    assert!(client.fail("edit_file", &missing).contains("none"));

    let listed = client.text("list_files", &json!({"depth": 2}));
    let lines: Vec<_> = listed.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
    let home = home.display();
    assert_eq!(
        lines,
        [format!("{home}/b.bin"), format!("{home}/new/"), format!("{home}/new/a.txt")]
    );
    assert!(client.fail("list_files", &json!({"path": "missing"})).contains("missing"));
}

#[test]
fn a_port_is_published_on_the_loopback_interface_until_the_sandbox_ends() {
    let mut client = Client::ready(Script::default().listen(8000));
    let published = client.call("publish_port", &json!({"port": 8000}));
    let url = published["structuredContent"]["url"].as_str().unwrap().to_owned();
    assert_eq!(published["structuredContent"]["is_listening"], true);
    let again = client.call("publish_port", &json!({"port": 8000}));
    assert_eq!(again["structuredContent"]["url"], url.as_str());
    let address = url.strip_prefix("http://").unwrap().strip_suffix('/').unwrap();
    // The checks whether something listens have connected, too.
    let before = client.world.launcher.factory.record().connections.len();
    let mut browser = TcpStream::connect(address).unwrap();
    browser.write_all(b"GET").unwrap();
    let mut server = loop {
        if let Some((_, server)) = client.world.launcher.factory.record().connections.get(before) {
            break server.try_clone().unwrap();
        }
        std::thread::yield_now();
    };
    let mut got = [0; 3];
    server.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"GET");
    server.write_all(b"page").unwrap();
    client.world.launcher.factory.record().connections.clear();
    drop(server);
    let mut page = String::new();
    browser.read_to_string(&mut page).unwrap();
    assert_eq!(page, "page");

    let id = published["structuredContent"]["sandbox_id"].clone();
    client.text("end_sandbox", &json!({"sandbox_id": id}));
    while TcpStream::connect(address).is_ok() {
        std::thread::yield_now();
    }
}

#[test]
fn a_port_on_which_nothing_listens_is_published_with_a_note() {
    let mut client = Client::ready(Script::default());
    let published = client.call("publish_port", &json!({"port": 9}));
    assert_eq!(published["structuredContent"]["is_listening"], false);
    let note = published["content"][1]["text"].as_str().unwrap();
    assert!(note.contains("nothing listens on port 9 yet"), "{note}");
    let wrong = client.fail("publish_port", &json!({"port": 70000}));
    assert!(wrong.contains("from 1 to 65535"), "{wrong}");
}
