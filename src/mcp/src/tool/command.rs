//! Commands: with their output as it comes, or in the background.

mod follow;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::error::chain;
use base::event::Event;
use sandbox_api::Login;
use sandbox_api::process::{Command, Ending, Process, StartRequest, Subscription};
use serde_json::json;

use self::follow::Foreground;

use super::definition::{Effect, Output, Tool};
use super::schema;
use crate::argument::{Arguments, needed};
use crate::call::{Call, Entered};
use crate::failure::{Failure, Result};

pub(super) const RUN: Tool = Tool {
    name: "run_command",
    title: "Run a command",
    description: |context| {
        let (seconds, most) =
            (context.options.command_timeout.as_secs(), context.options.max_result);
        format!(
            "Runs a command line with bash (sh where there is no bash) in a sandbox. Returns its output (standard output \
             and error as they came) and its exit code. Output of more than {most} bytes is cut in the middle; all of it \
             is then in a file of the sandbox, which the result names. A command is killed after `timeout` seconds \
             ({seconds} unless given); what it started with & lives on. With `background` it runs on: the result has its \
             process id and the file with its output."
        )
    },
    input: |context| {
        let most = context.sandboxes.settings().max_timeout.as_secs();
        let env = json!({
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "Environment variables beside those of the sandbox.",
        });
        let properties = json!({
            "command": schema::string("The command line."),
            "cwd": schema::path("Where it starts; the user's home unless given."),
            "timeout": schema::seconds("After how many seconds it is killed.", most),
            "background": schema::flag("Whether it runs on after the result: for servers."),
            "stdin": schema::string("Its standard input; empty unless given."),
            "env": env,
            "user": schema::user(),
            "sandbox_id": schema::sandbox(),
        });
        (properties, &["command"])
    },
    output: None,
    effect: Effect::Anything,
    run,
};

/// The longest command line: what Linux takes as one argument, less some room.
const LONGEST: usize = 120 << 10;

/// A login shell runs the command line, for the PATH that its user knows.
const SHELL: &str =
    r#"if [ -x /bin/bash ]; then exec /bin/bash -l -c "$1"; fi; exec /bin/sh -l -c "$1""#;

/// The same with the output in a file that has the process id in its name.
const BACKGROUND: &str = r#"exec >"/tmp/command-$$.log" 2>&1; "#;

/// How long a command may take for its standard input.
const INPUT: Duration = Duration::from_secs(24 * 60 * 60);

/// How much longer a sandbox stays than its command may run.
const MARGIN: Duration = Duration::from_secs(60);

/// What a command line was asked for with.
struct Asked {
    line: String,
    cwd: Option<String>,
    env: BTreeMap<String, String>,
    stdin: Option<String>,
    user: Option<String>,
}

fn run(call: &Call<'_>, mut arguments: Arguments) -> Result<Output> {
    let asked = Asked {
        line: needed("command", arguments.text("command")?)?,
        cwd: arguments.name("cwd")?,
        env: arguments.env("env")?,
        stdin: arguments.text("stdin")?,
        user: arguments.name("user")?,
    };
    let timeout = arguments.seconds("timeout", call.sandboxes().settings().max_timeout)?;
    let is_background = arguments.flag("background")?;
    let sandbox = arguments.sandbox()?;
    arguments.finish()?;
    if asked.line.trim().is_empty() || asked.line.contains('\0') {
        return Err(Failure::new("the argument `command` is empty or has a zero byte"));
    }
    if asked.line.len() > LONGEST {
        let text = format!(
            "the argument `command` has over {LONGEST} bytes: put it into a file with write_file"
        );
        return Err(Failure::new(text));
    }
    if is_background && (timeout.is_some() || asked.stdin.is_some()) {
        return Err(Failure::new("a command with `background` has neither `timeout` nor `stdin`"));
    }
    let timeout = timeout.unwrap_or(call.options().command_timeout);
    let entered = call.enter(sandbox.as_deref(), timeout + MARGIN)?;
    let login = entered.login(call, asked.user.as_deref())?;
    if is_background {
        return background(call, &entered, &login, asked);
    }
    let stdin = asked.stdin.clone();
    let how = How { script: SHELL.to_owned(), timeout: Some(timeout), outlives: false };
    let subscription = start(call, &entered, &login, asked, how)?;
    let Entered { sandbox, running } = entered;
    let closed = Arc::clone(running.closed());
    // From here on the sandbox may be paused or ended.
    drop(running);
    let (account, log) = (login.account().clone(), log(subscription.process().pid()));
    let process = subscription.process();
    let feed_until = Arc::clone(&closed);
    let command = Foreground { call, subscription: &subscription, sandbox: &sandbox, closed, log };
    let (text, ending) = match stdin {
        Some(stdin) => feed(process, &stdin, &feed_until, || command.follow(account))?,
        None => command.follow(account)?,
    };
    result(&text, &ending, timeout, sandbox.id())
}

/// How a command line is run.
struct How {
    script: String,
    timeout: Option<Duration>,
    outlives: bool,
}

fn start(
    call: &Call<'_>,
    entered: &Entered,
    login: &Login,
    asked: Asked,
    how: How,
) -> Result<Subscription> {
    call.check()?;
    let cwd = asked.cwd.as_deref().and_then(|cwd| login.path(cwd));
    let command = Command {
        program: "/bin/sh".to_owned(),
        arguments: vec!["-c".to_owned(), how.script, "sh".to_owned(), asked.line],
        env: asked.env,
        cwd: asked.cwd,
    };
    let request = StartRequest {
        env: entered.sandbox.environment(&command.env),
        cwd,
        user: login.user().cloned(),
        stdin: asked.stdin.is_some(),
        timeout: how.timeout,
        follows_descendants: how.outlives,
        command,
        ..StartRequest::default()
    };
    let started = entered.sandbox.processes().start(&*entered.running, request, call.deadline());
    started.map_err(|error| Failure::new(format!("cannot run the command: {}", chain(&error))))
}

/// Starts a command that stays.
fn background(call: &Call<'_>, entered: &Entered, login: &Login, asked: Asked) -> Result<Output> {
    let how = How { script: format!("{BACKGROUND}{SHELL}"), timeout: None, outlives: true };
    let subscription = start(call, entered, login, asked, how)?;
    let (pid, id) = (subscription.process().pid(), entered.sandbox.id());
    let mut output = Output::text(format!(
        "[started in the background as process {pid} of sandbox {id}; its output goes to {log}: read it with read_file. \
         `kill {pid}` ends it]",
        log = log(pid)
    ));
    output.meta = Some(json!({"sandbox_id": id, "pid": pid, "log": log(pid)}));
    Ok(output)
}

/// Where all of a command's output is, if the result has not all of it.
fn log(pid: u32) -> String {
    format!("/tmp/command-{pid}.log")
}

/// Writes a command's standard input while `follow` takes its output: it may write before it reads. The end of the
/// sandbox's run, `closed`, ends both.
fn feed<T: Send>(
    process: &Process,
    stdin: &str,
    closed: &Arc<Event>,
    follow: impl FnOnce() -> Result<T>,
) -> Result<T> {
    std::thread::scope(|scope| {
        let write = || {
            let deadline = Instant::now() + INPUT;
            // A command need not read its input.
            let _ = process.write_stdin(stdin.as_bytes(), closed, deadline);
            let _ = process.close_stdin();
        };
        let thread = base::thread::spawn_scoped(scope, "mcp-stdin", write);
        thread
            .map_err(|error| Failure::new(format!("cannot write the standard input: {error}")))?;
        follow()
    })
}

fn result(text: &str, ending: &Ending, timeout: Duration, sandbox: &str) -> Result<Output> {
    let end = match ending {
        Ending::Exited(code) => format!("exit code {code}"),
        Ending::Signalled { .. } => format!("ended by a {}", ending.status()),
        Ending::TimedOut => format!(
            "killed after {} s: give it a longer `timeout`, or run it with `background`",
            timeout.as_secs_f64()
        ),
        Ending::Lost => {
            format!("lost: sandbox {sandbox} was ended or paused while the command ran")
        }
    };
    let output = match text {
        "" => "[no output]\n".to_owned(),
        text if text.ends_with('\n') => text.to_owned(),
        text => format!("{text}\n"),
    };
    let mut output = Output::text(format!("{output}[{end}]"));
    output.is_error = matches!(ending, Ending::TimedOut | Ending::Lost);
    let code = match ending {
        Ending::Exited(code) => json!(code),
        _ => json!(null),
    };
    output.meta = Some(json!({"sandbox_id": sandbox, "exit_code": code}));
    Ok(output)
}
