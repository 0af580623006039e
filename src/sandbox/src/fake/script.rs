//! What fake sandboxes do.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Factory, Record, exit};
use crate::{Event, ExecRequest, Outcome, Stream, TreeItem};

/// The script of fake sandboxes.
#[derive(Debug, Default, Clone)]
pub struct Script {
    pub(super) commands: HashMap<OsString, Vec<Event>>,
    pub(super) held: HashMap<OsString, Manner>,
    pub(super) acts: HashMap<OsString, Act>,
    pub(super) answers: HashMap<OsString, Answer>,
    pub(super) works: HashMap<OsString, Work>,
    pub(super) input_limits: HashMap<OsString, usize>,
    pub(super) ports: HashSet<u16>,
    pub(super) trees: HashMap<PathBuf, Vec<TreeItem>>,
    pub(super) is_stubborn: bool,
}

/// How a held command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// By any signal.
    Polite,
    /// Only by SIGKILL, by being cancelled, or with its sandbox.
    Deaf,
}

/// The effect of a command on the record.
#[derive(Clone)]
pub(super) struct Act(pub(super) Arc<Effect>);

pub(super) type Effect = dyn Fn(&ExecRequest, &mut Record) + Send + Sync;

impl fmt::Debug for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Act")
    }
}

/// The output and the exit code of a command, from its standard input.
#[derive(Clone)]
pub(super) struct Answer(pub(super) Arc<Reply>);

pub(super) type Reply = dyn Fn(&ExecRequest, &[u8]) -> (Vec<u8>, u8) + Send + Sync;

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer")
    }
}

/// What a command does: from the request and the sandbox's files to the files that it leaves, and its
/// exit code.
#[derive(Clone)]
pub(super) struct Work(pub(super) Arc<Task>);

/// The files of a sandbox by path.
pub type Files = HashMap<PathBuf, Vec<u8>>;

pub(super) type Task = dyn Fn(&ExecRequest, &Files) -> (Files, u8) + Send + Sync;

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Work")
    }
}

impl Script {
    /// Sets the output and the exit code of `program`. Programs that are not in the script do not exist.
    #[must_use]
    pub fn on(mut self, program: &str, output: &[&str], code: u8) -> Self {
        let output = output.iter().map(|text| Event::Output(Stream::Stdout, (*text).into()));
        let exit = Event::Exit(exit(Outcome::Exited(code)));
        self.commands.insert(program.into(), output.chain([exit]).collect());
        self
    }

    /// Says what descendants of `program`, which is in the script, print after its end.
    #[must_use]
    pub fn leave(mut self, program: &str, output: &[&str]) -> Self {
        if let Some(events) = self.commands.get_mut(OsStr::new(program))
            && let Some(Event::Exit(exit)) = events.pop()
        {
            let output = output.iter().map(|text| Event::Output(Stream::Stdout, (*text).into()));
            let ended = [Event::Ended(exit.clone())].into_iter();
            events.extend(ended.chain(output).chain([Event::Exit(exit)]));
        }
        self
    }

    /// Sets how many processes of `program`, which is in the script, the OOM killer kills.
    #[must_use]
    pub fn starve(mut self, program: &str, oom_kills: u64) -> Self {
        let events = self.commands.get_mut(OsStr::new(program));
        if let Some(Event::Exit(exit)) = events.and_then(|events| events.last_mut()) {
            exit.oom_kills = oom_kills;
        }
        self
    }

    /// Makes `program` print nothing and run until it is ended.
    #[must_use]
    pub fn hold(mut self, program: &str, manner: Manner) -> Self {
        self.commands.insert(program.into(), Vec::new());
        self.held.insert(program.into(), manner);
        self
    }

    /// Says what `program` does to the record when it starts: leave files, say. One that is held does so
    /// when it is waited for.
    #[must_use]
    pub fn act(
        mut self,
        program: &str,
        act: impl Fn(&ExecRequest, &mut Record) + Send + Sync + 'static,
    ) -> Self {
        self.acts.insert(program.into(), Act(Arc::new(act)));
        self
    }

    /// Makes `program` answer what was written to its standard input, once that is closed.
    #[must_use]
    pub fn answer(
        mut self,
        program: &str,
        reply: impl Fn(&ExecRequest, &[u8]) -> (Vec<u8>, u8) + Send + Sync + 'static,
    ) -> Self {
        self.commands.insert(program.into(), Vec::new());
        self.answers.insert(program.into(), Answer(Arc::new(reply)));
        self
    }

    /// Makes `program` work when it is waited for. Other commands run meanwhile.
    #[must_use]
    pub fn work(
        mut self,
        program: &str,
        task: impl Fn(&ExecRequest, &Files) -> (Files, u8) + Send + Sync + 'static,
    ) -> Self {
        self.commands.insert(program.into(), Vec::new());
        self.works.insert(program.into(), Work(Arc::new(task)));
        self
    }

    /// Makes `program`, which is in the script, take no more than `limit` bytes of its standard input.
    #[must_use]
    pub fn take_input(mut self, program: &str, limit: usize) -> Self {
        self.input_limits.insert(program.into(), limit);
        self
    }

    /// Makes a process listen on `port`: [`Record::connections`] has its connections.
    #[must_use]
    pub fn listen(mut self, port: u16) -> Self {
        self.ports.insert(port);
        self
    }

    /// Sets the items of a read of `path`, valid or not.
    #[must_use]
    pub fn tree(mut self, path: impl Into<PathBuf>, items: Vec<TreeItem>) -> Self {
        self.trees.insert(path.into(), items);
        self
    }

    /// Makes every assign fail.
    #[must_use]
    pub fn stubborn(mut self) -> Self {
        self.is_stubborn = true;
        self
    }

    /// A factory of sandboxes with this script.
    pub fn factory(self) -> Factory {
        Factory::new(self)
    }
}
