//! Short forms of the requests that tests make.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_bytes::ByteBuf;
use vsock_host::{Guest, Output};
use vsock_proto::{Entry, EntryKind, Exec, Outcome, PtySize, Read, Write};

/// More than any test collects.
const LIMIT: usize = 64 << 20;

/// A deadline that only a broken link misses.
pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// A program and its arguments.
pub fn argv(words: &[&str]) -> Exec {
    Exec { argv: words.iter().map(|word| ByteBuf::from(*word)).collect(), ..Exec::default() }
}

/// A script for the shell.
pub fn shell(script: &str) -> Exec {
    argv(&["/bin/sh", "-c", script])
}

/// A script on a terminal, with input.
pub fn on_terminal(script: &str) -> Exec {
    Exec { stdin: true, pty: Some(PtySize { rows: 33, columns: 111 }), ..shell(script) }
}

/// Runs a command to its end.
pub fn run(guest: &Guest, exec: Exec) -> Output {
    guest.exec(exec, soon()).unwrap().output(LIMIT, Some(soon())).unwrap()
}

/// The outcome of a command that returned.
pub fn code(code: u8) -> Outcome {
    Outcome::Exited { code }
}

/// A request to write to `path`.
pub fn write_to(path: &Path) -> Write {
    Write { target: ByteBuf::from(path.as_os_str().as_bytes()), ..Write::default() }
}

/// A request to read `path`.
pub fn read_from(path: &Path) -> Read {
    Read { path: ByteBuf::from(path.as_os_str().as_bytes()) }
}

/// The entry of a file.
pub fn file(path: &str) -> Entry {
    entry(path, EntryKind::File { size: 0 })
}

/// The entry of a folder.
pub fn directory(path: &str) -> Entry {
    Entry { mode: 0o755, ..entry(path, EntryKind::Directory) }
}

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry { path: ByteBuf::from(path), kind, mode: 0o640, owner: None, modified: None }
}
