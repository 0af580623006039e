//! The server is what it says: Ably's own client takes it for Ably.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::server::{Server, installed};

#[test]
fn ablys_own_client_works_with_the_test_server() {
    let server = Server::start();
    let mut client = Command::new("node")
        .arg(installed().join("client.js"))
        .arg(server.port.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut expect = |expected: &str| assert_eq!(lines.next().unwrap().unwrap(), expected);

    expect("attached false");
    server.publish(json!([{ "name": "a", "data": { "x": 1 } }]));
    expect(r#"message a {"x":1}"#);
    server.drop_all("destroy");
    server.say("b");
    expect("attached true");
    expect("message b undefined");
    server.send(json!({ "action": 17 }));
    server.wait("auth", 1);
    server.send(json!({ "action": 13, "channel": "jobs" }));
    expect("attached true");
    server.say("end");
    expect("message end undefined");

    client.wait().unwrap();
}
