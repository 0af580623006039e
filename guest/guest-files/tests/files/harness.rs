//! A home with the program's operations on it.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write, pipe};
use std::path::Path;
use std::thread::{self, JoinHandle};

use files_proto::{Code, Entry, Event, EventKind, Failure, Reply, Request, Summary, WatchScope};
use tempfile::TempDir;

pub(crate) struct Home {
    folder: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn text(&self) -> String {
        self.path().to_str().unwrap().to_owned()
    }

    /// All replies to a request.
    pub(crate) fn serve(&self, request: &Request) -> Vec<Reply> {
        self.serve_text(&serde_json::to_string(request).unwrap())
    }

    pub(crate) fn serve_text(&self, request: &str) -> Vec<Reply> {
        let (input, mut request_end) = pipe().unwrap();
        request_end.write_all(request.as_bytes()).unwrap();
        drop(request_end);
        let mut output = Vec::new();
        let success = guest_files::run(input, &self.text(), &mut output).unwrap();
        let lines = output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let replies: Vec<Reply> = lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
        assert_eq!(success, !matches!(replies.last(), Some(Reply::Error(_))));
        replies
    }

    /// The entries, and what came last.
    pub(crate) fn entries(&self, request: &Request) -> (Vec<Entry>, Summary) {
        let mut replies = self.serve(request);
        let Some(Reply::Done(summary)) = replies.pop() else { panic!("no end") };
        let entries = replies.into_iter().map(|reply| match reply {
            Reply::Entry(entry) => entry,
            other => panic!("{other:?}"),
        });
        (entries.collect(), summary)
    }

    pub(crate) fn failure(&self, request: &Request) -> (Code, String) {
        let mut replies = self.serve(request);
        let Some(Reply::Error(Failure { code, message })) = replies.pop() else {
            panic!("it succeeded")
        };
        (code, message)
    }

    pub(crate) fn stat(&self, path: &str) -> Entry {
        let request = Request::Stat { path: path.into(), follow: false };
        self.entries(&request).0.remove(0)
    }

    pub(crate) fn watch(&self, path: &str, scope: WatchScope) -> Watch {
        Watch::start(self, path, scope)
    }
}

/// A watch in a thread of its own.
pub(crate) struct Watch {
    input: PipeWriter,
    output: BufReader<PipeReader>,
    thread: JoinHandle<guest_files::Result<bool>>,
}

impl Watch {
    fn start(home: &Home, path: &str, scope: WatchScope) -> Self {
        let (input, mut request) = pipe().unwrap();
        let (output, replies) = pipe().unwrap();
        let line = serde_json::to_string(&Request::Watch { path: path.into(), scope }).unwrap();
        request.write_all(format!("{line}\n").as_bytes()).unwrap();
        let home = home.text();
        let run = move || guest_files::run(input, &home, replies);
        let thread = thread::Builder::new().name("watch".into()).spawn(run).unwrap();
        let mut watch = Self { input: request, output: BufReader::new(output), thread };
        assert_eq!(watch.next(), Reply::Watching {});
        watch
    }

    pub(crate) fn next(&mut self) -> Reply {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// The events of all changes so far.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        self.input.write_all(b"\n").unwrap();
        let mut events = Vec::new();
        loop {
            match self.next() {
                Reply::Event(event) => events.push(event),
                Reply::Synced {} => return events,
                other => panic!("{other:?}"),
            }
        }
    }

    /// Kinds and names of the events of all changes so far.
    pub(crate) fn changes(&mut self) -> Vec<(EventKind, String)> {
        self.events().into_iter().map(|event| (event.kind, event.name)).collect()
    }

    /// Waits for the failure that ends it.
    pub(crate) fn failure(mut self) -> Failure {
        loop {
            match self.next() {
                Reply::Event(_) => {}
                Reply::Error(failure) => {
                    assert!(!self.thread.join().unwrap().unwrap());
                    return failure;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
