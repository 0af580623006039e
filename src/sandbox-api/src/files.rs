//! Files in a sandbox.
//!
//! ```text
//!   stat, list, make_dir, move_entry, remove, watch ─▶ Sandbox::exec of guest-files, as the user
//!   read_file, upload ─▶ guest-files too, in place
//!   write_file ─▶ Sandbox::write, as root; what is new belongs to the user
//! ```
//!
//! Nothing that the sandbox sends is trusted: replies have a largest length, a list a largest size.

mod call;
mod error;
mod read;
mod upload;
mod watch;
mod watcher;
mod write;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use base::event::Event as Wake;
pub use files_proto::{
    Account, Attributes, Code, Entry, Event, EventKind, Failure, Kind, Link, MAX_ENTRIES, Resolved,
    Summary, WatchScope,
};
use files_proto::{Reply, Request};
use sandbox::{Sandbox, User};

use self::call::Call;
pub use self::error::{Error, Result};
pub use self::read::{FileReader, Range};
pub use self::watch::{Watch, WatchHandle, WatchItem};
pub(crate) use self::watcher::Watchers;
pub use self::write::{WriteOptions, Written};

/// How many bytes of replies a list has at most.
const MAX_LIST: usize = 64 << 20;

/// The files of a sandbox, as one of its users sees them. A relative path is below the user's home, as `~`
/// and a path that begins with `~/` are.
pub struct Files<'a> {
    sandbox: &'a dyn Sandbox,
    user: Option<User>,
    account: OnceLock<Account>,
    /// Set when the sandbox is paused or ended.
    closed: Option<Arc<Wake>>,
}

/// The entries of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// In the order of their names, folders before what is in them.
    pub entries: Vec<Entry>,
    /// What is not in the entries, and which names were not UTF-8.
    pub summary: Summary,
}

impl<'a> Files<'a> {
    /// The files as `user` sees them; root by default.
    pub fn new(sandbox: &'a dyn Sandbox, user: Option<User>) -> Self {
        Self { sandbox, user, account: OnceLock::new(), closed: None }
    }

    /// The same with the user's account, which [`Files::account`] returned before.
    pub fn with_account(sandbox: &'a dyn Sandbox, user: Option<User>, account: Account) -> Self {
        Self { sandbox, user, account: OnceLock::from(account), closed: None }
    }

    /// Makes operations fail with [`Error::Closed`] from when `closed` is set, also those that wait.
    #[must_use]
    pub fn until(self, closed: Arc<Wake>) -> Self {
        Self { closed: Some(closed), ..self }
    }

    /// The user's ids and home. Asks the sandbox once.
    pub fn account(&self, deadline: Instant) -> Result<Account> {
        if let Some(account) = self.account.get() {
            return Ok(account.clone());
        }
        let mut found = None;
        self.run(&Request::Account {}, deadline, |reply| match reply {
            Reply::Account(account) if found.is_none() => {
                found = Some(account);
                Ok(())
            }
            _ => Err(Error::Malformed),
        })?;
        let account = found.ok_or(Error::Malformed)?;
        Ok(self.account.get_or_init(|| account).clone())
    }

    /// Describes a file, folder or link.
    pub fn stat(&self, path: &str, deadline: Instant) -> Result<Entry> {
        self.entry(&Request::Stat { path: path.to_owned(), follow: false }, deadline).map(first)
    }

    /// Lists a folder: with a depth of 1 its own entries, with 2 those of its folders too. Links in it are
    /// not followed.
    pub fn list(&self, path: &str, depth: u32, deadline: Instant) -> Result<Listing> {
        let (mut entries, mut size) = (Vec::new(), 0);
        let request = Request::List { path: path.to_owned(), depth };
        let summary = self.run(&request, deadline, |reply| match reply {
            Reply::Entry(entry) => {
                size += size_of(&entry);
                if size > MAX_LIST || entries.len() == MAX_ENTRIES {
                    let message = format!("cannot list {path}: the list has over {MAX_LIST} bytes");
                    return Err(Error::Failed(Failure { code: Code::TooMany, message }));
                }
                entries.push(entry);
                Ok(())
            }
            _ => Err(Error::Malformed),
        })?;
        Ok(Listing { entries, summary })
    }

    /// Makes a folder and the missing ones above it. Returns it, and whether it is new.
    pub fn make_dir(&self, path: &str, deadline: Instant) -> Result<(Entry, bool)> {
        let request = Request::MakeDir { path: path.to_owned() };
        self.entry(&request, deadline).map(|(entry, summary)| (entry, !summary.existed))
    }

    /// Renames a file or folder, and makes the missing folders above its new path. A file that is there is
    /// replaced.
    pub fn move_entry(&self, source: &str, destination: &str, deadline: Instant) -> Result<Entry> {
        let (source, destination) = (source.to_owned(), destination.to_owned());
        self.entry(&Request::Move { source, destination }, deadline).map(first)
    }

    /// Removes a file, a link or a folder with its content. No link is followed.
    pub fn remove(&self, path: &str, deadline: Instant) -> Result<()> {
        self.silent(&Request::Remove { path: path.to_owned() }, deadline)
    }

    /// Replaces those extended attributes (`user.…`) of a file whose names begin with `prefix`.
    pub fn set_attributes(
        &self,
        path: &str,
        prefix: &str,
        attributes: &BTreeMap<String, String>,
        deadline: Instant,
    ) -> Result<()> {
        let (path, prefix) = (path.to_owned(), prefix.to_owned());
        let attributes = attributes.clone();
        self.silent(&Request::SetAttributes { path, prefix, attributes }, deadline)
    }

    /// Watches a folder. Changes after the return are reported.
    pub fn watch(&self, path: &str, scope: WatchScope, deadline: Instant) -> Result<Watch> {
        let request = Request::Watch { path: path.to_owned(), scope };
        Watch::start(self.call(&request, deadline)?, deadline)
    }

    /// An operation that replies with nothing but its end.
    fn silent(&self, request: &Request, deadline: Instant) -> Result<()> {
        self.run(request, deadline, |_| Err(Error::Malformed)).map(drop)
    }

    /// An operation that replies with one entry.
    fn entry(&self, request: &Request, deadline: Instant) -> Result<(Entry, Summary)> {
        let mut found = None;
        let summary = self.run(request, deadline, |reply| match reply {
            Reply::Entry(entry) if found.is_none() => {
                found = Some(entry);
                Ok(())
            }
            _ => Err(Error::Malformed),
        })?;
        found.map(|entry| (entry, summary)).ok_or(Error::Malformed)
    }

    /// Runs an operation to its end; `each` gets the replies before that.
    fn run(
        &self,
        request: &Request,
        deadline: Instant,
        mut each: impl FnMut(Reply) -> Result<()>,
    ) -> Result<Summary> {
        let mut call = self.call(request, deadline)?;
        call.close_input()?;
        loop {
            match call.next(Some(deadline))? {
                Reply::Done(summary) => return Ok(summary),
                Reply::Error(failure) => return Err(Error::Failed(failure)),
                reply => each(reply)?,
            }
        }
    }

    fn call(&self, request: &Request, deadline: Instant) -> Result<Call> {
        Call::start(self.sandbox, self.user.clone(), request, self.closed.clone(), deadline)
    }
}

fn first<A, B>((first, _): (A, B)) -> A {
    first
}

/// How many bytes an entry takes, about.
fn size_of(entry: &Entry) -> usize {
    let attributes = entry.attributes.iter().map(|(name, value)| name.len() + value.len());
    let link = entry.link.as_ref().map_or(0, |link| {
        link.target.len() + link.resolved.as_ref().map_or(0, |resolved| resolved.path.len())
    });
    std::mem::size_of::<Entry>()
        + [&entry.name, &entry.path, &entry.owner, &entry.group, &entry.modified]
            .map(String::len)
            .iter()
            .sum::<usize>()
        + entry.permissions.len()
        + attributes.sum::<usize>()
        + link
}
