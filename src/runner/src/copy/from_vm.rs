//! Copies files of a VM to this host.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use archive::{ExtractOptions, Metadata, Node, TreeExtractor};
use sandbox::{Entry, EntryKind, Owner, Sandbox, TreeItem};

use super::{CopyEvent, Meter, Ownership, name_of, names_folder, step, without_dot};
use crate::error::{Error, Result, file};

/// How many folders a path may lead through: each open one costs a descriptor.
const MAX_DEPTH: usize = 255;

/// The content of a hole in a stream.
const ZEROS: [u8; 4096] = [0; 4096];

/// Copies a file or a tree to `destination`.
pub(crate) fn copy_out(
    sandbox: &dyn Sandbox,
    source: &Path,
    destination: &Path,
    ownership: Ownership,
    meter: Meter<'_>,
) -> Result<()> {
    let mut reader = sandbox.read(without_dot(source), step())?;
    let mut extractor: Option<TreeExtractor> = None;
    while let Some(item) = reader.next(step())? {
        match (item, &mut extractor) {
            (TreeItem::Entry(Entry { kind: EntryKind::Special(kind), path, .. }), Some(_)) => {
                meter(CopyEvent::Skipped { path: &source.join(path), kind });
            }
            (TreeItem::Entry(entry), Some(extractor)) => {
                extract(extractor, &entry)?;
                note_file(&entry, meter);
            }
            (TreeItem::Entry(entry), None) => {
                let mut opened = open(source, destination, &entry, ownership)?;
                extract(&mut opened, &entry)?;
                note_file(&entry, meter);
                extractor = Some(opened);
            }
            (TreeItem::Data(data), Some(extractor)) => {
                extractor.data(&data)?;
                meter(CopyEvent::Bytes(data.len() as u64));
            }
            (TreeItem::Data(_), None) => return Err(Error::OutOfOrder { what: "data" }),
        }
    }
    match extractor {
        Some(extractor) => Ok(extractor.finish()?),
        None => Err(Error::OutOfOrder { what: "an end of the tree" }),
    }
}

/// Extracts the next file, folder, link or hole.
fn extract(extractor: &mut TreeExtractor, entry: &Entry) -> Result<()> {
    let node = match &entry.kind {
        EntryKind::Directory => Node::Directory,
        EntryKind::File { .. } => Node::File,
        EntryKind::Symlink { target } => Node::Symlink(target),
        EntryKind::HardLink { target } => Node::HardLink(target),
        EntryKind::Hole { length } => return Ok(extractor.hole(*length)?),
        EntryKind::Special(_) => {
            return Err(Error::OutOfOrder { what: "a device, FIFO or socket" });
        }
    };
    let owner = entry.owner.map(owner);
    let metadata = Metadata { mode: entry.mode, owner, modified: entry.modified };
    Ok(extractor.entry(&entry.path, node, &metadata)?)
}

fn on_host(ownership: Ownership) -> archive::Ownership {
    match ownership {
        Ownership::Inherited => archive::Ownership::Inherited,
        Ownership::New(new) => archive::Ownership::New(owner(new)),
        Ownership::Given(given) => archive::Ownership::Given(owner(given)),
        Ownership::Source => archive::Ownership::Source,
    }
}

fn owner(Owner { uid, gid }: Owner) -> archive::Owner {
    archive::Owner { uid, gid }
}

fn note_file(entry: &Entry, meter: Meter<'_>) {
    if matches!(entry.kind, EntryKind::File { .. }) {
        meter(CopyEvent::File);
    }
}

/// Copies a file to standard output.
pub(crate) fn copy_stream_out(
    sandbox: &dyn Sandbox,
    source: &Path,
    out: &mut impl Write,
    meter: Meter<'_>,
) -> Result<()> {
    let mut write = |data: &[u8]| {
        meter(CopyEvent::Bytes(data.len() as u64));
        out.write_all(data).map_err(|source| Error::Output { source })
    };
    let mut reader = sandbox.read(source, step())?;
    let mut begun = false;
    while let Some(item) = reader.next(step())? {
        match item {
            TreeItem::Entry(Entry { kind: EntryKind::File { .. }, .. }) if !begun => begun = true,
            TreeItem::Entry(Entry { kind: EntryKind::Hole { length }, .. }) if begun => {
                let mut left = length;
                while left > 0 {
                    let count = left.min(ZEROS.len() as u64);
                    write(&ZEROS[..count as usize])?;
                    left -= count;
                }
            }
            TreeItem::Data(data) if begun => write(&data)?,
            TreeItem::Entry(_) => return Err(Error::FolderToStream { path: source.to_owned() }),
            TreeItem::Data(_) => return Err(Error::OutOfOrder { what: "data" }),
        }
    }
    Ok(())
}

/// Chooses the folder and the name for the tree. Neither depends on names that the guest sent.
fn open(
    source: &Path,
    destination: &Path,
    top: &Entry,
    ownership: Ownership,
) -> Result<TreeExtractor> {
    let options = ExtractOptions {
        depth: MAX_DEPTH,
        ownership: on_host(ownership),
        keeps_mode: ownership != Ownership::Source,
        ..ExtractOptions::default()
    };
    let is_folder = top.kind == EntryKind::Directory;
    match fs::metadata(destination) {
        Ok(data) if data.is_dir() => match name_of(source) {
            Some(name) => Ok(TreeExtractor::in_folder(
                open_folder(destination)?,
                &name,
                destination,
                options,
            )?),
            None if is_folder => {
                Ok(TreeExtractor::into(open_folder(destination)?, destination, options))
            }
            None => Err(Error::OutOfOrder { what: "a file instead of a folder" }),
        },
        Ok(data) if !data.is_file() => Err(Error::Special { path: destination.to_owned() }),
        Ok(_) if is_folder => Err(Error::NotADirectory { path: destination.to_owned() }),
        // A link on this host stays; the file that it points to is replaced.
        Ok(_) => {
            let behind = fs::canonicalize(destination).map_err(file("read", destination))?;
            at_path(&behind, options)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if names_folder(destination) && !is_folder {
                return Err(Error::NotADirectory { path: destination.to_owned() });
            }
            at_path(destination, options)
        }
        Err(error) => Err(file("read", destination)(error)),
    }
}

/// Extracts to exactly this path.
fn at_path(path: &Path, options: ExtractOptions) -> Result<TreeExtractor> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let Some(name) = path.file_name() else {
        return Err(Error::NotADirectory { path: path.to_owned() });
    };
    Ok(TreeExtractor::in_folder(open_folder(parent)?, Path::new(name), parent, options)?)
}

fn open_folder(path: &Path) -> Result<File> {
    File::open(path).map_err(file("open", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::time::Instant;

    use sandbox::SandboxFactory as _;
    use sandbox::Special;
    use sandbox::fake::Script;

    use std::path::PathBuf;

    use super::*;

    fn entry(path: &str, kind: EntryKind, mode: u32) -> TreeItem {
        let path = PathBuf::from(path);
        TreeItem::Entry(Entry { path, kind, mode, owner: None, modified: Some(1_000_000_000) })
    }

    fn folder(path: &str) -> TreeItem {
        entry(path, EntryKind::Directory, 0o755)
    }

    fn plain(path: &str) -> TreeItem {
        entry(path, EntryKind::File { size: 0 }, 0o644)
    }

    fn link(path: &str, target: &str) -> TreeItem {
        entry(path, EntryKind::Symlink { target: target.into() }, 0o777)
    }

    fn data(text: &str) -> TreeItem {
        TreeItem::Data(text.into())
    }

    /// Copies from a guest that answers a read of `source` with these items.
    fn copied(source: &str, destination: &Path, items: Vec<TreeItem>) -> Result<()> {
        let factory = Script::default().tree(source.trim_end_matches("/."), items).factory();
        let sandbox = factory
            .start(&sandbox::fake::config(), &sandbox::Cancellation::new(), Instant::now())
            .unwrap();
        let ownership = Ownership::Inherited;
        copy_out(&*sandbox, Path::new(source), destination, ownership, &mut |_| ())
    }

    /// A guest sends a folder with these items to `<temporary>/out`.
    fn attack(items: Vec<TreeItem>) -> (tempfile::TempDir, Error) {
        let temporary = tempfile::tempdir().unwrap();
        let items = [vec![folder("")], items].concat();
        let error = copied("/x", &temporary.path().join("out"), items).unwrap_err();
        (temporary, error)
    }

    /// The names of all files below a folder.
    fn names(folder: &Path) -> Vec<String> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
            if path.is_dir() && !path.is_symlink() {
                names.extend(self::names(&path));
            }
        }
        names.sort();
        names
    }

    #[test]
    fn a_tree_is_extracted_with_modes_times_links_and_empty_folders() {
        let temporary = tempfile::tempdir().unwrap();
        let out = temporary.path().join("out");
        let items = vec![
            folder(""),
            entry("a", EntryKind::Directory, 0o555),
            entry("a/script", EntryKind::File { size: 3 }, 0o750),
            data("on"),
            data("e"),
            folder("empty"),
            link("link", "/etc/passwd"),
            plain("last"),
        ];

        copied("/x", &out, items).unwrap();

        let script = fs::metadata(out.join("a/script")).unwrap();
        assert_eq!(fs::read(out.join("a/script")).unwrap(), b"one");
        assert_eq!((script.mode() & 0o7777, script.mtime()), (0o750, 1_000_000_000));
        let inner = fs::metadata(out.join("a")).unwrap();
        assert_eq!((inner.mode() & 0o7777, inner.mtime()), (0o555, 1_000_000_000));
        assert!(out.join("empty").is_dir());
        assert_eq!(fs::read_link(out.join("link")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(fs::symlink_metadata(out.join("link")).unwrap().mtime(), 1_000_000_000);
        assert_eq!(names(&out), ["a", "empty", "last", "link", "script"]);
    }

    #[test]
    fn a_source_is_copied_into_an_existing_folder_under_its_name() {
        let temporary = tempfile::tempdir().unwrap();
        copied("/srv/file", temporary.path(), vec![plain(""), data("x")]).unwrap();
        assert_eq!(fs::read(temporary.path().join("file")).unwrap(), b"x");
    }

    fn hard_link(path: &str, target: &str) -> TreeItem {
        entry(path, EntryKind::HardLink { target: target.into() }, 0o644)
    }

    fn hole(length: u64) -> TreeItem {
        entry("", EntryKind::Hole { length }, 0)
    }

    #[test]
    fn hard_links_and_holes_are_kept_and_fifos_are_skipped() {
        let temporary = tempfile::tempdir().unwrap();
        let out = temporary.path().join("out");
        let items = vec![
            folder(""),
            folder("a"),
            plain("a/disk"),
            hole(1 << 20),
            data("end"),
            hole(1 << 20),
            entry("fifo", EntryKind::Special(Special::Fifo), 0o644),
            hard_link("second", "a/disk"),
        ];
        let factory = Script::default().tree("/x", items.clone()).factory();
        let sandbox = factory
            .start(&sandbox::fake::config(), &sandbox::Cancellation::new(), Instant::now())
            .unwrap();
        let mut skipped = Vec::new();

        // Again over what is there: the names are one file's already.
        for _ in 0..2 {
            copy_out(&*sandbox, Path::new("/x/."), &out, Ownership::Inherited, &mut |event| {
                if let CopyEvent::Skipped { path, .. } = event {
                    skipped.push(path.to_owned());
                }
            })
            .unwrap();
        }

        let disk = fs::metadata(out.join("a/disk")).unwrap();
        assert_eq!((disk.len(), disk.nlink()), ((2 << 20) + 3, 2));
        assert!(disk.blocks() * 512 < 1 << 20);
        assert_eq!(fs::metadata(out.join("second")).unwrap().ino(), disk.ino());
        assert_eq!(fs::read(out.join("second")).unwrap()[1 << 20..][..3], *b"end");
        assert_eq!(names(&out), ["a", "disk", "second"]);
        assert_eq!(skipped, [Path::new("/x/./fifo"), Path::new("/x/./fifo")]);
    }

    #[test]
    fn a_hard_link_can_only_name_files_of_its_tree() {
        for target in ["../secret", "/etc/passwd", "way/secret", "dir", "way", "absent", ""] {
            let temporary = tempfile::tempdir().unwrap();
            fs::write(temporary.path().join("secret"), "1").unwrap();
            let items =
                vec![folder(""), folder("dir"), link("way", ".."), hard_link("name", target)];
            copied("/x", &temporary.path().join("out"), items).unwrap_err();
            assert_eq!(fs::metadata(temporary.path().join("secret")).unwrap().nlink(), 1);
            assert_eq!(names(&temporary.path().join("out")), ["dir", "way"], "{target}");
        }
    }

    #[test]
    fn a_replaced_file_keeps_its_mode_and_a_fifo_is_not_replaced() {
        let temporary = tempfile::tempdir().unwrap();
        let at = |name: &str| temporary.path().join(name);
        fs::write(at("file"), "old").unwrap();
        fs::set_permissions(at("file"), PermissionsExt::from_mode(0o4640)).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();

        copied("/srv/.", temporary.path(), vec![folder(""), plain("file"), data("new")]).unwrap();
        let error = copied("/srv/.", temporary.path(), vec![folder(""), plain("fifo")]);

        assert_eq!(fs::read(at("file")).unwrap(), b"new");
        assert_eq!(fs::metadata(at("file")).unwrap().mode() & 0o7777, 0o640);
        assert!(matches!(error, Err(Error::Extract { source: archive::Error::Special { .. } })));
        assert_eq!(names(temporary.path()), ["fifo", "file"]);
    }

    #[test]
    #[ignore = "needs root"]
    fn copies_of_root_belong_to_the_owner_of_the_folder_unless_one_is_given() {
        let temporary = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(temporary.path(), Some(1234), Some(567)).unwrap();
        let out = |name: &str| temporary.path().join(name);
        let factory = Script::default().tree("/x", vec![folder(""), plain("f")]).factory();
        let sandbox = factory
            .start(&sandbox::fake::config(), &sandbox::Cancellation::new(), Instant::now())
            .unwrap();
        let owner = |path: PathBuf| {
            let data = fs::metadata(path).unwrap();
            (data.uid(), data.gid())
        };

        for (name, ownership, expected) in [
            ("inherited", Ownership::Inherited, (1234, 567)),
            ("given", Ownership::Given(Owner { uid: 7, gid: 8 }), (7, 8)),
        ] {
            copy_out(&*sandbox, Path::new("/x"), &out(name), ownership, &mut |_| ()).unwrap();
            assert_eq!(owner(out(name)), expected);
            assert_eq!(owner(out(name).join("f")), expected);
        }
        copy_out(&*sandbox, Path::new("/x/."), &out("given"), Ownership::Inherited, &mut |_| ())
            .unwrap();
        assert_eq!(owner(out("given").join("f")), (7, 8));
    }

    #[test]
    fn a_source_that_ends_with_a_dot_means_the_contents_of_the_folder() {
        let temporary = tempfile::tempdir().unwrap();
        copied("/srv/.", temporary.path(), vec![folder(""), plain("file")]).unwrap();
        assert_eq!(names(temporary.path()), ["file"]);
    }

    #[test]
    fn a_file_replaces_a_file_and_is_seen_whole_or_not_at_all() {
        let temporary = tempfile::tempdir().unwrap();
        let out = temporary.path().join("out");
        fs::write(&out, "old").unwrap();
        let TreeItem::Entry(top) = plain("") else { panic!("no entry") };

        let mut extractor = open(Path::new("/x"), &out, &top, Ownership::Inherited).unwrap();
        extract(&mut extractor, &top).unwrap();
        extractor.data(b"half").unwrap();
        drop(extractor);
        assert_eq!(fs::read(&out).unwrap(), b"old");
        assert_eq!(names(temporary.path()), ["out"]);

        copied("/x", &out, vec![plain(""), data("new")]).unwrap();
        assert_eq!(fs::read(&out).unwrap(), b"new");
    }

    #[test]
    fn a_link_as_destination_is_followed_and_a_device_is_not_replaced() {
        let temporary = tempfile::tempdir().unwrap();
        let (real, link) = (temporary.path().join("real"), temporary.path().join("link"));
        fs::write(&real, "old").unwrap();
        symlink("real", &link).unwrap();

        copied("/x", &link, vec![plain(""), data("new")]).unwrap();
        assert_eq!(fs::read(&real).unwrap(), b"new");
        assert!(link.is_symlink());

        let error = copied("/x", Path::new("/dev/null"), vec![plain("")]).unwrap_err();
        assert!(matches!(error, Error::Special { .. }));
    }

    #[test]
    fn a_folder_is_merged_into_an_existing_one() {
        let temporary = tempfile::tempdir().unwrap();
        fs::create_dir_all(temporary.path().join("x/a")).unwrap();
        fs::write(temporary.path().join("x/a/kept"), "").unwrap();
        copied("/x", temporary.path(), vec![folder(""), folder("a"), plain("a/new")]).unwrap();
        assert_eq!(names(temporary.path()), ["a", "kept", "new", "x"]);
    }

    #[test]
    fn paths_with_dots_and_absolute_paths_are_rejected() {
        for path in ["..", "../evil", "a/../../evil", "/evil", ".", "./a", "a//b", "a/", "a/."] {
            let (temporary, error) = attack(vec![folder("a"), plain(path), data("x")]);
            assert!(
                matches!(error, Error::Extract { source: archive::Error::Escape { .. } }),
                "{path}: {error}"
            );
            assert_eq!(names(temporary.path()), ["a", "out"]);
        }
    }

    #[test]
    fn a_link_that_the_guest_sent_is_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().to_str().unwrap();
        let (_temporary, error) = attack(vec![link("a", target), plain("a/evil"), data("x")]);
        assert!(matches!(error, Error::Extract { source: archive::Error::File { .. } }), "{error}");
        assert!(names(outside.path()).is_empty());
    }

    #[test]
    fn a_link_that_replaced_a_folder_is_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().to_str().unwrap();
        let (_temporary, error) =
            attack(vec![folder("a"), folder("b"), link("a", target), plain("a/evil")]);
        assert!(matches!(error, Error::Extract { source: archive::Error::File { .. } }), "{error}");
        assert!(names(outside.path()).is_empty());
    }

    #[test]
    fn an_existing_link_below_the_destination_is_replaced_and_not_followed() {
        let temporary = tempfile::tempdir().unwrap();
        let (victim, out) = (temporary.path().join("victim"), temporary.path().join("out"));
        fs::write(&victim, "safe").unwrap();
        fs::create_dir(&out).unwrap();
        symlink(&victim, out.join("file")).unwrap();

        copied("/x/.", &out, vec![folder(""), plain("file"), data("new")]).unwrap();

        assert_eq!(fs::read(&victim).unwrap(), b"safe");
        assert_eq!(fs::read(out.join("file")).unwrap(), b"new");
    }

    #[test]
    fn setuid_setgid_and_sticky_bits_are_dropped() {
        let temporary = tempfile::tempdir().unwrap();
        let out = temporary.path().join("out");
        copied("/x", &out, vec![entry("", EntryKind::File { size: 0 }, 0o106_755)]).unwrap();
        assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o7777, 0o755);
    }

    #[test]
    fn a_file_has_nothing_below_it_and_a_tree_has_one_top() {
        let temporary = tempfile::tempdir().unwrap();
        let below = copied("/x", &temporary.path().join("a"), vec![plain(""), plain("b")]);
        assert!(matches!(below, Err(Error::Extract { source: archive::Error::OutOfOrder { .. } })));
        let second = copied("/x", &temporary.path().join("b"), vec![folder(""), folder("")]);
        assert!(matches!(
            second,
            Err(Error::Extract { source: archive::Error::OutOfOrder { .. } })
        ));
        let none = copied("/x", &temporary.path().join("c"), vec![plain("name")]);
        assert!(matches!(none, Err(Error::Extract { source: archive::Error::OutOfOrder { .. } })));
    }

    #[test]
    fn data_without_a_file_is_rejected() {
        let (_temporary, error) = attack(vec![data("x")]);
        let source = archive::Error::OutOfOrder { what: "data" };
        assert_eq!(error.chain(), Error::from(source).chain());
    }

    #[test]
    fn a_tree_beyond_the_maximum_depth_is_rejected() {
        let mut path = String::from("a");
        let mut items = vec![folder("a")];
        for _ in 0..300 {
            path.push_str("/a");
            items.push(folder(&path));
        }
        let (_temporary, error) = attack(items);
        assert!(
            matches!(error, Error::Extract { source: archive::Error::TooDeep { .. } }),
            "{error}"
        );
    }

    #[test]
    fn a_stream_takes_a_file_and_no_folder() {
        let items = vec![plain(""), data("one"), data("two")];
        let factory = Script::default().tree("/x", items).tree("/y", vec![folder("")]).factory();
        let sandbox = factory
            .start(&sandbox::fake::config(), &sandbox::Cancellation::new(), Instant::now())
            .unwrap();
        let mut out = Vec::new();

        copy_stream_out(&*sandbox, Path::new("/x"), &mut out, &mut |_| ()).unwrap();
        let error = copy_stream_out(&*sandbox, Path::new("/y"), &mut Vec::new(), &mut |_| ());
        let error = error.unwrap_err();

        assert_eq!(out, b"onetwo");
        assert!(matches!(error, Error::FolderToStream { .. }));
    }
}
