//! The image `claude`, and the real Claude Code CLI in it, with a scripted model.

use serde_json::Value;

use crate::host::Host;
use crate::model::{Model, bash, say};
use crate::runner::{Runner, text};

const KEY: &str = "sk-ant-scripted";

/// A run of the runner in the image, as jobs are run.
fn in_image<'a>(flags: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    [&["run", "--image", "claude"][..], flags, &["--"], command].concat()
}

/// Flags that make the CLI connect to the model at `address` only.
fn asking(address: &str) -> [&str; 6] {
    const QUIET: &str = "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1";
    ["--env", address, "--env", "ANTHROPIC_API_KEY=sk-ant-scripted", "--env", QUIET]
}

/// The CLI's flags for a run without a user.
const CLAUDE: &[&str] = &[
    "claude",
    "--print",
    "--verbose",
    "--output-format",
    "stream-json",
    "--dangerously-skip-permissions",
];

fn events(output: &str) -> Vec<Value> {
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The kinds of the events, tools' results apart from other messages.
fn kinds(events: &[Value]) -> Vec<&str> {
    let kind = |event: &Value| match event["message"]["content"][0]["type"].as_str() {
        Some("tool_use") => "call",
        Some("tool_result") => "result of a call",
        Some("text") => "text",
        _ if event["type"] == "result" => "result",
        _ if event["subtype"] == "init" => "init",
        _ => "other",
    };
    events.iter().map(kind).filter(|kind| *kind != "other").collect()
}

#[test]
#[ignore = "needs root, QEMU and the image `claude`"]
fn the_image_has_the_tools_of_agents_for_its_user() {
    let runner = Runner::new();
    let script = "claude --version && git --version && rg --version && node --version \
        && python3 --version && test -s /etc/ssl/certs/ca-certificates.crt && id -un && echo $HOME && pwd";

    let output = runner.succeed(&in_image(&[], &["sh", "-c", script]));

    assert!(output.contains("(Claude Code)"), "{output}");
    assert!(output.ends_with("\nuser\n/home/user\n/home/user/workspace\n"), "{output}");
}

#[test]
#[ignore = "needs root, QEMU and the image `claude`"]
fn the_cli_runs_a_command_for_its_model_and_prints_events() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let command = "uname -r; pwd; echo \"it's $((6*7))\" > made; cat made";
    let model = Model::serve(&runner.world, vec![vec![bash(command)], vec![say("all done")]]);

    let address = model.variable();
    let arguments = [CLAUDE, &["make it"]].concat();
    let output = runner.run(&in_image(&asking(&address), &arguments));

    let stdout = text(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", text(&output.stderr));
    let events = events(&stdout);
    assert_eq!(kinds(&events), ["init", "call", "result of a call", "text", "result"], "{stdout}");
    let result = events.iter().find_map(|event| {
        let content = &event["message"]["content"][0];
        (content["type"] == "tool_result").then(|| content["content"].as_str())
    });
    let result = result.unwrap().unwrap();
    assert!(result.ends_with("/home/user/workspace\nit's 42"), "{result}");
    let last = events.last().unwrap();
    assert_eq!((&last["subtype"], &last["result"]), (&"success".into(), &"all done".into()));
    let questions = model.questions();
    assert_eq!(questions.len(), 2);
    assert!(questions.iter().all(|question| question.key.as_deref() == Some(KEY)));
    drop(model);
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root, QEMU and the image `claude`"]
fn the_cli_resumes_a_session() {
    let runner = Runner::new();
    let script = vec![
        vec![say("let me see"), bash("echo one >> log")],
        vec![bash("echo two >> log")],
        vec![bash("echo three >> log")],
        vec![say("three lines")],
        vec![bash("echo four >> log")],
        vec![say("four lines")],
    ];
    let model = Model::serve(&runner.world, script);
    let claude = "claude --print --dangerously-skip-permissions";
    let commands = format!("{claude} begin && {claude} --continue 'go on' && cat log");

    let address = model.variable();
    let output = runner.succeed(&in_image(&asking(&address), &["sh", "-c", &commands]));

    assert_eq!(output, "three lines\nfour lines\none\ntwo\nthree\nfour\n");
    assert_eq!(model.questions().len(), 6);
}
