//! The protocol over pipes, against scripted sandboxes.

use std::time::Duration;

use sandbox::fake::{Manner, Script};
use serde_json::{Value, json};

use super::line::LONGEST;
use crate::options::Options;
use crate::testing::Client;

const SHELL: &str = "/bin/sh";

fn run(line: &str) -> Value {
    json!({"name": "run_command", "arguments": {"command": line}})
}

/// A client with a command that runs until it is ended.
fn held() -> Client {
    Client::ready(Script::default().hold(SHELL, Manner::Deaf))
}

/// Waits until a command runs.
fn wait_for_command(client: &Client) {
    let shell = |client: &Client| {
        client.world.launcher.factory.record().execs.iter().any(|exec| exec.argv[0] == SHELL)
    };
    while !shell(client) {
        std::thread::yield_now();
    }
}

#[test]
fn a_client_initializes_and_lists_tools() {
    let mut client = Client::start(Script::default());
    let reply = client.initialize();
    let hello = &reply["result"];
    assert_eq!(hello["protocolVersion"], "2025-11-25");
    assert_eq!(hello["serverInfo"]["name"], "sandbox-runner");
    assert_eq!(hello["capabilities"]["logging"], Value::Null);
    let tools = client.request("tools/list", &json!({}));
    let tools = tools["result"]["tools"].as_array().unwrap().clone();
    let names: Vec<_> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    let expected = [
        "run_command",
        "read_file",
        "write_file",
        "edit_file",
        "list_files",
        "publish_port",
        "create_sandbox",
        "list_sandboxes",
        "end_sandbox",
    ];
    assert_eq!(names, expected);
    assert!(tools.iter().all(|tool| tool["inputSchema"]["additionalProperties"] == false));
    assert!(tools[6]["description"].as_str().unwrap().contains("base (1 vCPUs"));
    assert_eq!(tools[1]["annotations"]["readOnlyHint"], true);
    assert_eq!(tools[8]["annotations"]["destructiveHint"], true);
}

#[test]
fn a_client_of_an_unknown_version_gets_the_newest_and_one_that_probes_an_error() {
    let mut client = Client::start(Script::default());
    let reply = client.request("server/discover", &json!({}));
    assert_eq!(reply["error"]["code"], -32601);
    let reply = client.request("initialize", &json!({"protocolVersion": "2026-07-28"}));
    assert_eq!(reply["result"]["protocolVersion"], "2025-11-25");
    let reply = client.request("initialize", &json!({"protocolVersion": "2025-11-25"}));
    assert_eq!(reply["error"]["code"], -32600);
}

#[test]
fn only_a_ping_comes_before_initialize() {
    let mut client = Client::start(Script::default());
    assert_eq!(client.request("ping", &json!({}))["result"], json!({}));
    let reply = client.request("tools/call", &run("ls"));
    assert_eq!(reply["error"]["code"], -32600);
    assert!(client.world.launcher.vms.lock().is_empty());
}

#[test]
fn what_is_no_message_is_answered_and_the_next_message_is_served() {
    let mut client = Client::ready(Script::default());
    let bad: [&[u8]; 4] =
        [b"{", b"\xff\xfe", b"[]", br#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#];
    for message in bad {
        client.send(message);
        let reply = client.next().unwrap();
        assert_eq!(reply["id"], Value::Null, "{reply}");
        assert!(reply["error"]["code"].as_i64().unwrap() <= -32600, "{reply}");
    }
    client.send("[".repeat(1 << 20).as_bytes());
    assert_eq!(client.next().unwrap()["error"]["code"], -32700);
    client.send(b"");
    assert_eq!(client.request("ping", &json!({}))["result"], json!({}));
}

#[test]
fn a_line_that_is_too_long_is_refused_in_bounded_memory() {
    let mut client = Client::ready(Script::default());
    client.send(&vec![b'a'; LONGEST + 1]);
    let reply = client.next().unwrap();
    assert_eq!(reply["error"]["code"], -32600);
    assert!(reply["error"]["message"].as_str().unwrap().contains("8388608 bytes"), "{reply}");
    assert_eq!(client.request("ping", &json!({}))["result"], json!({}));
}

#[test]
fn unknown_methods_tools_and_malformed_parameters_are_errors_of_the_protocol() {
    let mut client = Client::ready(Script::default());
    let mut code = |method: &str, params: Value| {
        client.request(method, &params)["error"]["code"].as_i64().unwrap()
    };
    assert_eq!(code("logging/setLevel", json!({"level": "info"})), -32601);
    assert_eq!(code("tools/call", json!({"name": "rm"})), -32602);
    assert_eq!(code("tools/call", json!({})), -32602);
    assert_eq!(code("tools/call", json!({"name": "read_file", "arguments": []})), -32602);
    let meta = json!({"name": "list_sandboxes", "_meta": {"progressToken": 1.5}});
    assert_eq!(code("tools/call", meta), -32602);
    assert_eq!(code("tools/list", json!({"cursor": "2"})), -32602);
    assert_eq!(code("resources/read", json!({"uri": "file:///etc/passwd"})), -32002);
    assert_eq!(code("prompts/get", json!({"name": "no"})), -32602);
}

#[test]
fn wrong_arguments_are_results_that_a_model_can_read() {
    let mut client = Client::ready(Script::default());
    let missing = client.fail("run_command", &json!({}));
    assert_eq!(missing, "the argument `command` is missing");
    let wrong = client.fail("run_command", &json!({"command": 1}));
    assert_eq!(wrong, "the argument `command` has to be a string");
    let unknown = client.fail("run_command", &json!({"command": "ls", "dir": "/"}));
    assert_eq!(unknown, "the tool has no argument `dir`");
    let zero = client.fail("run_command", &json!({"command": "ls", "timeout": 0}));
    assert!(zero.contains("above 0"), "{zero}");
    let long = client.fail("run_command", &json!({"command": "x".repeat(200_000)}));
    assert!(long.contains("write_file"), "{long}");
    let both = json!({"command": "x", "background": true, "timeout": 5});
    assert!(client.fail("run_command", &both).contains("neither"));
    assert!(client.world.launcher.vms.lock().is_empty());
}

#[test]
fn a_ping_and_other_calls_are_answered_while_a_command_runs() {
    let mut client = held();
    client.ask(&json!("slow"), "tools/call", &run("sleep"));
    wait_for_command(&client);

    assert_eq!(client.request("ping", &json!({}))["result"], json!({}));
    let listed = client.call("list_sandboxes", &json!({}));

    assert_eq!(listed["structuredContent"]["sandboxes"][0]["state"], "running");
}

#[test]
fn a_cancelled_call_has_no_reply_and_its_command_is_killed() {
    let mut client = held();
    client.ask(&json!(7), "tools/call", &run("sleep"));
    wait_for_command(&client);
    client.notify("notifications/cancelled", &json!({"requestId": "7"}));
    client.notify("notifications/cancelled", &json!({"requestId": 8}));
    client.notify("notifications/cancelled", &json!({"requestId": 7, "reason": "no"}));

    // A held command would keep this sandbox's end; the id can be used again once the call has ended.
    let id = loop {
        client.ask(&json!(7), "tools/call", &json!({"name": "list_sandboxes"}));
        let reply = client.next().unwrap();
        if reply["error"] == Value::Null {
            break reply["result"]["structuredContent"]["sandboxes"][0]["sandbox_id"].clone();
        }
        assert!(reply["error"]["message"].as_str().unwrap().contains("this id"), "{reply}");
    };
    let found = client.world.sandboxes.find(id.as_str().unwrap()).unwrap();
    while !found.processes().list().is_empty() {
        std::thread::yield_now();
    }
}

#[test]
fn reports_of_progress_come_with_a_token_only() {
    let mut client = held();
    let mut call = run("make");
    call["_meta"] = json!({"progressToken": "p"});
    client.ask(&json!(1), "tools/call", &call);
    let starting = client.next().unwrap();
    assert_eq!(starting["params"]["message"], "starting the sandbox");
    wait_for_command(&client);
    let vm = client.world.launcher.vms.lock()[0];
    client.world.launcher.factory.print(vm, "compiling é\n".as_bytes());
    let progress = client.next().unwrap();
    assert_eq!(progress["method"], "notifications/progress");
    let expected = json!({"progressToken": "p", "progress": 2, "message": "compiling é"});
    assert_eq!(progress["params"], expected);

    client.world.launcher.factory.unplug(vm);

    let reply = client.next().unwrap();
    let text = reply["result"]["content"][0]["text"].as_str().unwrap();
    assert_eq!(text, "compiling é\n[ended by a signal: killed]");
}

#[test]
fn the_end_of_the_input_ends_commands_and_sandboxes() {
    let mut client = held();
    client.ask(&json!(1), "tools/call", &run("sleep"));
    wait_for_command(&client);

    client.close();

    assert_eq!(client.next(), None);
    assert_eq!(client.world.launcher.factory.record().ended, 1);
}

#[test]
fn a_stop_ends_a_server_whose_client_reads_nothing() {
    let mut client = held();
    client.ask(&json!(1), "tools/call", &run("sleep"));
    wait_for_command(&client);

    client.stop.set();
    client.join();

    assert_eq!(client.world.launcher.factory.record().ended, 1);
}

#[test]
fn a_request_whose_id_is_in_use_is_refused() {
    let mut client = held();
    client.ask(&json!(5), "tools/call", &run("sleep"));
    wait_for_command(&client);
    client.ask(&json!(5), "tools/call", &run("sleep"));
    let reply = client.next().unwrap();
    assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(5), &json!(-32600)));
}

#[test]
fn calls_beyond_the_limit_are_refused_and_the_others_wait_for_a_thread() {
    let mut client = held();
    let most = super::pool::MOST_CALLS;
    for id in 0..=most {
        client.ask(&json!(id), "tools/call", &run("sleep"));
    }
    let reply = client.next().unwrap();
    assert_eq!(reply["id"], most);
    assert!(reply["error"]["message"].as_str().unwrap().contains("256 calls"), "{reply}");
    client.close();
    assert_eq!(client.world.launcher.vms.lock().len(), 1, "calls share a sandbox");
}

#[test]
fn a_session_without_a_template_says_how_to_make_one() {
    let options = Options { template: Some("missing".into()), ..Options::default() };
    let mut client = Client::with(Script::default(), options);
    client.initialize();
    let text = client.fail("run_command", &json!({"command": "ls"}));
    assert!(text.contains("template `missing` does not exist"), "{text}");
    // The right to create it was passed on.
    let again = client.fail("run_command", &json!({"command": "ls"}));
    assert_eq!(again, text);
}

#[test]
fn a_sandbox_is_kept_for_its_time_from_the_last_call() {
    let options = Options { timeout: Some(Duration::from_secs(50)), ..Options::default() };
    let mut client = Client::with(Script::default().on(SHELL, &["x"], 0), options);
    client.initialize();
    let created = client.call("create_sandbox", &json!({}));
    let id = created["structuredContent"]["sandbox_id"].as_str().unwrap().to_owned();
    let end = |client: &Client| client.world.sandboxes.find(&id).unwrap().status().end_at;
    let before = end(&client);
    client.text("run_command", &json!({"command": "x", "sandbox_id": id, "timeout": 600}));
    assert!(end(&client) > before + Duration::from_secs(500));
}
