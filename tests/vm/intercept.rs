//! VMs all of whose traffic goes through the proxy.

use std::fs;
use std::path::Path;
use std::process::Command;

use guest_test::{Reply, Request, archive};
use serde_json::Value;

use crate::host::Host;
use crate::internet::{Internet, pass_on};
use crate::model::{Model, bash, say};
use crate::runner::{Runner, Running, text};

const API: &str = "api.anthropic.com";
const GIT: &str = "git.example.com";
const EVIL: &str = "evil.example.com";
const HOSTS: [&str; 3] = [API, GIT, EVIL];
const KEY: &str = "sk-ant-the-real-key";

fn hello(_: &Request) -> Reply {
    Reply::bytes(*b"hello\n")
}

/// What is on record, by lines.
fn record(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs a script in the image for agents, with its network intercepted as a policy says.
fn run(runner: &Runner, internet: &Internet, policy: &str, script: &str) -> (String, Vec<Value>) {
    let (file, log) = (runner.state().join("policy.toml"), runner.state().join("network.jsonl"));
    fs::write(&file, policy).unwrap();
    let network = format!("intercept={}", file.display());
    let mut command = runner.command(&["run", "--image", "claude", "--user", "user"]);
    command.args(["--network", &network, "--secret", "KEY", "--for", API, "--network-record"]);
    command.arg(&log).args(["--", "bash", "-c", script]);
    let (name, value) = internet.variable();
    let output = command.env(name, value).env("KEY", KEY).output().unwrap();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    (text(&output.stdout), record(&log))
}

#[test]
#[ignore = "needs root, QEMU, mitmproxy and the image `claude`"]
fn every_program_trusts_the_proxy_and_sends_a_key_by_its_placeholder() {
    let runner = Runner::new();
    let internet = Internet::serve(&runner, &HOSTS, hello);
    // After the test's own name servers are mounted.
    let before = Host::look(runner.state());
    let python = format!(
        "import os,urllib.request as u; \
         print(u.urlopen(u.Request('https://{API}/python',headers={{'x-key':os.environ['KEY']}})).read())"
    );
    let node = format!(
        "fetch('https://{API}/node',{{headers:{{'x-key':process.env.KEY}}}})\
         .then(r=>r.text()).then(console.log)"
    );
    // Python once more without a word of where certificates are.
    let script = format!(
        "curl -sS -H \"x-key: $KEY\" https://{API}/curl; python3 -c \"{python}\" \
         && env -u SSL_CERT_FILE python3 -c \"{python}\" && node -e \"{node}\"; \
         ! grep -r {KEY} /proc/self/environ /run /home 2>/dev/null && echo \"$KEY\""
    );

    let (output, record) = run(&runner, &internet, "", &script);

    assert_eq!(output.matches("hello").count(), 4, "{output}");
    assert!(output.lines().last().unwrap().starts_with("placeholder-"), "{output}");
    let requests = internet.https.requests();
    assert_eq!(requests.len(), 4);
    assert!(requests.iter().all(|request| request.header("x-key") == Some(KEY)));
    let https = record.iter().filter(|entry| entry["type"] == "http");
    assert_eq!(https.filter(|entry| entry["auth_resolved_secrets"][0] == "KEY").count(), 4);
    assert!(!serde_json::to_string(&record).unwrap().contains(KEY));
    drop(internet);
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root, QEMU, mitmproxy and the image `claude`"]
fn a_repository_is_cloned_and_nothing_else_is_reached() {
    let runner = Runner::new();
    let repository = runner.state().join("repository.git");
    let git = |arguments: &[&str]| {
        let identity = ["-c", "user.name=x", "-c", "user.email=x@x"];
        let status = Command::new("git").args(identity).args(arguments).status().unwrap();
        assert!(status.success());
    };
    let (work, bare) = (runner.state().join("work"), repository.to_str().unwrap().to_owned());
    git(&["init", "-q", work.to_str().unwrap()]);
    git(&["-C", work.to_str().unwrap(), "commit", "-q", "--allow-empty", "-m", "cloned"]);
    git(&["clone", "-q", "--bare", work.to_str().unwrap(), &bare]);
    git(&["-C", &bare, "update-server-info"]);
    let internet = Internet::serve(&runner, &HOSTS, move |request| {
        let path = request.target().trim_start_matches("/repository.git/").to_owned();
        fs::read(repository.join(path)).map_or_else(|_| Reply::status(404), Reply::bytes)
    });
    let policy =
        format!("[[api]]\nbase = \"https://{GIT}/repository.git\"\nallow = [\"GET /{{all+}}\"]\n");
    // Other names, addresses, ports, protocols; another host's name in front of an allowed one.
    let script = format!(
        "git clone -q https://{GIT}/repository.git clone && git -C clone log --format=%s; \
         curl -sS https://{EVIL}/; curl -sS -o /dev/null -w '%{{http_code}}\\n' http://{EVIL}/; \
         curl -sS -o /dev/null -w '%{{http_code}}\\n' -X DELETE https://{GIT}/repository.git/x; \
         curl -sS -o /dev/null -w '%{{http_code}}\\n' -H 'Host: {EVIL}' https://{GIT}/; \
         curl -sSk -o /dev/null -w '%{{http_code}}\\n' https://100.0.0.2/; \
         curl -sS -m 5 telnet://100.0.0.2:22 </dev/null; echo x >/dev/udp/100.0.0.2/443; true"
    );

    let (output, record) = run(&runner, &internet, &policy, &script);

    let expected =
        format!("cloned\nsandbox-runner: refused: {EVIL} is unknown\n403\n403\n403\n403\n");
    assert_eq!(output, expected);
    let denied = |kind: &str| {
        let is_it = |entry: &&Value| entry["type"] == kind && entry["action"] == "DENY";
        record.iter().filter(is_it).count()
    };
    assert_eq!(denied("http"), 5, "{record:#?}");
    assert!(denied("dns") >= 1 && denied("udp") == 1, "{record:#?}");
    assert!(!internet.questions().iter().any(|name| name == EVIL));
}

#[test]
#[ignore = "needs root, QEMU, mitmproxy and the image `claude`"]
fn claude_code_uses_its_api_with_a_placeholder_of_the_key() {
    let runner = Runner::new();
    let command = "env | grep -c the-real-key; echo made > made; cat made";
    let model = Model::serve(&runner.world, vec![vec![bash(command)], vec![say("all done")]]);
    let address = model.address();
    let internet = Internet::serve(&runner, &HOSTS, move |request| pass_on(request, address));
    let log = runner.state().join("network.jsonl");
    let mut run = runner.command(&["run", "--image", "claude", "--user", "user"]);
    run.args(["--network", "intercept", "--secret", "ANTHROPIC_API_KEY", "--for", API]);
    run.args(["--env", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1", "--network-record"]);
    run.arg(&log).args(["--workdir", "/home/user/workspace", "--", "claude", "--print"]);
    run.args(["--dangerously-skip-permissions", "make it"]);
    let (name, value) = internet.variable();

    let output = run.env(name, value).env("ANTHROPIC_API_KEY", KEY).output().unwrap();

    assert_eq!(text(&output.stdout), "all done\n", "{}", text(&output.stderr));
    let questions = model.questions();
    assert_eq!(questions.len(), 2);
    assert!(questions.iter().all(|question| question.key.as_deref() == Some(KEY)));
    let results = questions[1].body["messages"].to_string();
    assert!(results.contains("0\\nmade"), "{results}");
    let record = record(&log);
    assert!(record.iter().any(|entry| entry["url"] == format!("https://{API}/v1/messages")));
    assert!(!serde_json::to_string(&record).unwrap().contains(KEY));
}

#[test]
#[ignore = "needs root, QEMU, mitmproxy and the image `claude`"]
fn a_job_uses_a_placeholder_of_a_key_and_its_requests_are_logged() {
    let runner = Runner::new();
    let command = "env | grep -c the-real-key; curl -sS https://evil.example.com/";
    let model = Model::serve(&runner.world, vec![vec![bash(command)], vec![say("all done")]]);
    let address = model.address();
    let internet = Internet::serve(&runner, &HOSTS, move |request| pass_on(request, address));
    fs::write(runner.state().join("policy.toml"), "").unwrap();
    let config = "[profiles.default]\nimage = \"claude\"\nnetwork = \"intercept=policy.toml\"\n";
    let mut service = serve_trusting(&runner, config, internet.variable());
    let submit = ["job", "submit", "--prompt", "make it", "--secret", "ANTHROPIC_API_KEY"];
    let submitted = runner
        .command(&[&submit[..], &["--for", API]].concat())
        .env("ANTHROPIC_API_KEY", KEY)
        .output()
        .unwrap();
    let job = text(&submitted.stdout).trim().to_owned();

    let waited = runner.run(&["job", "wait", &job]);

    assert!(waited.status.success(), "{}{}", text(&waited.stdout), text(&waited.stderr));
    let questions = model.questions();
    assert_eq!(questions.len(), 2);
    assert!(questions.iter().all(|question| question.key.as_deref() == Some(KEY)));
    let results = questions[1].body["messages"].to_string();
    assert!(results.contains("evil.example.com is unknown"), "{results}");
    let followed = runner.succeed(&["job", "network", "--follow", "--json", &job]);
    let table = runner.succeed(&["job", "network", &job]);
    assert!(table.contains("https://api.anthropic.com/v1/messages"), "{table}");
    assert!(table.contains("DENY   GET        403"), "{table}");
    // What the guest still sends until its VM is gone comes later.
    assert!(!followed.contains(KEY) && followed.lines().count() < table.lines().count());
    service.signal(libc::SIGTERM);
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
}

/// Starts the service, which trusts the test's internet.
fn serve_trusting(runner: &Runner, config: &str, (name, value): (&str, &Path)) -> Running {
    let path = runner.state().join("runner.toml");
    fs::write(&path, config).unwrap();
    let mut command = runner.service(&["start", "--local", "--config", path.to_str().unwrap()]);
    command.env(name, value);
    Running::ready(command)
}

#[test]
#[ignore = "needs root, QEMU, mitmproxy and the image `claude`"]
fn the_guests_own_programs_trust_the_proxy() {
    let runner = Runner::new();
    let file = archive::Entry::File("made", b"by download\n", 0o644);
    let packed = archive::tar_gz(&[file]);
    let internet = Internet::serve(&runner, &HOSTS, move |_| Reply::bytes(packed.clone()));
    // The host that the secret is for is looked into.
    let manifest = format!(
        "{{\"storages\":[{{\"mountPath\":\"/home/user/got\",\"archiveUrl\":\"https://{API}/x\"}}]}}"
    );
    let script =
        format!("echo '{manifest}' | guest-download --manifest-stdin && cat /home/user/got/made");

    let (output, record) = run(&runner, &internet, "", &script);

    assert_eq!(output, "by download\n");
    assert_eq!(record.iter().filter(|entry| entry["status"] == 200).count(), 1, "{record:#?}");
}

#[test]
#[ignore = "needs root, QEMU, mitmproxy and an image"]
fn an_idle_guest_makes_no_entry_in_the_network_log() {
    let runner = Runner::new();
    let log = runner.state().join("network.jsonl");
    let mut command = runner.command(&["run", "--network", "intercept", "--network-record"]);
    let script = "cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6; cut -c1-40,45- /proc/net/if_inet6";
    command.arg(&log).args(["--", "sh", "-c", script]);

    let output = command.output().unwrap();

    assert!(output.status.success(), "{}", text(&output.stderr));
    // The card has none, and the loopback device has `::1`.
    let printed = text(&output.stdout);
    let lines: Vec<_> = printed.lines().collect();
    assert!(lines.len() == 2 && lines[0] == "1" && lines[1].ends_with("lo"), "{printed}");
    assert_eq!(record(&log), Vec::<Value>::new());
}
