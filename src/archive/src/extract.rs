//! Writes an untrusted tree below a destination.
//!
//! INVARIANT: nothing outside of the destination is touched. The destination is an open folder and a
//! name in it, both chosen by the caller. Every path is resolved one name at a time from an open folder
//! and without following links. Existing files are replaced, never written through.
//! INVARIANT: a file has its name only once it is complete, unless the folder is the extractor's own
//! ([`ExtractOptions::is_private`]), and no partial file stays.
//! INVARIANT: a device, FIFO or socket is never replaced.
//!
//! Modes lose setuid, setgid and sticky. [`Ownership`] decides on owners. A folder gets its mode and time
//! when the extractor leaves it.
//!
//! | file | content |
//! |---|---|
//! | `extract.rs` | the order of entries, and the open folders |
//! | `extract/options.rs` | what callers choose |
//! | `extract/path.rs` | the names of a path |
//! | `extract/target.rs` | the name of one entry, and links |
//! | `extract/partial.rs` | one file until it is complete; owner, mode and time |
//! | `extract/rules.rs` | owners and modes |

mod options;
mod partial;
mod path;
mod rules;
mod target;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstatat, mkdirat};

pub use options::{ExtractOptions, Metadata, Node, Owner, Ownership};

use crate::error::file;
use crate::{Error, Result};
use partial::{EntryMetadata, PartialFile, apply_metadata, set_owner};
use path::names;
use rules::Rules;
use target::{Target, kind, make_hard_link, make_symlink};

const FOLDER: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The mode of a folder that has no entry of its own.
const DEFAULT_FOLDER_MODE: Mode = Mode::from_bits_truncate(0o755);

/// The largest total length of the paths of folders that become read-only at the end.
const MAX_READ_ONLY: usize = 16 << 20;

/// Writes a tree below a destination, entry by entry.
pub struct TreeExtractor {
    /// For error texts.
    shown: PathBuf,
    /// The destination of the top; none if that is the open folder itself.
    top: Option<(Rc<OwnedFd>, CString)>,
    /// The open folders from the top to the current one. Empty before the top, and for a tree that is a
    /// single file.
    open: Vec<Folder>,
    file: Option<PartialFile>,
    has_top: bool,
    count: u64,
    options: ExtractOptions,
    rules: Rules,
    /// Folders whose owner may not write, of a tree whose entries come in any order: they get their modes
    /// at the end.
    read_only: HashMap<Vec<CString>, Mode>,
    read_only_length: usize,
}

struct Folder {
    /// Its name in the folder before it; empty for the top.
    name: CString,
    fd: Rc<OwnedFd>,
    /// Applied when the extractor leaves the folder; none if the folder existed before the tree.
    metadata: Option<EntryMetadata>,
}

impl TreeExtractor {
    /// Extracts the top as `name` in `folder`. `shown` is the folder's path for error texts.
    pub fn in_folder(
        folder: File,
        name: &Path,
        shown: &Path,
        options: ExtractOptions,
    ) -> Result<Self> {
        let path = shown.join(name);
        let name = CString::new(name.as_os_str().as_bytes())
            .map_err(|_| Error::Escape { path: name.to_owned() })?;
        let top = Some((Rc::new(folder.into()), name));
        Ok(Self { top, ..Self::empty(path, options) })
    }

    /// Merges the top, a folder, into `folder`. In any order, the top needs no entry.
    pub fn into(folder: impl Into<OwnedFd>, shown: &Path, options: ExtractOptions) -> Self {
        let fd = Rc::new(folder.into());
        let open = vec![Folder { name: CString::default(), fd, metadata: None }];
        Self { open, has_top: options.any_order, ..Self::empty(shown.to_owned(), options) }
    }

    fn empty(shown: PathBuf, options: ExtractOptions) -> Self {
        Self {
            shown,
            top: None,
            open: Vec::new(),
            file: None,
            has_top: false,
            count: 0,
            rules: Rules::new(&options),
            options,
            read_only: HashMap::new(),
            read_only_length: 0,
        }
    }

    /// Extracts the next file, folder or link; the path is relative to the top, which has an empty one.
    /// A file's content follows with [`data`](Self::data) and [`hole`](Self::hole).
    pub fn entry(&mut self, path: &Path, node: Node<'_>, metadata: &Metadata) -> Result<()> {
        self.complete()?;
        let names = names(path.as_os_str().as_bytes(), self.options.normalizes_paths)?;
        if names.is_empty() == self.has_top {
            return Err(Error::OutOfOrder { what: "a second top, or no top" });
        }
        self.has_top = true;
        let shown = self.shown.join(path);
        let (folder, name) = match names.split_last() {
            Some((name, above)) => (self.open_folder(above, &shown)?, name.clone()),
            None => match self.top.take() {
                Some((folder, name)) => (folder, name),
                None => return Ok(()),
            },
        };
        let target = Target { folder, name, shown };
        match node {
            Node::Directory => self.folder(target, names.is_empty(), metadata),
            node => self.leaf(target, node, metadata),
        }
    }

    /// Appends data to the most recent file.
    pub fn data(&mut self, data: &[u8]) -> Result<()> {
        let partial = self.file.as_mut().ok_or(Error::OutOfOrder { what: "data" })?;
        partial.append(data).map_err(|source| partial.failed(source))
    }

    /// Appends a hole to the most recent file.
    pub fn hole(&mut self, length: u64) -> Result<()> {
        let partial = self.file.as_mut().ok_or(Error::OutOfOrder { what: "a hole" })?;
        partial.skip(length).map_err(|source| partial.failed(source))
    }

    /// Ends the tree: completes the last file and the open folders.
    pub fn finish(mut self) -> Result<()> {
        self.complete()?;
        self.close_folders(1)?;
        self.restrict()?;
        self.close_folders(0)
    }

    fn leaf(&mut self, target: Target, node: Node<'_>, metadata: &Metadata) -> Result<()> {
        let existing = if self.options.is_private { None } else { target.existing()? };
        let temporary = self.temporary_name(&target);
        match node {
            Node::HardLink(linked) => {
                let (folder, name) = self.linked_file(linked)?;
                make_hard_link(&folder, &name, &target, &temporary)
            }
            Node::Symlink(link) => {
                let owner = self.rules.owner(metadata.owner, &target.folder, None);
                let owner = owner.map_err(file("set up", &target.shown))?;
                make_symlink(&target, &temporary, link, metadata.modified, owner)
            }
            Node::File | Node::Directory => {
                let owner = self.rules.owner(metadata.owner, &target.folder, existing.as_ref());
                let owner = owner.map_err(file("set up", &target.shown))?;
                let mode = self.rules.mode(metadata.mode, existing.as_ref());
                let metadata = EntryMetadata { owner, mode, modified: metadata.modified };
                self.file = Some(PartialFile::create(target, temporary, metadata)?);
                Ok(())
            }
        }
    }

    /// Creates or enters a folder. Only `Ownership::Given` and `Entry` change the owner of an existing one.
    fn folder(&mut self, target: Target, is_top: bool, metadata: &Metadata) -> Result<()> {
        let Target { folder, name, shown } = target;
        let (fd, is_new) = make_folder(&folder, &name, &shown)?;
        let owner = if is_new {
            self.rules.owner(metadata.owner, &folder, None).map_err(file("set up", &shown))?
        } else {
            self.rules.given(metadata.owner)
        };
        // Immediately, since files that are created inside inherit it.
        if let Some(owner) = owner {
            set_owner(&fd, owner).map_err(file("set up", &shown))?;
        }
        let mode = Mode::from_bits_truncate(metadata.mode & 0o777);
        let metadata = Some(EntryMetadata { owner, mode, modified: metadata.modified });
        let name = if is_top { CString::default() } else { name };
        self.open.push(Folder { name, fd: Rc::new(fd), metadata });
        Ok(())
    }

    /// The folder and the name of an earlier file of this tree, for a hard link.
    fn linked_file(&self, path: &Path) -> Result<(Rc<OwnedFd>, CString)> {
        let shown = self.shown.join(path);
        let names = names(path.as_os_str().as_bytes(), self.options.normalizes_paths)?;
        let Some((name, above)) = names.split_last() else {
            return Err(Error::Escape { path: path.to_owned() });
        };
        let folder = self.walk_to(above).map_err(file("open the folder of", &shown))?;
        let stat = fstatat(&*folder, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        let stat = stat.map_err(file("read", &shown))?;
        if kind(&stat) != SFlag::S_IFREG {
            return Err(Error::Special { path: shown });
        }
        Ok((folder, name.clone()))
    }

    /// Opens an existing folder below the top.
    fn walk_to(&self, names: &[CString]) -> nix::Result<Rc<OwnedFd>> {
        let top = self.open.first().ok_or(Errno::ENOENT)?;
        let mut folder = Rc::clone(&top.fd);
        for name in names {
            folder = Rc::new(openat(&*folder, name.as_c_str(), FOLDER, Mode::empty())?);
        }
        Ok(folder)
    }

    fn complete(&mut self) -> Result<()> {
        self.file.take().map_or(Ok(()), PartialFile::publish)
    }

    /// Opens the folder at `names` below the top.
    fn open_folder(&mut self, names: &[CString], shown: &Path) -> Result<Rc<OwnedFd>> {
        if names.len() > self.options.depth {
            return Err(Error::TooDeep { path: shown.to_owned() });
        }
        let inner = self.open.get(1..).unwrap_or_default();
        let common = inner.iter().zip(names).take_while(|(at, name)| at.name == **name).count();
        self.close_folders(common + 1)?;
        for name in &names[common..] {
            let above = self.current_folder()?;
            let fd = match openat(&*above, name.as_c_str(), FOLDER, Mode::empty()) {
                Err(Errno::ENOENT) if self.options.any_order => {
                    self.make_parent(&above, name, shown)?
                }
                opened => opened.map_err(file("open the folder of", shown))?,
            };
            self.open.push(Folder { name: name.clone(), fd: Rc::new(fd), metadata: None });
        }
        self.current_folder()
    }

    /// Creates a folder that has no entry.
    fn make_parent(&self, above: &OwnedFd, name: &CStr, shown: &Path) -> Result<OwnedFd> {
        let (fd, _) = make_folder(above, name, shown)?;
        let owner = self.rules.owner(None, above, None);
        let metadata = |owner| EntryMetadata { owner, mode: DEFAULT_FOLDER_MODE, modified: None };
        let finished = owner.and_then(|owner| apply_metadata(&fd, metadata(owner)));
        finished.map_err(file("set up the folder of", shown))?;
        Ok(fd)
    }

    fn current_folder(&self) -> Result<Rc<OwnedFd>> {
        let last = self.open.last().ok_or(Error::OutOfOrder { what: "an entry below a file" })?;
        Ok(Rc::clone(&last.fd))
    }

    /// Closes all open folders except the first `kept`, innermost first.
    fn close_folders(&mut self, kept: usize) -> Result<()> {
        while self.open.len() > kept {
            let Some(mut metadata) = self.open.last().and_then(|folder| folder.metadata) else {
                self.open.pop();
                continue;
            };
            if self.options.any_order {
                metadata.mode = self.defer(metadata.mode)?;
            }
            let Some(folder) = self.open.pop() else { break };
            apply_metadata(&*folder.fd, metadata).map_err(file("set up", &self.shown))?;
        }
        Ok(())
    }

    /// Remembers the mode of the innermost folder if its owner may not write; returns the mode until the
    /// end, as later entries may be in it.
    fn defer(&mut self, mode: Mode) -> Result<Mode> {
        let names: Vec<CString> = self.open[1..].iter().map(|folder| folder.name.clone()).collect();
        if mode.contains(Mode::S_IRWXU) {
            self.read_only.remove(&names);
            return Ok(mode);
        }
        self.read_only_length += names.iter().map(|name| name.as_bytes().len() + 1).sum::<usize>();
        if self.read_only_length > MAX_READ_ONLY {
            return Err(Error::TooManyReadOnly { limit: MAX_READ_ONLY });
        }
        self.read_only.insert(names, mode);
        Ok(mode | Mode::S_IRWXU)
    }

    /// Sets the remembered modes, the deepest folder first: those below it could not be opened after it.
    fn restrict(&mut self) -> Result<()> {
        let mut read_only: Vec<_> = std::mem::take(&mut self.read_only).into_iter().collect();
        read_only.sort_by_key(|(names, _)| Reverse(names.len()));
        for (names, mode) in read_only {
            let set = self.walk_to(&names).and_then(|folder| fchmod(&*folder, mode));
            set.map_err(file("set up a folder of", &self.shown))?;
        }
        Ok(())
    }

    /// The name that a file or link has until it is complete.
    fn temporary_name(&mut self, target: &Target) -> CString {
        if self.options.is_private {
            return target.name.clone();
        }
        self.count += 1;
        let name = format!(".runner-{}-{}.partial", std::process::id(), self.count);
        CString::new(name).unwrap_or_default()
    }
}

/// Creates a folder or opens an existing one, but no link; returns whether it was created.
fn make_folder(above: &OwnedFd, name: &CStr, shown: &Path) -> Result<(OwnedFd, bool)> {
    let is_new = match mkdirat(above, name, Mode::S_IRWXU) {
        Ok(()) => true,
        Err(Errno::EEXIST) => false,
        Err(errno) => return Err(file("create folder", shown)(errno)),
    };
    let opened = openat(above, name, FOLDER, Mode::empty());
    opened.map(|fd| (fd, is_new)).map_err(file("open folder", shown))
}
