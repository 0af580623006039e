//! File operations in the guest, with the rights of the user who runs the program: one request, then
//! lines of replies. [`files_proto`] has the format of both.
//!
//! # Invariants
//!
//! - Memory is bounded: a list has at most [`files_proto::MAX_ENTRIES`] entries, a watch as many folders.
//! - A folder is removed without following a link in it, whatever changes it meanwhile.

mod account;
mod attribute;
mod change;
mod entry;
mod error;
mod list;
mod open;
mod output;
mod question;
mod read;
mod watch;
mod write;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

use files_proto::{Account, Code, Failure, MAX_REQUEST, Reply, Request, Summary};
use nix::unistd::{getegid, geteuid};

use crate::account::Names;
pub use crate::error::{Error, Result};
use crate::output::Output;
use crate::question::Questions;

/// The home of the user, from the environment that a command in the sandbox gets.
pub fn home() -> String {
    let home = std::env::var_os("HOME").map(|home| home.to_string_lossy().into_owned());
    home.filter(|home| home.starts_with('/')).unwrap_or_else(|| "/".to_owned())
}

/// Serves the request on the first line of `input`. Returns whether it succeeded; an error if the
/// replies cannot be written.
pub fn run(input: impl Read + AsFd, home: &str, output: impl Write) -> Result<bool> {
    let mut input = BufReader::new(input);
    let mut context = Context { home, names: Names::load(), output: Output::new(output) };
    let served = request(&mut input).and_then(|request| match request {
        Request::Watch { path, scope } => {
            let questions = Questions::new(input);
            watch::watch(&mut context, &path, scope, questions).map(Some)
        }
        Request::Write { path, attributes } => {
            write::write(&mut context, &path, attributes.as_ref(), &mut input).map(Some)
        }
        Request::Read { path, offset, length } => {
            read::read(&mut context, &path, offset, length).map(|()| None)
        }
        request => serve(&mut context, &request).map(Some),
    });
    let ended = match served {
        Ok(Some(summary)) => context.output.reply(&Reply::Done(summary)).map(|()| true),
        // A reply would be taken for content.
        Ok(None) => Ok(true),
        Err(Error::Failed(failure)) => context.output.reply(&Reply::Error(failure)).map(|()| false),
        Err(error) => Err(error),
    };
    ended.and_then(|success| context.output.flush().map(|()| success))
}

/// What every operation needs.
struct Context<'a, W: Write> {
    home: &'a str,
    names: Names,
    output: Output<W>,
}

impl<W: Write> Context<'_, W> {
    fn absolute(&self, path: &str) -> Result<PathBuf> {
        let message = || format!("`{path}` is not a path: it is empty or has a zero byte");
        let absolute = files_proto::absolute(self.home, path);
        Ok(absolute.ok_or_else(|| error::invalid(message()))?.into())
    }
}

fn request(input: &mut impl BufRead) -> Result<Request> {
    let mut line = Vec::new();
    // One byte more than allowed shows that it is too long.
    let read = input.take(MAX_REQUEST as u64 + 1).read_until(b'\n', &mut line);
    read.map_err(|source| Error::Request { source })?;
    if line.len() > MAX_REQUEST {
        return Err(error::invalid(format!("the request is longer than {MAX_REQUEST} bytes")));
    }
    serde_json::from_slice(&line).map_err(|error| {
        let message = format!("the request is malformed: {error}");
        Error::Failed(Failure { code: Code::InvalidArgument, message })
    })
}

fn serve<W: Write>(context: &mut Context<'_, W>, request: &Request) -> Result<Summary> {
    match request {
        Request::Account {} => {
            let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
            let account = Account { uid, gid, home: context.home.to_owned() };
            context.output.reply(&Reply::Account(account))?;
            Ok(Summary::default())
        }
        Request::Stat { path, follow } => {
            let path = context.absolute(path)?;
            let follow = if *follow { entry::Follow::Yes } else { entry::Follow::No };
            let entry = entry::describe(&path, follow, &context.names)
                .map_err(error::failed("read", &path))?;
            context.output.entry(entry)
        }
        Request::List { path, depth } => list::list(context, path, *depth),
        Request::MakeDir { path } => change::make_dir(context, path),
        Request::Move { source, destination } => change::rename(context, source, destination),
        Request::Remove { path } => change::remove(context, path),
        Request::Watch { .. } | Request::Write { .. } | Request::Read { .. } => {
            Err(error::invalid("this operation needs input or output of its own".to_owned()))
        }
        Request::SetAttributes { path, prefix, attributes } => {
            attribute::set(context, path, prefix, attributes)
        }
    }
}
