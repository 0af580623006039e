//! guest-agent's masking, and its delivery of a flood of events: see README.md beside this file.
//!
//! The flood comes from this program again, started as the CLI; the platform is a server of this
//! process; the agent is the built program, whose memory the kernel tells.

#![allow(clippy::unwrap_used, reason = "a benchmark that fails has no result")]

use std::fs;
use std::io::{BufWriter, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use guest_test::FakePlatform;
use mask::{Masker, Stream};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How many events the flood has, the first and the last included.
const EVENTS: u64 = 10_000;

/// How many secrets there are.
const SECRETS: u64 = 100;

/// How much text is masked.
const TEXT: usize = 64 << 20;

fn main() {
    if std::env::args().any(|argument| argument == "--print") {
        return flood();
    }
    mask();
    deliver();
}

fn secrets() -> impl Iterator<Item = String> {
    (1..=SECRETS)
        .map(|number| format!("sk-{:032x}", u128::from(number).wrapping_mul(u128::MAX / 997)))
}

/// An event as an agent's are, with a secret in some.
fn event(number: u64, secrets: &[String]) -> String {
    let secret = match number % 1000 {
        0 => secrets[number as usize / 1000 % secrets.len()].as_str(),
        _ => "nothing",
    };
    format!(
        r#"{{"type":"assistant","message":{{"role":"assistant","content":[{{"type":"text","text":"Line {number} of /home/user/workspace/src/lib.rs has {secret} in it, {:x}."}}]}},"session_id":"s1"}}"#,
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    )
}

fn mask() {
    let secrets: Vec<_> = secrets().collect();
    let masker = Masker::new(&secrets).unwrap();
    let mut text = String::new();
    for number in 0.. {
        text.push_str(&event(number, &secrets));
        text.push('\n');
        if text.len() > TEXT {
            break;
        }
    }
    let rate = |elapsed: Duration| text.len() as f64 / 1e6 / elapsed.as_secs_f64();
    let began = Instant::now();
    let mut masked = 0;
    for line in text.lines() {
        masked += usize::from(masker.mask(line).len() != line.len());
    }
    println!(
        "masking by lines, {SECRETS} secrets: {:.0} MB/s ({masked} lines)",
        rate(began.elapsed())
    );
    let (mut stream, mut out) = (Stream::new(&masker), Vec::new());
    let began = Instant::now();
    for piece in text.as_bytes().chunks(64 << 10) {
        out.clear();
        stream.push(piece, &mut out);
    }
    println!("masking a stream, {SECRETS} secrets: {:.0} MB/s", rate(began.elapsed()));
}

/// This program as the CLI.
fn flood() {
    let secrets: Vec<_> = secrets().collect();
    let mut out = BufWriter::new(std::io::stdout().lock());
    writeln!(out, r#"{{"type":"system","subtype":"init","session_id":"s1"}}"#).unwrap();
    for number in 1..EVENTS - 1 {
        writeln!(out, "{}", event(number, &secrets)).unwrap();
    }
    writeln!(out, r#"{{"type":"result","is_error":true,"result":"no checkpoint, please"}}"#)
        .unwrap();
    out.flush().unwrap();
    std::process::exit(3);
}

fn deliver() {
    use base64::Engine as _;
    let platform = FakePlatform::start();
    let home = tempfile::tempdir().unwrap();
    let encoded = secrets().map(|text| base64::engine::general_purpose::STANDARD.encode(text));
    let agent = std::env::var_os("GUEST_AGENT").unwrap_or(env!("CARGO_BIN_EXE_guest-agent").into());
    let mut agent = Command::new(agent)
        .env_clear()
        .env("HOME", home.path())
        .env("VM0_WORKING_DIR", home.path())
        .env("VM0_API_URL", platform.server.url())
        .env("VM0_API_TOKEN", "token-of-the-run")
        .env("VM0_RUN_ID", "run")
        .env("VM0_PROMPT", "flood")
        .env("VM0_SECRET_VALUES", encoded.collect::<Vec<_>>().join(","))
        .env("USE_MOCK_CLAUDE", "true")
        .env("VM0_MOCK_CLAUDE_PATH", std::env::current_exe().unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // From the first heartbeat on: the start of the CLI counts, that of the agent does not.
    platform.server.wait_for(|requests| !requests.is_empty());
    let began = Instant::now();
    platform.server.wait_for(|requests| {
        let last = requests.iter().rev().find(|one| one.path.ends_with("/events"));
        last.is_some_and(|last| {
            let number = format!("\"sequenceNumber\":{},", EVENTS - 1);
            String::from_utf8_lossy(&last.body).contains(&number)
        })
    });
    let elapsed = began.elapsed();
    // What the kernel remembers of a process is gone when it has been waited for.
    kill(Pid::from_raw(agent.id() as i32), Signal::SIGSTOP).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", agent.id())).unwrap();
    kill(Pid::from_raw(agent.id() as i32), Signal::SIGCONT).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: f64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    agent.wait().unwrap();
    assert!(platform.sequences().into_iter().eq(0..EVENTS));
    println!(
        "{EVENTS} events delivered: {:.0}/s, agent's VmHWM {:.1} MiB",
        EVENTS as f64 / elapsed.as_secs_f64(),
        kib / 1024.0
    );
}
