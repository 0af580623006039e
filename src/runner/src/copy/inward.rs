//! From this host into a VM.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::vec;

use nix::fcntl::OFlag;
use sandbox::{Entry, EntryKind, Owner, Sandbox, TreeWriter, WriteRequest};

use super::{Meter, name_of, names_folder, step};
use crate::error::{Error, Result, file};

const CHUNK: usize = 128 << 10;

/// Where files go in the VM, and whose they become.
#[derive(Debug, Clone)]
pub(crate) struct Target<'a> {
    pub(crate) path: &'a Path,
    /// Whether missing folders above are made.
    pub(crate) make_parents: bool,
    pub(crate) owner: Option<Owner>,
}

/// Copies a file or a tree.
pub(crate) fn copy_in(
    sandbox: &dyn Sandbox,
    source: &Path,
    target: &Target<'_>,
    meter: Meter<'_>,
) -> Result<()> {
    // Looked at before the guest is told anything: a typing error should cost nothing.
    let top = fs::metadata(source).map_err(file("read", source))?;
    let name = name_of(source);
    refuse_special(source, &top)?;
    let mut writer = sandbox.write(&request(target, name), step())?;
    let mut walk = Walk { writer: &mut *writer, meter, buffer: vec![0; CHUNK] };
    walk.top(source, &top)?;
    Ok(writer.finish(step())?)
}

/// Copies our standard input into one file.
pub(crate) fn copy_stream_in(
    sandbox: &dyn Sandbox,
    mut source: impl Read,
    target: &Target<'_>,
    meter: Meter<'_>,
) -> Result<()> {
    if names_folder(target.path) {
        return Err(Error::FolderToStream { path: target.path.to_owned() });
    }
    let mut writer = sandbox.write(&request(target, None), step())?;
    let kind = EntryKind::File { size: 0 };
    let entry = Entry { path: PathBuf::new(), kind, mode: 0o644, owner: None, modified: None };
    writer.entry(&entry, step())?;
    let mut walk = Walk { writer: &mut *writer, meter, buffer: vec![0; CHUNK] };
    walk.bytes(&mut source, |source| Error::Stdin { source })?;
    Ok(writer.finish(step())?)
}

fn request(target: &Target<'_>, name: Option<PathBuf>) -> WriteRequest {
    WriteRequest {
        target: target.path.to_owned(),
        name,
        make_parents: target.make_parents,
        owner: target.owner,
    }
}

struct Walk<'a> {
    writer: &'a mut dyn TreeWriter,
    meter: Meter<'a>,
    buffer: Vec<u8>,
}

/// A folder that is being walked.
struct Folder {
    /// On this host.
    local: PathBuf,
    /// Below the tree's top.
    path: PathBuf,
    names: vec::IntoIter<std::ffi::OsString>,
}

impl Walk<'_> {
    /// Deep trees cost memory on the heap, not stack, and no descriptors.
    fn top(&mut self, source: &Path, metadata: &Metadata) -> Result<()> {
        let mut folders = Vec::new();
        folders.extend(self.one(source.to_owned(), PathBuf::new(), metadata)?);
        while let Some(folder) = folders.last_mut() {
            let Some(name) = folder.names.next() else {
                folders.pop();
                continue;
            };
            let (local, path) = (folder.local.join(&name), folder.path.join(&name));
            let metadata = fs::symlink_metadata(&local).map_err(file("read", &local))?;
            folders.extend(self.one(local, path, &metadata)?);
        }
        Ok(())
    }

    /// Sends one entry; returns it if it is a folder, to be walked.
    fn one(&mut self, local: PathBuf, path: PathBuf, data: &Metadata) -> Result<Option<Folder>> {
        if data.is_dir() {
            let names = names(&local)?;
            self.entry(&path, EntryKind::Directory, data)?;
            return Ok(Some(Folder { local, path, names: names.into_iter() }));
        }
        if data.is_symlink() {
            let target = fs::read_link(&local).map_err(file("read", &local))?;
            self.entry(&path, EntryKind::Symlink { target }, data)?;
            return Ok(None);
        }
        refuse_special(&local, data)?;
        let mut opened = open(&local, path.as_os_str().is_empty())?;
        // What was opened may be another file than the one that was looked at.
        let data = opened.metadata().map_err(file("read", &local))?;
        refuse_special(&local, &data)?;
        self.entry(&path, EntryKind::File { size: data.len() }, &data)?;
        self.bytes(&mut opened, file("read", local))?;
        Ok(None)
    }

    fn entry(&mut self, path: &Path, kind: EntryKind, data: &Metadata) -> Result<()> {
        let entry = Entry {
            path: path.to_owned(),
            kind,
            mode: data.permissions().mode() & 0o7777,
            owner: None,
            modified: Some(data.mtime()),
        };
        Ok(self.writer.entry(&entry, step())?)
    }

    fn bytes(
        &mut self,
        source: &mut impl Read,
        failed: impl FnOnce(io::Error) -> Error,
    ) -> Result<()> {
        loop {
            match source.read(&mut self.buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.writer.data(&self.buffer[..count], step())?;
                    (self.meter)(count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

/// Without blocking on what became a FIFO meanwhile; below the top, without following a link.
fn open(path: &Path, follow: bool) -> Result<File> {
    let no_follow = if follow { OFlag::empty() } else { OFlag::O_NOFOLLOW };
    let mut options = OpenOptions::new();
    options.read(true).custom_flags((OFlag::O_NONBLOCK | no_follow).bits());
    options.open(path).map_err(file("read", path))
}

/// Sorted: the same tree is always sent in the same order.
fn names(folder: &Path) -> Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(folder).map_err(file("read", folder))?;
    let names: io::Result<Vec<_>> =
        entries.map(|entry| entry.map(|entry| entry.file_name())).collect();
    let mut names = names.map_err(file("read", folder))?;
    names.sort_unstable();
    Ok(names)
}

fn refuse_special(path: &Path, data: &Metadata) -> Result<()> {
    let kind = data.file_type();
    let kind = match () {
        () if kind.is_socket() => "a socket",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_block_device() || kind.is_char_device() => "a device",
        () => return Ok(()),
    };
    Err(Error::NotCopyable { path: path.to_owned(), kind })
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
        let factory = Script::default().factory();
        let sandbox = factory.start(&crate::request::tests::config(), Instant::now()).unwrap();
        let target = Target { path: Path::new("/srv"), make_parents: true, owner: None };
        let result = copy_in(&*sandbox, source, &target, &mut |_| ());
        (factory, result)
    }

    fn described(factory: &Factory) -> Vec<String> {
        let describe = |entry: &Entry| {
            let path = entry.path.display();
            match &entry.kind {
                EntryKind::File { .. } => format!("{path} {:o}", entry.mode),
                EntryKind::Directory => format!("{path}/ {:o}", entry.mode),
                EntryKind::Symlink { target } => format!("{path} -> {}", target.display()),
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
    fn a_socket_in_a_tree_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let _socket = UnixListener::bind(folder.path().join("socket")).unwrap();

        let error = copied(folder.path()).1.unwrap_err().to_string();

        assert!(error.ends_with("socket cannot be copied to a VM: it is a socket"), "{error}");
    }

    #[test]
    fn a_fifo_is_refused_rather_than_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();

        let error = copied(&path).1.unwrap_err();

        assert!(matches!(error, Error::NotCopyable { kind: "a FIFO", .. }));
    }

    #[test]
    fn what_is_not_there_is_named_before_the_guest_is_asked() {
        let (factory, result) = copied(Path::new("/no/such/file"));

        assert_eq!(result.unwrap_err().to_string(), "cannot read /no/such/file");
        assert!(factory.record().writes.is_empty());
    }

    #[test]
    fn standard_input_becomes_one_file() {
        let factory = Script::default().factory();
        let sandbox = factory.start(&crate::request::tests::config(), Instant::now()).unwrap();
        let target = Target { path: Path::new("/srv/x"), make_parents: false, owner: None };
        let bytes = vec![3; 2 * CHUNK + 1];

        copy_stream_in(&*sandbox, &bytes[..], &target, &mut |_| ()).unwrap();

        assert_eq!(factory.record().files[Path::new("/srv/x")], bytes);
    }
}
