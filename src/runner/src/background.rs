//! The files of a background command, in a folder of its own:
//!
//! | file | content |
//! |---|---|
//! | `output.log` | output of the command and its descendants; see [`OutputLog`] |
//! | `command.jsonl` | append-only: one line for the start, one for the end |
//! | `alive` | a FIFO that the command's runner keeps open for writing |
//! | `runner.log` | that runner's log |
//!
//! The command of `run -d` uses the VM's folder, each of `exec -d` uses `commands/NAME` in it. They are
//! removed with the VM. The kernel closes the FIFO of a runner that is killed; later readers read the end of
//! file.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use sandbox::{Exit, Outcome, Stream};
use serde::{Deserialize, Serialize};

use crate::attend::Sink;
use crate::error::{Error, Result, file};
use crate::output_log::{self, OutputLog};
use crate::vmm::{self, VmRecord};

/// The largest number of commands of `exec -d` per VM, including ended ones.
pub(crate) const MAX_COMMANDS: usize = 32;

/// The folder of named commands, in the VM's folder.
const COMMANDS: &str = "commands";

/// The file of start and end.
const EVENTS: &str = "command.jsonl";

/// The FIFO.
const ALIVE: &str = "alive";

/// A line of `command.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Started(Started),
    Ended(Ended),
}

/// The start of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Started {
    /// Without its arguments, which may be secret.
    pub(crate) program: String,
    pub(crate) unix: u64,
}

/// The end of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) code: u8,
    /// A description, like `exit code 1`.
    pub(crate) how: String,
    pub(crate) unix: u64,
}

/// The folder of the command of `run -d`, or of a named one.
pub(crate) fn folder(vm: &VmRecord, name: Option<&str>) -> PathBuf {
    match name {
        Some(name) => vm.folder.join(COMMANDS).join(name),
        None => vm.folder.clone(),
    }
}

/// Writes the files of a background command.
pub(crate) struct Recorder {
    path: PathBuf,
    events: File,
    output: OutputLog,
    memory_mib: u32,
    is_over: bool,
    /// Kept open, never written to.
    _alive: File,
}

impl Recorder {
    /// Creates the files in `folder`, and records the start of `program`.
    pub(crate) fn create(folder: &Path, program: &str, memory_mib: u32) -> Result<Self> {
        let alive = folder.join(ALIVE);
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        nix::unistd::mkfifo(&alive, mode).map_err(file("create", &alive))?;
        // Opened for reading too, so that the call does not block.
        let opened = File::options().read(true).write(true).open(&alive);
        let alive = opened.map_err(file("open", &alive))?;
        let output = OutputLog::create(&folder.join(output_log::OUTPUT))?;
        let path = folder.join(EVENTS);
        let events = output_log::append_to(&path)?;
        let mut recorder = Self { path, events, output, memory_mib, is_over: false, _alive: alive };
        let program = program.to_owned();
        recorder.append(&Line::Started(Started { program, unix: now() }));
        Ok(recorder)
    }

    /// Records the end, unless it was recorded before.
    pub(crate) fn finish(&mut self, result: &Result<Exit>) {
        match result {
            Ok(exit) => self.ended(exit),
            Err(error) => self.end(error.exit_code().unwrap_or(125), error.chain()),
        }
    }

    fn end(&mut self, code: u8, how: String) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        self.output.note(&format!("the command ended: {how}"));
        self.append(&Line::Ended(Ended { code, how, unix: now() }));
    }

    /// Appends a line with a single write, so that readers see it completely.
    fn append(&mut self, line: &Line) {
        let written = serde_json::to_string(line).map_err(io::Error::from);
        let written =
            written.and_then(|text| self.events.write_all(format!("{text}\n").as_bytes()));
        if let Err(error) = written {
            log::error!("cannot write {}; error={error}", self.path.display());
        }
    }
}

impl Sink for Recorder {
    fn write(&mut self, _: Stream, data: &[u8]) -> io::Result<()> {
        self.output.append(data);
        Ok(())
    }

    fn ended(&mut self, exit: &Exit) {
        if let Some(shortage) = exit.memory_shortage(self.memory_mib).filter(|_| !self.is_over) {
            self.output.note(&shortage);
        }
        self.end(exit.outcome.exit_code(), describe(&exit.outcome));
    }
}

/// A short description of an outcome.
pub(crate) fn describe(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Exited(code) => format!("exit code {code}"),
        Outcome::Signalled { signal, .. } => format!("signal {signal}"),
        Outcome::TimedOut => "time up".to_owned(),
        Outcome::Cancelled => "cancelled".to_owned(),
        Outcome::FailedToStart { message, .. } => message.clone(),
    }
}

/// A reserved name for a command of `exec -d`, with its files.
pub(crate) struct Reserved {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) recorder: Recorder,
}

impl Reserved {
    /// Releases the name, and removes the files.
    pub(crate) fn cancel(self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            log::warn!("cannot remove a folder; path={} error={error}", self.folder.display());
        }
    }
}

/// Reserves a name for a command of `exec -d`: `wanted`, unless a running command has it, or a free one.
/// At the limit of [`MAX_COMMANDS`], the oldest ended command is removed.
pub(crate) fn reserve(vm: &VmRecord, wanted: Option<&str>, program: &str) -> Result<Reserved> {
    // Prevents the removal of the VM's folder, and concurrent reservations.
    let _lock = vmm::lock_folders(vm)?;
    let all = vm.folder.join(COMMANDS);
    let taken = named(vm)?;
    let is_free = |name: &String| !taken.iter().any(|(taken, _)| taken == name);
    let name = match wanted {
        Some(name) => name.to_owned(),
        None => (1..).map(|n| format!("command-{n}")).find(is_free).unwrap_or_default(),
    };
    let folder = all.join(&name);
    match taken.iter().find(|(taken, _)| *taken == name) {
        Some((_, state)) if state.is_attended => {
            return Err(Error::CommandTaken { vm: vm.id.to_string(), name });
        }
        Some(_) => remove(&folder)?,
        None if taken.len() >= MAX_COMMANDS => {
            let over = taken.iter().filter(|(_, state)| !state.is_attended);
            let oldest = over.min_by_key(|(_, state)| state.started.unix);
            let oldest = oldest
                .ok_or(Error::TooManyCommands { vm: vm.id.to_string(), limit: MAX_COMMANDS })?;
            remove(&all.join(&oldest.0))?;
        }
        None => {}
    }
    let mut private = DirBuilder::new();
    private.mode(0o700);
    match private.create(&all) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        // Fails if the VM's folder is gone.
        made => made.map_err(file("create", &all))?,
    }
    // The leftover of a runner that was killed at this point.
    if folder.exists() {
        remove(&folder)?;
    }
    private.create(&folder).map_err(file("create", &folder))?;
    let recorder = Recorder::create(&folder, program, vm.memory_mib)?;
    Ok(Reserved { name, folder, recorder })
}

fn remove(folder: &Path) -> Result<()> {
    fs::remove_dir_all(folder).map_err(file("remove", folder))
}

/// The state of a background command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommandState {
    pub(crate) started: Started,
    pub(crate) ended: Option<Ended>,
    /// Whether its runner lives. It does until the last descendant has closed the output. A command
    /// without an end and without a runner is lost.
    pub(crate) is_attended: bool,
}

/// Reads the files of a background command.
pub(crate) struct CommandObserver {
    path: PathBuf,
    events: File,
    alive: File,
}

impl CommandObserver {
    /// `None` if the folder has no command.
    pub(crate) fn open(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(EVENTS);
        let events = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(file("open", &path))?,
        };
        let alive = folder.join(ALIVE);
        let mut options = File::options();
        options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let alive = options.open(&alive).map_err(file("open", &alive))?;
        Ok(Some(Self { path, events, alive }))
    }

    /// A FIFO that hangs up when the command's runner ends.
    pub(crate) fn alive(&self) -> BorrowedFd<'_> {
        self.alive.as_fd()
    }

    /// The file to watch for changes.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the command's runner lives.
    pub(crate) fn is_attended(&self) -> bool {
        // No byte is ever written: a read returns 0 without a writer, else EAGAIN.
        matches!((&self.alive).read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The current state; `None` before the start is recorded.
    pub(crate) fn look(&mut self) -> Result<Option<CommandState>> {
        // Checked first: a runner that has ended wrote its last line before.
        let is_attended = self.is_attended();
        let text = read_all(&mut self.events).map_err(file("read", &self.path))?;
        let (mut started, mut ended) = (None, None);
        // An incomplete line is ignored.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            match serde_json::from_str(line) {
                Ok(Line::Started(line)) => started = Some(line),
                Ok(Line::Ended(line)) => ended = Some(line),
                Err(source) => return Err(Error::Record { path: self.path.clone(), source }),
            }
        }
        Ok(started.map(|started| CommandState { started, ended, is_attended }))
    }
}

fn read_all(file: &mut File) -> io::Result<String> {
    use std::io::Seek as _;
    file.rewind()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// The command of `run -d`, which has no name, and those of `exec -d`, oldest first.
pub(crate) fn list(vm: &VmRecord) -> Result<Vec<(Option<String>, CommandState)>> {
    let own = state(&vm.folder)?.map(|state| (None, state));
    let mut named: Vec<_> =
        named(vm)?.into_iter().map(|(name, state)| (Some(name), state)).collect();
    named.sort_by(|one, other| (one.1.started.unix, &one.0).cmp(&(other.1.started.unix, &other.0)));
    Ok(own.into_iter().chain(named).collect())
}

fn named(vm: &VmRecord) -> Result<Vec<(String, CommandState)>> {
    let all = vm.folder.join(COMMANDS);
    let entries = match fs::read_dir(&all) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(file("list", &all))?,
    };
    let mut named = Vec::new();
    for entry in entries.flatten() {
        if let Some(state) = state(&entry.path())? {
            named.push((entry.file_name().to_string_lossy().into_owned(), state));
        }
    }
    Ok(named)
}

fn state(folder: &Path) -> Result<Option<CommandState>> {
    match CommandObserver::open(folder) {
        Ok(observer) => {
            observer.map(|mut observer| observer.look()).transpose().map(Option::flatten)
        }
        // Removed between the opening of its two files.
        Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::command::ps::tests::record;

    fn exit(code: u8) -> Exit {
        let outcome = Outcome::Exited(code);
        Exit { outcome, dropped: 0, duration: Duration::ZERO, oom_kills: 0 }
    }

    /// A VM whose folder is real.
    fn vm() -> (tempfile::TempDir, VmRecord) {
        let vms = tempfile::tempdir().unwrap();
        let folder = vms.path().join("vm");
        fs::create_dir(&folder).unwrap();
        (vms, VmRecord { folder, ..record(true) })
    }

    fn names(vm: &VmRecord) -> Vec<Option<String>> {
        list(vm).unwrap().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_command_ends_once_and_its_log_continues_until_the_recorder_is_dropped() {
        let (_vms, vm) = vm();
        let mut recorder = Recorder::create(&vm.folder, "make", 256).unwrap();
        let mut observer = CommandObserver::open(&vm.folder).unwrap().unwrap();
        let running = observer.look().unwrap().unwrap();
        assert_eq!((running.started.program.as_str(), &running.ended), ("make", &None));
        assert!(running.is_attended);

        recorder.write(Stream::Stdout, b"out\n").unwrap();
        recorder.ended(&exit(3));
        recorder.write(Stream::Stderr, b"later\n").unwrap();
        recorder.finish(&Ok(exit(4)));
        let ended = observer.look().unwrap().unwrap();
        assert_eq!(ended.ended.unwrap().code, 3);
        assert!(ended.is_attended);
        drop(recorder);
        assert!(!observer.is_attended());
        let log = fs::read_to_string(vm.folder.join(output_log::OUTPUT)).unwrap();
        assert_eq!(log, "out\n[runner: the command ended: exit code 3]\nlater\n");
    }

    #[test]
    fn a_command_whose_runner_was_killed_has_no_end_and_no_runner() {
        let (_vms, vm) = vm();
        drop(Recorder::create(&vm.folder, "make", 256).unwrap());
        let state = CommandObserver::open(&vm.folder).unwrap().unwrap().look().unwrap().unwrap();
        assert_eq!((state.ended, state.is_attended), (None, false));
    }

    #[test]
    fn an_incomplete_line_is_ignored() {
        let (_vms, vm) = vm();
        let mut recorder = Recorder::create(&vm.folder, "make", 256).unwrap();
        recorder.events.write_all(b"{\"ended\":{\"co").unwrap();
        let state = CommandObserver::open(&vm.folder).unwrap().unwrap().look().unwrap().unwrap();
        assert_eq!(state.ended, None);
    }

    #[test]
    fn a_name_is_free_again_when_its_command_has_ended() {
        let (_vms, vm) = vm();
        let first = reserve(&vm, Some("web"), "serve").unwrap();
        let taken = reserve(&vm, Some("web"), "serve").err().unwrap();
        assert!(matches!(taken, Error::CommandTaken { name, .. } if name == "web"));
        drop(first);
        reserve(&vm, Some("web"), "other").unwrap();
        assert_eq!(list(&vm).unwrap()[0].1.started.program, "other");
    }

    #[test]
    fn a_command_without_a_name_gets_one_and_a_cancelled_one_leaves_nothing() {
        let (_vms, vm) = vm();
        let first = reserve(&vm, None, "serve").unwrap();
        let second = reserve(&vm, None, "serve").unwrap();
        assert_eq!((first.name.as_str(), second.name.as_str()), ("command-1", "command-2"));
        first.cancel();
        assert_eq!(names(&vm), [Some("command-2".to_owned())]);
    }

    #[test]
    fn at_the_limit_the_oldest_ended_command_is_removed_and_no_running_one() {
        let (_vms, vm) = vm();
        let mut all: Vec<_> =
            (0..MAX_COMMANDS).map(|_| reserve(&vm, None, "serve").unwrap()).collect();
        let refused = reserve(&vm, None, "serve").err().unwrap();
        assert!(matches!(refused, Error::TooManyCommands { .. }));
        drop(all.remove(4));
        reserve(&vm, Some("one-more"), "serve").unwrap();
        let names = names(&vm);
        assert_eq!(names.len(), MAX_COMMANDS);
        assert!(names.contains(&Some("one-more".to_owned())));
        assert!(!names.contains(&Some("command-5".to_owned())));
    }

    #[test]
    fn a_removed_vm_rejects_commands() {
        let (_vms, vm) = vm();
        fs::remove_dir(&vm.folder).unwrap();
        assert!(reserve(&vm, None, "serve").is_err());
        assert!(!vm.folder.exists());
    }
}
