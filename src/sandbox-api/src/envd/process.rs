//! The service `process.Process`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base::event::Event;
use connect_rpc::{Code, EnvelopeReader, Error, STREAMING};
use http_server::Response;
use serde_json::json;

use super::call::{Answer, Call, Kind, LARGEST_MESSAGE, process_error, reply};
use super::follow::{Follower, OnTimeout};
use super::message::{Input, InputPart, OnProcess, Start, invalid};
use crate::account::Login;
use crate::process::{Command, Process, StartRequest};

/// How long the client of an input stream may be silent.
const SILENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the process may take none of the input of a stream.
const INPUT: Duration = Duration::from_secs(60 * 60);

pub(super) fn find(path: &str) -> Option<(Kind, Answer)> {
    let answer: (Kind, Answer) = match path.strip_prefix("/process.Process/")? {
        "Start" => (Kind::Stream, start),
        "Connect" => (Kind::Stream, connect),
        "StreamInput" => (Kind::Stream, stream_input),
        "List" => (Kind::Unary, list),
        "SendInput" => (Kind::Unary, send_input),
        "CloseStdin" => (Kind::Unary, close_stdin),
        "SendSignal" => (Kind::Unary, send_signal),
        "Update" => (Kind::Unary, update),
        _ => return None,
    };
    Some(answer)
}

fn start(call: &mut Call<'_, '_>) -> Result<Response, Error> {
    let message: Start = call.first()?;
    let config = message.process.ok_or_else(|| invalid("the request names no process"))?;
    let (timeout, login) = (call.timeout()?, call.login()?);
    let request = StartRequest {
        env: call.sandbox.environment(&config.envs),
        cwd: cwd(&login, config.cwd.as_deref())?,
        user: login.user,
        pty: message.pty.map(|pty| pty.size()).transpose()?,
        stdin: message.stdin.unwrap_or(true),
        tag: message.tag,
        follows_descendants: true,
        timeout,
        command: Command {
            program: config.cmd,
            arguments: config.args,
            env: config.envs,
            cwd: config.cwd,
        },
    };
    let started = call.sandbox.processes().start(&**call.running, request, call.soon());
    let subscription = started.map_err(|error| process_error(&error))?;
    let closed = Arc::clone(call.running.closed());
    let on_timeout = OnTimeout::Killed;
    Ok(Follower { subscription, closed, ping: call.ping_interval(), on_timeout }.response())
}

fn cwd(login: &Login, cwd: Option<&str>) -> Result<Option<String>, Error> {
    let Some(cwd) = cwd.filter(|cwd| !cwd.is_empty()) else { return Ok(None) };
    let absolute = files_proto::absolute(&login.account.home, cwd);
    absolute.map(Some).ok_or_else(|| invalid("the working directory has a zero byte"))
}

fn connect(call: &mut Call<'_, '_>) -> Result<Response, Error> {
    let message: OnProcess = call.first()?;
    let subscription = call.sandbox.processes().connect(&message.selector()?);
    let subscription = subscription.map_err(|error| process_error(&error))?;
    let closed = Arc::clone(call.running.closed());
    let on_timeout = match call.timeout()? {
        Some(timeout) => OnTimeout::LeftAt(Instant::now() + timeout),
        None => OnTimeout::Killed,
    };
    Ok(Follower { subscription, closed, ping: call.ping_interval(), on_timeout }.response())
}

fn list(call: &mut Call<'_, '_>) -> Result<Response, Error> {
    let processes = call.sandbox.processes().list();
    let described = processes.iter().map(|process| {
        let command = process.command();
        let mut config =
            json!({"cmd": command.program, "args": command.arguments, "envs": command.env});
        if let Some(cwd) = &command.cwd {
            config["cwd"] = json!(cwd);
        }
        let mut described = json!({"pid": process.pid(), "config": config});
        if let Some(tag) = process.tag() {
            described["tag"] = json!(tag);
        }
        described
    });
    reply(&json!({"processes": described.collect::<Vec<_>>()}))
}

fn send_input(call: &mut Call<'_, '_>) -> Result<Response, Error> {
    let message: OnProcess = call.message()?;
    let process = process_of(call, &message)?;
    write(&process, message.input, call.running.closed(), call.deadline()?)?;
    reply(&json!({}))
}

/// Input in many messages, until the request ends.
fn stream_input(call: &mut Call<'_, '_>) -> Result<Response, Error> {
    let read = read_input(call);
    if read.is_err() {
        // The client may be silent for long: the reply does not wait for the request's end.
        call.request.body.set_progress_timeout(Duration::ZERO);
    }
    read?;
    let mut body = connect_rpc::message(&json!({})).map_err(|error| invalid(&error.to_string()))?;
    body.extend(connect_rpc::end(Ok(())));
    Ok(Response::bytes(200, STREAMING, body))
}

fn read_input(call: &mut Call<'_, '_>) -> Result<(), Error> {
    call.request.body.set_progress_timeout(SILENCE);
    let (sandbox, closed, mut process) = (call.sandbox, call.running.closed(), None);
    call.request.body.interrupt_by(Arc::clone(closed));
    let mut reader = EnvelopeReader::new(&mut call.request.body, LARGEST_MESSAGE);
    while let Some(part) = reader.read::<InputPart>()? {
        if let Some(start) = part.start {
            let found = sandbox.processes().find(&start.selector()?);
            process = Some(found.map_err(|error| process_error(&error))?);
        }
        if let Some(data) = part.data {
            let process =
                process.as_deref().ok_or_else(|| invalid("data came before the start"))?;
            write(process, data.input, closed, Instant::now() + INPUT)?;
        }
    }
    Ok(())
}

fn write(
    process: &Process,
    input: Option<Input>,
    closed: &Arc<Event>,
    deadline: Instant,
) -> Result<(), Error> {
    let Input { stdin, pty } = input.unwrap_or_default();
    let written = match (stdin, pty) {
        (Some(bytes), None) => process.write_stdin(&bytes.0, closed, deadline),
        (None, Some(bytes)) => process.write_terminal(&bytes.0, closed, deadline),
        _ => return Err(invalid("the input is either `stdin` or `pty`")),
    };
    written.map_err(|error| process_error(&error))
}

fn close_stdin(call: &mut Call<'_, '_>) -> Result<Response, Error> {
    let message: OnProcess = call.message()?;
    let process = process_of(call, &message)?;
    process.close_stdin().map_err(|error| match error {
        crate::process::Error::Terminal(_) => Error::new(Code::Unknown, error.to_string()),
        error => process_error(&error),
    })?;
    reply(&json!({}))
}

fn send_signal(call: &mut Call<'_, '_>) -> Result<Response, Error> {
    let message: OnProcess = call.message()?;
    let process = process_of(call, &message)?;
    let signal = message.signal.as_ref().and_then(|signal| signal.number());
    let Some(signal) = signal else {
        let message = "the signals are SIGNAL_SIGTERM and SIGNAL_SIGKILL";
        return Err(Error::new(Code::Unimplemented, message));
    };
    process.signal(signal).map_err(|error| process_error(&error))?;
    reply(&json!({}))
}

fn update(call: &mut Call<'_, '_>) -> Result<Response, Error> {
    let message: OnProcess = call.message()?;
    let process = process_of(call, &message)?;
    if let Some(pty) = &message.pty {
        process.resize(pty.size()?).map_err(|error| process_error(&error))?;
    }
    reply(&json!({}))
}

fn process_of(call: &Call<'_, '_>, message: &OnProcess) -> Result<Arc<Process>, Error> {
    let found = call.sandbox.processes().find(&message.selector()?);
    found.map_err(|error| process_error(&error))
}
