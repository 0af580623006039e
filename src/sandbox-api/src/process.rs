//! The processes of a sandbox that were started by calls.
//!
//! ```text
//!   guest ──▶ Execution ──▶ pump thread ──▶ a bounded queue for each subscriber ──▶ streams to clients
//! ```
//!
//! A process does not depend on its clients: its output is read, and dropped where there is no subscriber.
//! A subscriber that takes nothing stops the process as a full pipe would.
//!
//! INVARIANT: the sandbox's VM has ended, or the process ends by being cancelled, before its thread is joined.

mod ending;
mod error;
mod running;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base::sync::Mutex;
use crossbeam_channel::{Receiver, Sender, bounded};
use log::Level;
use sandbox::{ExecRequest, Outcome, PtySize, Sandbox, User};

pub use self::ending::Ending;
pub use self::error::{Error, Result};
pub use self::running::{Next, Output, Process, Subscription};
use crate::event_log::{COMMAND, EventLog};

/// For how long a process is found after its end.
const REMEMBERED: Duration = Duration::from_secs(30);

/// The most processes of a sandbox at a time.
const MOST: usize = 256;

/// How long the sandbox may take to kill a process.
const CANCEL: Duration = Duration::from_secs(10);

/// What a process was started with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    /// The program.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Variables beside those of the sandbox.
    pub env: BTreeMap<String, String>,
    /// Where it starts, as it was asked for.
    pub cwd: Option<String>,
}

/// A process to be started.
#[derive(Debug, Clone, Default)]
pub struct StartRequest {
    /// The command.
    pub command: Command,
    /// All of its environment, [`Command::env`] included.
    pub env: BTreeMap<String, String>,
    /// The absolute path where it starts; its user's home if nothing is said.
    pub cwd: Option<String>,
    /// Its user; root by default.
    pub user: Option<User>,
    /// A terminal of this size.
    pub pty: Option<PtySize>,
    /// Whether its standard input will be written.
    pub stdin: bool,
    /// A name to find it by.
    pub tag: Option<String>,
    /// Whether it goes on while its descendants hold its output. Else it ends with its own process; the
    /// descendants live on, and what they write is dropped.
    pub follows_descendants: bool,
    /// How long it may run.
    pub timeout: Option<Duration>,
}

/// What a process is found by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// Its process id.
    Pid(u32),
    /// Its name; the newest of several.
    Tag(String),
}

/// The processes of a sandbox.
pub struct Processes {
    table: Mutex<Table>,
    log: Arc<EventLog>,
    /// Disconnects when the table is dropped.
    closing: Receiver<Infallible>,
    close: Option<Sender<Infallible>>,
}

#[derive(Default)]
struct Table {
    /// In the order of their start.
    entries: Vec<Entry>,
    /// How many are about to be added.
    starting: usize,
}

struct Entry {
    process: Arc<Process>,
    thread: JoinHandle<()>,
}

/// A place in the table, until the process is in it.
struct Place<'a>(&'a Processes);

impl Processes {
    pub(crate) fn new(log: Arc<EventLog>) -> Self {
        let (close, closing) = bounded(0);
        Self { table: Mutex::default(), log, closing, close: Some(close) }
    }

    /// Starts a process. The subscription has its output from the beginning.
    pub fn start(
        &self,
        sandbox: &dyn Sandbox,
        request: StartRequest,
        deadline: Instant,
    ) -> Result<Subscription> {
        let _place = self.place()?;
        let StartRequest { command, env, cwd, user, pty, stdin, tag, follows_descendants, timeout } =
            request;
        let program = [&command.program].into_iter();
        let exec = ExecRequest {
            argv: program.chain(&command.arguments).map(Into::into).collect(),
            env: env.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            cwd: cwd.map(Into::into),
            user,
            stdin: stdin || pty.is_some(),
            pty,
            timeout,
            output_cap: None,
            follow_descendants: follows_descendants,
        };
        let execution = sandbox.exec(&exec, deadline)?;
        let Some(pid) = execution.pid() else {
            return Err(match execution.next(Some(deadline))? {
                sandbox::Event::Exit(exit) => match exit.outcome {
                    Outcome::FailedToStart { message, .. } => Error::NotStarted { message },
                    outcome => Error::NotStarted { message: Ending::of(outcome).status() },
                },
                _ => Error::NotStarted { message: "it has no process id".to_owned() },
            });
        };
        let process =
            Arc::new(Process::new((pid, tag), command, &exec, execution, Arc::clone(&self.log)));
        self.record_start(&process);
        let subscription = Process::subscribe(&process)?;
        let thread = {
            let (process, closing) = (Arc::clone(&process), self.closing.clone());
            base::thread::spawn(format!("process-{pid}"), move || process.pump(&closing))
        };
        let thread = thread.map_err(|source| Error::Thread { source })?;
        self.table.lock().entries.push(Entry { process, thread });
        Ok(subscription)
    }

    /// The processes that run, in the order of their start.
    pub fn list(&self) -> Vec<Arc<Process>> {
        self.sweep();
        let table = self.table.lock();
        let processes = table.entries.iter().map(|entry| &entry.process);
        processes.filter(|process| !process.has_ended()).cloned().collect()
    }

    /// A process that runs.
    pub fn find(&self, selector: &Selector) -> Result<Arc<Process>> {
        self.recent(selector)
            .filter(|process| !process.has_ended())
            .ok_or_else(|| not_found(selector))
    }

    /// Follows a process that runs or ended a moment ago.
    pub fn connect(&self, selector: &Selector) -> Result<Subscription> {
        let process = self.recent(selector).ok_or_else(|| not_found(selector))?;
        Process::subscribe(&process)
    }

    fn record_start(&self, process: &Process) {
        let command = process.command();
        let line = [&command.program].into_iter().chain(&command.arguments);
        let line = line.map(String::as_str).collect::<Vec<_>>().join(" ");
        let pid = process.pid().to_string();
        let mut fields = vec![("pid", pid.as_str()), (COMMAND, &line)];
        fields.extend(process.tag().map(|tag| ("tag", tag.as_str())));
        self.log.record_process(Level::Info, "process started", &fields);
    }

    fn recent(&self, selector: &Selector) -> Option<Arc<Process>> {
        self.sweep();
        let table = self.table.lock();
        let mut processes = table.entries.iter().rev().map(|entry| &entry.process);
        let found = processes.find(|process| match selector {
            Selector::Pid(pid) => process.pid() == *pid,
            Selector::Tag(tag) => process.tag() == Some(tag),
        });
        found.filter(|process| !process.ended_long_ago(REMEMBERED)).cloned()
    }

    fn place(&self) -> Result<Place<'_>> {
        self.sweep();
        let mut table = self.table.lock();
        let running = table.entries.iter().filter(|entry| !entry.thread.is_finished()).count();
        if running + table.starting >= MOST {
            return Err(Error::TooMany { limit: MOST });
        }
        table.starting += 1;
        Ok(Place(self))
    }

    /// Forgets processes that ended long ago.
    fn sweep(&self) {
        let mut gone = Vec::new();
        {
            let mut table = self.table.lock();
            let mut index = 0;
            while let Some(entry) = table.entries.get(index) {
                if entry.thread.is_finished() && entry.process.ended_long_ago(REMEMBERED) {
                    gone.push(table.entries.remove(index));
                } else {
                    index += 1;
                }
            }
        }
        for entry in gone {
            base::thread::join(entry.thread);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.table.lock().starting -= 1;
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        drop(self.close.take());
        let entries = std::mem::take(&mut self.table.get_mut().entries);
        let deadline = Instant::now() + CANCEL;
        for entry in entries.iter().filter(|entry| !entry.thread.is_finished()) {
            entry.process.kill(deadline);
        }
        for entry in entries {
            base::thread::join(entry.thread);
        }
    }
}

fn not_found(selector: &Selector) -> Error {
    Error::NotFound {
        what: match selector {
            Selector::Pid(pid) => format!("process with pid {pid} not found"),
            Selector::Tag(tag) => format!("process with tag {tag} not found"),
        },
    }
}
