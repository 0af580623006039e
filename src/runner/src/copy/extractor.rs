//! Writes a tree from a hostile guest below a destination.
//!
//! INVARIANT: nothing outside of the destination is touched. The destination is an open folder and a
//! name in it, both chosen on this host. Every path is resolved one name at a time from an open folder
//! and without following links. Existing files are replaced by a rename, never written through.
//! INVARIANT: a file has its name only once it is complete, and no partial file stays.
//! INVARIANT: a device, FIFO or socket is never replaced.
//!
//! Modes lose setuid, setgid and sticky. [`Rules`] decides on owners. A folder gets its mode and time
//! when the extractor leaves it.
//!
//! | file | content |
//! |---|---|
//! | `extractor.rs` | the order of entries, and the open folders |
//! | `target.rs` | the name of one entry, and links |
//! | `partial.rs` | one file until it is complete; owner, mode and time |

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat, mkdirat};
use sandbox::{Entry, EntryKind};

use super::partial::{EntryMetadata, PartialFile, apply_metadata, set_owner};
use super::rules::Rules;
use super::target::{Target, kind, make_hard_link, make_symlink};
use crate::error::{Error, Result, file};

/// The largest depth of a tree: each open folder costs a descriptor.
const MAX_DEPTH: usize = 256;
pub(super) const FOLDER: OFlag =
    OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The mode of a folder that has no entry of its own.
const DEFAULT_FOLDER_MODE: Mode = Mode::from_bits_truncate(0o755);

/// Writes a tree below a destination, entry by entry.
pub(crate) struct TreeExtractor {
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
    parents: Parents,
    rules: Rules,
}

/// What happens if the folder of an entry does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parents {
    /// The entry fails.
    Required,
    /// The folder is created: archives need not contain it.
    Made,
}

struct Folder {
    /// Its name in the folder before it; empty for the top.
    name: CString,
    fd: Rc<OwnedFd>,
    /// Applied when the extractor leaves the folder; none if the folder existed before the tree.
    metadata: Option<EntryMetadata>,
}

impl TreeExtractor {
    /// Extracts the top as `name` in `folder`.
    pub(crate) fn in_folder(
        folder: File,
        name: PathBuf,
        shown: &Path,
        rules: Rules,
    ) -> Result<Self> {
        let path = shown.join(&name);
        let name = CString::new(name.as_os_str().as_bytes())
            .map_err(|_| Error::Escape { path: name.clone() })?;
        let top = Some((Rc::new(folder.into()), name));
        Ok(Self { top, ..Self::empty(path, rules) })
    }

    /// Merges the top, a folder, into `folder`.
    pub(crate) fn into(folder: File, shown: &Path, rules: Rules) -> Self {
        let fd = Rc::new(folder.into());
        let open = vec![Folder { name: CString::default(), fd, metadata: None }];
        Self { open, ..Self::empty(shown.to_owned(), rules) }
    }

    /// Merges the members of an archive into `folder`. An archive has no entry for its top, and need not
    /// contain every folder.
    #[cfg_attr(not(feature = "platform"), allow(dead_code, reason = "only jobs leave archives"))]
    pub(crate) fn of_archive(folder: File, shown: &Path) -> Self {
        let extractor = Self::into(folder, shown, Rules::of_archive());
        Self { has_top: true, parents: Parents::Made, ..extractor }
    }

    fn empty(shown: PathBuf, rules: Rules) -> Self {
        let (open, parents) = (Vec::new(), Parents::Required);
        Self { shown, top: None, open, file: None, has_top: false, count: 0, parents, rules }
    }

    /// Extracts the next file, folder, link or hole.
    pub(crate) fn entry(&mut self, entry: &Entry) -> Result<()> {
        if let EntryKind::Hole { length } = entry.kind {
            let partial = self.file.as_mut().ok_or(Error::OutOfOrder { what: "a hole" })?;
            return partial.skip(length).map_err(file("write", &partial.target.shown));
        }
        self.complete()?;
        let shown = self.shown.join(&entry.path);
        let top = entry.path.as_os_str().is_empty();
        if top == self.has_top {
            return Err(Error::OutOfOrder { what: "a second top, or no top" });
        }
        self.has_top = true;
        let names = names(&entry.path)?;
        let (folder, name) = match names.split_last() {
            Some((name, above)) => (self.open_folder(above, &shown)?, name.clone()),
            None => match self.top.take() {
                Some((folder, name)) => (folder, name),
                None => return Ok(()),
            },
        };
        self.make(Target { folder, name, shown }, entry)
    }

    fn make(&mut self, target: Target, entry: &Entry) -> Result<()> {
        if entry.kind == EntryKind::Directory {
            return self.folder(target, entry);
        }
        let existing = target.existing()?;
        let partial = self.partial_name();
        match &entry.kind {
            EntryKind::HardLink { target: linked } => {
                let (folder, name) = self.linked_file(linked)?;
                make_hard_link(&folder, &name, &target, &partial)
            }
            EntryKind::Symlink { target: link } => {
                let owner = self.rules.owner(entry.owner, &target.folder, None);
                let owner = owner.map_err(file("set up", &target.shown))?;
                make_symlink(&target, &partial, link, entry.modified, owner)
            }
            EntryKind::File { .. } => {
                let owner = self.rules.owner(entry.owner, &target.folder, existing.as_ref());
                let owner = owner.map_err(file("set up", &target.shown))?;
                let mode = self.rules.mode(entry.mode, existing.as_ref());
                let metadata = EntryMetadata { owner, mode, modified: entry.modified };
                self.file = Some(PartialFile::create(target, partial, metadata)?);
                Ok(())
            }
            EntryKind::Directory | EntryKind::Hole { .. } | EntryKind::Special(_) => {
                Err(Error::OutOfOrder { what: "a device, FIFO or socket" })
            }
        }
    }

    /// Creates or enters a folder. Only `Ownership::Given` and `Source` change the owner of an existing one.
    fn folder(&mut self, target: Target, entry: &Entry) -> Result<()> {
        let Target { folder, name, shown } = target;
        let (fd, is_new) = make_folder(&folder, &name, &shown)?;
        let owner = if is_new {
            self.rules.owner(entry.owner, &folder, None).map_err(file("set up", &shown))?
        } else {
            self.rules.given(entry.owner)
        };
        // Immediately, since files that are created inside inherit it.
        if let Some(owner) = owner {
            set_owner(&fd, owner).map_err(file("set up", &shown))?;
        }
        let mode = Mode::from_bits_truncate(entry.mode & 0o777);
        let metadata = Some(EntryMetadata { owner, mode, modified: entry.modified });
        let is_top = entry.path.as_os_str().is_empty();
        let name = if is_top { CString::default() } else { name };
        self.open.push(Folder { name, fd: Rc::new(fd), metadata });
        Ok(())
    }

    /// The folder and the name of an earlier file of this tree, for a hard link.
    fn linked_file(&self, path: &Path) -> Result<(Rc<OwnedFd>, CString)> {
        let shown = self.shown.join(path);
        let names = names(path)?;
        let top = self.open.first().ok_or(Error::OutOfOrder { what: "a hard link" })?;
        let mut folder = Rc::clone(&top.fd);
        let Some((name, above)) = names.split_last() else {
            return Err(Error::Escape { path: path.to_owned() });
        };
        for name in above {
            let opened = openat(&*folder, name.as_c_str(), FOLDER, Mode::empty());
            folder = Rc::new(opened.map_err(file("open the folder of", &shown))?);
        }
        let stat = fstatat(&*folder, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        let stat = stat.map_err(file("read", &shown))?;
        if kind(&stat) != SFlag::S_IFREG {
            return Err(Error::Special { path: shown });
        }
        Ok((folder, name.clone()))
    }

    /// Appends data to the most recent file.
    pub(crate) fn data(&mut self, data: &[u8]) -> Result<()> {
        let partial = self.file.as_mut().ok_or(Error::OutOfOrder { what: "data" })?;
        partial.append(data).map_err(file("write", &partial.target.shown))
    }

    /// Ends the tree: completes the last file and the open folders.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.complete()?;
        self.close_folders(0)
    }

    fn complete(&mut self) -> Result<()> {
        self.file.take().map_or(Ok(()), PartialFile::publish)
    }

    /// Opens the folder at `names` below the top.
    fn open_folder(&mut self, names: &[CString], shown: &Path) -> Result<Rc<OwnedFd>> {
        if names.len() >= MAX_DEPTH {
            return Err(Error::TooDeep { path: shown.to_owned() });
        }
        let inner = self.open.get(1..).unwrap_or_default();
        let common = inner.iter().zip(names).take_while(|(at, name)| at.name == **name).count();
        self.close_folders(common + 1)?;
        for name in &names[common..] {
            let above = self.current_folder()?;
            let fd = match openat(&*above, name.as_c_str(), FOLDER, Mode::empty()) {
                Err(Errno::ENOENT) if self.parents == Parents::Made => {
                    let (fd, _) = make_folder(&above, name, shown)?;
                    let failed = file("set up the folder of", shown);
                    let owner = self.rules.owner(None, &above, None);
                    let finished = owner.and_then(|owner| {
                        apply_metadata(
                            &fd,
                            EntryMetadata { owner, mode: DEFAULT_FOLDER_MODE, modified: None },
                        )
                    });
                    finished.map_err(failed)?;
                    fd
                }
                opened => opened.map_err(file("open the folder of", shown))?,
            };
            self.open.push(Folder { name: name.clone(), fd: Rc::new(fd), metadata: None });
        }
        self.current_folder()
    }

    fn current_folder(&self) -> Result<Rc<OwnedFd>> {
        let last = self.open.last().ok_or(Error::OutOfOrder { what: "an entry below a file" })?;
        Ok(Rc::clone(&last.fd))
    }

    /// Closes all open folders except the first `kept`, innermost first.
    fn close_folders(&mut self, kept: usize) -> Result<()> {
        while self.open.len() > kept {
            let Some(folder) = self.open.pop() else { break };
            if let Some(metadata) = folder.metadata {
                apply_metadata(&*folder.fd, metadata).map_err(file("set up", &self.shown))?;
            }
        }
        Ok(())
    }

    fn partial_name(&mut self) -> CString {
        self.count += 1;
        let name = format!(".runner-{}-{}.partial", std::process::id(), self.count);
        CString::new(name).unwrap_or_default()
    }
}

/// The components of a path, each a file name; empty for the top.
fn names(path: &Path) -> Result<Vec<CString>> {
    let refused = || Error::Escape { path: path.to_owned() };
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let name = |name: &[u8]| match name {
        b"" | b"." | b".." => Err(refused()),
        name => CString::new(name).map_err(|_| refused()),
    };
    bytes.split(|byte| *byte == b'/').map(name).collect()
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
