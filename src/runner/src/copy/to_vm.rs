//! Sends files of this host to a VM.

use std::collections::HashMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::vec;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Whence, lseek64};
use sandbox::{Entry, EntryKind, Owner, Sandbox, Special, TreeWriter, WriteRequest};

use super::{CopyEvent, Meter, Ownership, name_of, names_folder, step};
use crate::error::{Error, Result, file};

const CHUNK: usize = 128 << 10;

/// The path and the owner of copied files in the VM.
#[derive(Debug, Clone)]
pub(crate) struct Destination<'a> {
    pub(crate) path: &'a Path,
    /// Whether missing parent folders are created.
    pub(crate) make_parents: bool,
    pub(crate) ownership: Ownership,
}

/// Copies a file or a tree.
pub(crate) fn copy_in(
    sandbox: &dyn Sandbox,
    source: &Path,
    target: &Destination<'_>,
    meter: Meter<'_>,
) -> Result<()> {
    // Checked first, so that a mistyped source does not change the guest.
    let top = fs::metadata(source).map_err(file("read", source))?;
    reject_special(source, &top)?;
    let mut request = request(target, name_of(source));
    if target.make_parents && names_folder(target.path) && !top.is_dir() {
        // The target is a folder that is created for the file.
        request.target.extend(request.name.take());
    }
    let mut writer = sandbox.write(&request, step())?;
    let mut walk = Walk::new(&mut *writer, target.ownership, meter);
    walk.tree(source, &top)?;
    Ok(writer.finish(step())?)
}

/// Copies standard input to a file.
pub(crate) fn copy_stream_in(
    sandbox: &dyn Sandbox,
    mut source: impl Read,
    target: &Destination<'_>,
    meter: Meter<'_>,
) -> Result<()> {
    if names_folder(target.path) {
        return Err(Error::FolderToStream { path: target.path.to_owned() });
    }
    let mut writer = sandbox.write(&request(target, None), step())?;
    let kind = EntryKind::File { size: 0 };
    let owner = given(target.ownership);
    let entry = Entry { path: PathBuf::new(), kind, mode: 0o644, owner, modified: None };
    writer.entry(&entry, step())?;
    let mut walk = Walk::new(&mut *writer, target.ownership, meter);
    walk.bytes(&mut source, u64::MAX, &|source| Error::Stdin { source })?;
    Ok(writer.finish(step())?)
}

fn request(target: &Destination<'_>, name: Option<PathBuf>) -> WriteRequest {
    let owner = match target.ownership {
        Ownership::New(owner) | Ownership::Given(owner) => Some(owner),
        Ownership::Inherited | Ownership::Source => None,
    };
    WriteRequest {
        target: target.path.to_owned(),
        name,
        make_parents: target.make_parents,
        owner,
        keeps_existing: target.ownership != Ownership::Source,
    }
}

/// The owner of all files, if it is given.
fn given(ownership: Ownership) -> Option<Owner> {
    match ownership {
        Ownership::Given(owner) => Some(owner),
        Ownership::Inherited | Ownership::New(_) | Ownership::Source => None,
    }
}

struct Walk<'a> {
    writer: &'a mut dyn TreeWriter,
    ownership: Ownership,
    meter: Meter<'a>,
    buffer: Vec<u8>,
    /// The first path that was sent of each file with several links, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

/// Makes the error of a source that cannot be read.
type ReadFailed<'a> = &'a dyn Fn(io::Error) -> Error;

/// A folder whose entries are being sent.
struct Folder {
    /// On this host.
    local: PathBuf,
    /// Below the tree's top.
    path: PathBuf,
    names: vec::IntoIter<std::ffi::OsString>,
}

impl<'a> Walk<'a> {
    fn new(writer: &'a mut dyn TreeWriter, ownership: Ownership, meter: Meter<'a>) -> Self {
        Self { writer, ownership, meter, buffer: vec![0; CHUNK], links: HashMap::new() }
    }

    /// Sends a whole tree. Iterative, so deep trees use neither stack nor descriptors.
    fn tree(&mut self, source: &Path, metadata: &Metadata) -> Result<()> {
        let mut folders = Vec::new();
        folders.extend(self.entry(source.to_owned(), PathBuf::new(), metadata)?);
        while let Some(folder) = folders.last_mut() {
            let Some(name) = folder.names.next() else {
                folders.pop();
                continue;
            };
            let (local, path) = (folder.local.join(&name), folder.path.join(&name));
            let metadata = fs::symlink_metadata(&local).map_err(file("read", &local))?;
            folders.extend(self.entry(local, path, &metadata)?);
        }
        Ok(())
    }

    /// Sends one entry; returns a folder, whose entries are next.
    fn entry(&mut self, local: PathBuf, path: PathBuf, data: &Metadata) -> Result<Option<Folder>> {
        if data.is_dir() {
            let names = names(&local)?;
            self.send_entry(&path, EntryKind::Directory, data)?;
            return Ok(Some(Folder { local, path, names: names.into_iter() }));
        }
        if data.is_symlink() {
            let target = fs::read_link(&local).map_err(file("read", &local))?;
            self.send_entry(&path, EntryKind::Symlink { target }, data)?;
            return Ok(None);
        }
        if let Some(kind) = special(data) {
            (self.meter)(CopyEvent::Skipped { path: &local, kind });
            return Ok(None);
        }
        let mut opened = open(&local, path.as_os_str().is_empty())?;
        // The opened file may be another one than the file of `symlink_metadata`.
        let data = opened.metadata().map_err(file("read", &local))?;
        reject_special(&local, &data)?;
        if data.nlink() > 1 {
            if let Some(first) = self.links.get(&(data.dev(), data.ino())) {
                let target = first.clone();
                self.send_entry(&path, EntryKind::HardLink { target }, &data)?;
                return Ok(None);
            }
            self.links.insert((data.dev(), data.ino()), path.clone());
        }
        (self.meter)(CopyEvent::File);
        self.send_entry(&path, EntryKind::File { size: data.len() }, &data)?;
        self.content(&mut opened, &data, &|source| file("read", &local)(source))?;
        Ok(None)
    }

    /// Sends the data and the holes of a file.
    fn content(
        &mut self,
        opened: &mut File,
        data: &Metadata,
        failed: ReadFailed<'_>,
    ) -> Result<()> {
        let (size, mut at) = (data.len(), 0);
        if data.blocks() * 512 >= size {
            return self.bytes(opened, u64::MAX, failed);
        }
        while at < size {
            let start = match seek(opened, at, Whence::SeekData) {
                Ok(start) => start.min(size),
                // No more data: the rest is a hole.
                Err(Errno::ENXIO) => size,
                // A virtual file that does not support SEEK_DATA.
                Err(Errno::EINVAL) if at == 0 => return self.bytes(opened, u64::MAX, failed),
                Err(errno) => return Err(failed(errno.into())),
            };
            if start > at {
                let kind = EntryKind::Hole { length: start - at };
                let path = PathBuf::new();
                let hole = Entry { path, kind, mode: 0, owner: None, modified: None };
                self.writer.entry(&hole, step())?;
            }
            at = start;
            if at < size {
                let end = seek(opened, at, Whence::SeekHole);
                let end = end.map_err(|errno| failed(errno.into()))?;
                opened.seek(SeekFrom::Start(at)).map_err(failed)?;
                self.bytes(opened, end - at, failed)?;
                at = end;
            }
        }
        Ok(())
    }

    fn send_entry(&mut self, path: &Path, kind: EntryKind, data: &Metadata) -> Result<()> {
        let entry = Entry {
            path: path.to_owned(),
            kind,
            mode: data.permissions().mode() & 0o7777,
            owner: match self.ownership {
                Ownership::Source => Some(Owner { uid: data.uid(), gid: data.gid() }),
                ownership => given(ownership),
            },
            modified: Some(data.mtime()),
        };
        Ok(self.writer.entry(&entry, step())?)
    }

    /// Sends at most `limit` bytes.
    fn bytes(
        &mut self,
        source: &mut impl Read,
        mut limit: u64,
        failed: ReadFailed<'_>,
    ) -> Result<()> {
        while limit > 0 {
            let room = usize::try_from(limit).map_or(CHUNK, |limit| limit.min(CHUNK));
            match source.read(&mut self.buffer[..room]) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.writer.data(&self.buffer[..count], step())?;
                    (self.meter)(CopyEvent::Bytes(count as u64));
                    limit -= count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }
}

fn seek(file: &File, at: u64, whence: Whence) -> nix::Result<u64> {
    let at = i64::try_from(at).map_err(|_| Errno::EOVERFLOW)?;
    lseek64(file, at, whence).map(|found| u64::try_from(found).unwrap_or(0))
}

/// Opens without blocking on a FIFO; below the top, without following a link.
fn open(path: &Path, follow: bool) -> Result<File> {
    let no_follow = if follow { OFlag::empty() } else { OFlag::O_NOFOLLOW };
    let mut options = OpenOptions::new();
    options.read(true).custom_flags((OFlag::O_NONBLOCK | no_follow).bits());
    options.open(path).map_err(file("read", path))
}

/// The names in a folder, sorted: a tree is always sent in the same order.
fn names(folder: &Path) -> Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(folder).map_err(file("read", folder))?;
    let names: io::Result<Vec<_>> =
        entries.map(|entry| entry.map(|entry| entry.file_name())).collect();
    let mut names = names.map_err(file("read", folder))?;
    names.sort_unstable();
    Ok(names)
}

/// Fails for a device, FIFO or socket: a source of the command line is not skipped silently.
fn reject_special(path: &Path, data: &Metadata) -> Result<()> {
    match special(data) {
        Some(kind) => Err(Error::NotCopyable { path: path.to_owned(), kind }),
        None => Ok(()),
    }
}

fn special(data: &Metadata) -> Option<Special> {
    let kind = data.file_type();
    if kind.is_socket() {
        Some(Special::Socket)
    } else if kind.is_fifo() {
        Some(Special::Fifo)
    } else if kind.is_block_device() || kind.is_char_device() {
        Some(Special::Device)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::time::Instant;

    use sandbox::SandboxFactory as _;
    use sandbox::fake::{Factory, Script};

    use super::*;

    fn copied(source: &Path) -> (Factory, Result<()>) {
        copied_with(source, Ownership::Inherited, &mut |_| ())
    }

    fn copied_with(source: &Path, ownership: Ownership, meter: Meter<'_>) -> (Factory, Result<()>) {
        let factory = Script::default().factory();
        let sandbox = factory
            .start(&sandbox::fake::config(), &sandbox::Cancellation::new(), Instant::now())
            .unwrap();
        let target = Destination { path: Path::new("/srv"), make_parents: true, ownership };
        let result = copy_in(&*sandbox, source, &target, meter);
        (factory, result)
    }

    fn described(factory: &Factory) -> Vec<String> {
        let describe = |entry: &Entry| {
            let path = entry.path.display();
            match &entry.kind {
                EntryKind::File { .. } => format!("{path} {:o}", entry.mode),
                EntryKind::Directory => format!("{path}/ {:o}", entry.mode),
                EntryKind::Symlink { target } => format!("{path} -> {}", target.display()),
                EntryKind::HardLink { target } => format!("{path} = {}", target.display()),
                EntryKind::Hole { length } => format!("hole of {length}"),
                EntryKind::Special(kind) => format!("{path} is {kind}"),
            }
        };
        factory.record().entries.iter().map(describe).collect()
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_tree_is_sent_in_order_with_modes_links_times_and_empty_folders() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir_all(tree.join("b/empty")).unwrap();
        fs::write(tree.join("a"), "content").unwrap();
        symlink("../nowhere", tree.join("b/link")).unwrap();
        set_mode(&tree.join("a"), 0o4750);
        for folder in [&tree, &tree.join("b"), &tree.join("b/empty")] {
            set_mode(folder, 0o755);
        }

        let (factory, result) = copied(&tree);

        result.unwrap();
        let expected = ["/ 755", "a 4750", "b/ 755", "b/empty/ 755", "b/link -> ../nowhere"];
        assert_eq!(described(&factory), expected);
        let record = factory.record();
        assert_eq!(record.files[Path::new("/srv/a")], b"content");
        assert!(record.entries.iter().all(|entry| entry.modified.is_some()));
        assert_eq!(record.writes[0].name, Some("tree".into()));
    }

    #[test]
    fn a_link_on_the_command_line_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "content").unwrap();
        symlink("file", folder.path().join("link")).unwrap();

        let (factory, result) = copied(&folder.path().join("link"));

        result.unwrap();
        assert_eq!(factory.record().files[Path::new("/srv")], b"content");
        assert_eq!(factory.record().writes[0].name, Some("link".into()));
    }

    #[test]
    fn sockets_and_fifos_in_a_tree_are_skipped_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let _socket = UnixListener::bind(tree.join("a-socket")).unwrap();
        nix::unistd::mkfifo(&tree.join("b-fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        fs::write(tree.join("c-file"), "content").unwrap();
        set_mode(&tree, 0o755);
        set_mode(&tree.join("c-file"), 0o644);

        let mut skipped = Vec::new();
        let (factory, result) = copied_with(&tree, Ownership::Inherited, &mut |event| {
            if let CopyEvent::Skipped { path, kind } = event {
                skipped.push(format!("{} is {kind}", path.file_name().unwrap().display()));
            }
        });

        result.unwrap();
        assert_eq!(described(&factory), ["/ 755", "c-file 644"]);
        assert_eq!(skipped, ["a-socket is a socket", "b-fifo is a FIFO"]);
    }

    #[test]
    fn further_links_of_a_file_are_sent_as_hard_links() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir_all(tree.join("z")).unwrap();
        fs::write(tree.join("a"), "content").unwrap();
        fs::hard_link(tree.join("a"), tree.join("b")).unwrap();
        fs::hard_link(tree.join("a"), tree.join("z/c")).unwrap();
        set_mode(&tree.join("a"), 0o644);
        for folder in [&tree, &tree.join("z")] {
            set_mode(folder, 0o755);
        }

        let (factory, result) = copied(&tree);

        result.unwrap();
        assert_eq!(described(&factory), ["/ 755", "a 644", "b = a", "z/ 755", "z/c = a"]);
    }

    #[test]
    fn holes_are_sent_as_holes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let file = File::create(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 4096], 1 << 20).unwrap();
        file.set_len(3 << 20).unwrap();
        set_mode(&path, 0o600);

        let (factory, result) = copied(&path);

        result.unwrap();
        let expected = [" 600", "hole of 1048576", "hole of 2093056"];
        assert_eq!(described(&factory), expected);
        assert_eq!(factory.record().files[Path::new("/srv")], [7; 4096]);
    }

    #[test]
    fn the_guest_chooses_owners_unless_they_are_given_or_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "").unwrap();
        let own = fs::metadata(&path).unwrap();
        let (ours, other) =
            (Owner { uid: own.uid(), gid: own.gid() }, Owner { uid: 1000, gid: 50 });

        for (ownership, of_request, of_entry, keeps) in [
            (Ownership::Inherited, None, None, true),
            (Ownership::New(other), Some(other), None, true),
            (Ownership::Given(other), Some(other), Some(other), true),
            (Ownership::Source, None, Some(ours), false),
        ] {
            let (factory, result) = copied_with(&path, ownership, &mut |_| ());
            result.unwrap();
            let record = factory.record();
            let request = &record.writes[0];
            assert_eq!((request.owner, request.keeps_existing), (of_request, keeps));
            assert_eq!(record.entries[0].owner, of_entry);
        }
    }

    #[test]
    fn a_file_is_copied_into_a_folder_that_is_created_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "x").unwrap();
        let factory = Script::default().factory();
        let sandbox = factory
            .start(&sandbox::fake::config(), &sandbox::Cancellation::new(), Instant::now())
            .unwrap();
        for make_parents in [true, false] {
            let ownership = Ownership::Inherited;
            let target = Destination { path: Path::new("/absent/"), make_parents, ownership };
            copy_in(&*sandbox, &path, &target, &mut |_| ()).unwrap();
        }

        let writes = &factory.record().writes;
        let sent = |at: usize| (writes[at].target.to_str(), writes[at].name.clone());
        assert_eq!(sent(0), (Some("/absent/file"), None));
        assert_eq!(sent(1), (Some("/absent/"), Some("file".into())));
    }

    #[test]
    fn a_fifo_as_source_is_rejected_without_blocking() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();

        let error = copied(&path).1.unwrap_err();

        assert!(matches!(error, Error::NotCopyable { kind: Special::Fifo, .. }));
    }

    #[test]
    fn a_missing_source_fails_before_the_guest_is_asked() {
        let (factory, result) = copied(Path::new("/no/such/file"));

        assert_eq!(result.unwrap_err().to_string(), "cannot read /no/such/file");
        assert!(factory.record().writes.is_empty());
    }

    #[test]
    fn standard_input_becomes_one_file() {
        let factory = Script::default().factory();
        let sandbox = factory
            .start(&sandbox::fake::config(), &sandbox::Cancellation::new(), Instant::now())
            .unwrap();
        let target = Destination {
            path: Path::new("/srv/x"),
            make_parents: false,
            ownership: Ownership::Inherited,
        };
        let bytes = vec![3; 2 * CHUNK + 1];

        copy_stream_in(&*sandbox, &bytes[..], &target, &mut |_| ()).unwrap();

        assert_eq!(factory.record().files[Path::new("/srv/x")], bytes);
    }
}
