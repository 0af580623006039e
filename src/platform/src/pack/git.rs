//! Git repositories in a packed folder, and their parts outside it.
//!
//! | in the folder | in the archive |
//! |---|---|
//! | a `.git` file or link that leads outside: a linked worktree, a submodule, `--separate-git-dir` | a plain repository with the common folder's objects, references and configuration, and the worktree's own `HEAD` and index |
//! | a `.git` file with an absolute path that stays inside | the same with a relative path |
//! | a `.git` folder with alternates | a repository with the objects of the alternates |
//!
//! Warnings name missing parts: a repository that does not exist or is above the folder, git-lfs
//! pointers, partial clones.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use super::{FolderPacker, failed};
use crate::Result;
use crate::error::file;

/// The files that all worktrees of a repository share (gitrepository-layout(5)). Each worktree has
/// its own others.
const SHARED: [&str; 13] = [
    "branches",
    "config",
    "description",
    "hooks",
    "info",
    "lfs",
    "logs",
    "objects",
    "packed-refs",
    "refs",
    "remotes",
    "rr-cache",
    "shallow",
];

/// Files of the main worktree in the shared folders.
const OWN: [&str; 5] =
    ["info/sparse-checkout", "logs/HEAD", "refs/bisect", "refs/rewritten", "refs/worktree"];

/// Files that link a worktree to its repository.
const TIES: [&str; 3] = ["commondir", "gitdir", "locked"];

/// Configuration that overrides the original: `..` is the repository's folder.
const PLAIN: &str = "\n[core]\n\tbare = false\n\tworktree = ..\n";

/// The maximum size of a `.git` file or a list of alternates.
const LONGEST: u64 = 64 << 10;

/// The maximum depth of alternates, as in git.
const DEEPEST: usize = 5;

const LFS: &[u8] = b"version https://git-lfs.github.com/spec/v1";
/// The maximum size of a pointer (git-lfs spec).
const LONGEST_POINTER: u64 = 1024;

/// The findings in a folder that become warnings.
#[derive(Default)]
pub(super) struct Notes {
    pointers: usize,
    /// The first of them.
    pointer: Option<String>,
    is_partial_clone: bool,
}

impl Notes {
    /// Inspects a packed file.
    pub(super) fn look(&mut self, name: &str, open: &fs::File, size: u64) {
        let is_promisor = name.ends_with(".promisor") && name.contains(".git/objects/pack/");
        self.is_partial_clone |= is_promisor;
        let mut start = [0; LFS.len()];
        if (LFS.len() as u64..LONGEST_POINTER).contains(&size)
            && open.read_exact_at(&mut start, 0).is_ok()
            && start == *LFS
        {
            self.pointers += 1;
            self.pointer.get_or_insert_with(|| name.to_owned());
        }
    }

    /// Logs the warnings.
    pub(super) fn tell(&self, folder: &Path) {
        let folder = folder.display();
        if let Some(first) = &self.pointer {
            let count = self.pointers;
            log::warn!(
                "{folder}: {count} files, such as {first}, are git-lfs pointers without their \
                 content: `git lfs pull` fetches it"
            );
        }
        if self.is_partial_clone {
            log::warn!("{folder}: a partial clone: some objects are only at its remote");
        }
    }
}

/// Warns if a folder's repository is above it and so is not packed.
pub(super) fn tell_repository_above(root: &Path) {
    if root.join(".git").symlink_metadata().is_ok() {
        return;
    }
    let above = root.ancestors().skip(1).find(|folder| folder.join(".git").exists());
    if let Some(above) = above {
        let (root, above) = (root.display(), above.display());
        log::warn!("{root}: its git repository in {above} is outside the folder and is left out");
    }
}

/// The files of the packed repository: path in it, and path on the disk.
type Tree = BTreeMap<String, PathBuf>;

/// The folders of a repository.
struct Repository {
    /// Its own `HEAD` and index.
    own: PathBuf,
    /// Objects, references and configuration.
    common: PathBuf,
}

impl FolderPacker<'_> {
    /// Packs what is called `.git`; false if it is packed as anything else is.
    pub(super) fn git(&mut self, path: &Path, name: &str) -> Result<bool> {
        let metadata = fs::symlink_metadata(path).map_err(file("read", path))?;
        if metadata.is_dir() {
            let alternates = path.join("objects/info/alternates");
            if fs::metadata(&alternates).map_or(0, |metadata| metadata.len()) == 0 {
                return Ok(false);
            }
            let repository = Repository { own: path.to_owned(), common: path.to_owned() };
            return self.repository(name, &repository).map(|()| true);
        }
        let Some((given, is_file)) = target(path).map_err(file("read", path))? else {
            return Ok(false);
        };
        let beside = path.parent().unwrap_or(Path::new("."));
        let Ok(own) = fs::canonicalize(beside.join(&given)) else {
            let (path, given) = (path.display(), given.display());
            log::warn!("{path}: its git repository is not there: {given}");
            return Ok(false);
        };
        if own.starts_with(&self.root) {
            if !is_file || given.is_relative() {
                return Ok(false);
            }
            let beside = fs::canonicalize(beside).map_err(file("read", beside))?;
            let relative = relative(&own, &beside);
            let text = format!("gitdir: {}\n", relative.display());
            return self.text(name, &text, &metadata).map(|()| true);
        }
        let common = common(&own).map_err(file("read", &own))?;
        self.repository(name, &Repository { own, common }).map(|()| true)
    }

    /// Packs a plain repository.
    fn repository(&mut self, name: &str, repository: &Repository) -> Result<()> {
        let Repository { own, common } = repository;
        let is_linked = own != common;
        let mut tree = Tree::new();
        let of_own = |inner: &str| {
            !(is_linked && TIES.contains(&inner)) && inner != "objects/info/alternates"
        };
        let of_common = |inner: &str| {
            let first = inner.split('/').next().unwrap_or_default();
            SHARED.contains(&first) && !OWN.contains(&inner) && inner != "objects/info/alternates"
        };
        let of_alternate = |inner: &str| {
            let is_index = inner.contains("multi-pack-index") || inner.ends_with(".bitmap");
            !inner.starts_with("objects/info") && !is_index
        };
        collect(own, "", &of_own, &mut tree).map_err(file("read", own))?;
        if is_linked {
            collect(common, "", &of_common, &mut tree).map_err(file("read", common))?;
        }
        for objects in alternates(&common.join("objects")) {
            collect(&objects, "objects", &of_alternate, &mut tree)
                .map_err(file("read", &objects))?;
        }
        let metadata = fs::metadata(own).map_err(file("read", own))?;
        self.directory(own, name, &metadata)?;
        for (inner, path) in &tree {
            self.piece(path, &format!("{name}/{inner}"), inner == "config")?;
        }
        Ok(())
    }

    /// Packs a file, link or folder of a repository, without the folder's entries.
    fn piece(&mut self, path: &Path, name: &str, is_config: bool) -> Result<()> {
        let metadata = fs::symlink_metadata(path).map_err(file("read", path))?;
        if metadata.is_dir() {
            return self.directory(path, name, &metadata);
        }
        if is_config {
            let text = fs::read_to_string(path).map_err(file("read", path))?;
            let lower = text.to_ascii_lowercase();
            if lower.contains("worktree") || lower.contains("bare") {
                return self.text(name, &(text + PLAIN), &metadata);
            }
        }
        self.single(path, name, &metadata)
    }

    /// Packs a file or link as it is.
    fn single(&mut self, path: &Path, name: &str, metadata: &fs::Metadata) -> Result<()> {
        let kind = metadata.file_type();
        if kind.is_symlink() {
            let target = fs::read_link(path).map_err(file("read", path))?;
            return self.archive.symlink(name, &target, metadata).map_err(failed(path));
        }
        if kind.is_file() {
            return self.file(path, name);
        }
        log::warn!("{} is neither a file nor a folder: it is not packed", path.display());
        Ok(())
    }
}

/// The target of a `.git` file or link, and whether it is a file; `None` for other entries.
fn target(path: &Path) -> io::Result<Option<(PathBuf, bool)>> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return Ok(Some((fs::read_link(path)?, false)));
    }
    if !metadata.is_file() || metadata.len() > LONGEST {
        return Ok(None);
    }
    let text = fs::read(path)?;
    let text = String::from_utf8_lossy(&text);
    let given = text.strip_prefix("gitdir:").map(str::trim).filter(|given| !given.is_empty());
    Ok(given.map(|given| (PathBuf::from(given), true)))
}

/// The common folder of a worktree; its own folder if it has none.
fn common(own: &Path) -> io::Result<PathBuf> {
    match fs::read_to_string(own.join("commondir")) {
        Ok(text) => fs::canonicalize(own.join(text.trim())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(own.to_owned()),
        Err(error) => Err(error),
    }
}

/// The object folders that an object folder borrows from, recursively.
fn alternates(objects: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut next = vec![objects.to_owned()];
    for _ in 0..DEEPEST {
        let borrowed = next.iter().flat_map(|objects| {
            let text = fs::read_to_string(objects.join("info/alternates")).unwrap_or_default();
            let lines: Vec<_> = text.lines().map(|line| objects.join(line.trim())).collect();
            lines
        });
        next = borrowed.filter(|path| !found.contains(path)).collect();
        found.extend(next.iter().cloned());
    }
    let is_there = |path: &PathBuf| {
        let is_there = path.is_dir();
        if !is_there {
            log::warn!("{}: borrowed objects of git are not there", path.display());
        }
        is_there
    };
    found.retain(is_there);
    found
}

/// Adds the selected entries of a folder below `inner`. Earlier entries take precedence.
fn collect(
    folder: &Path,
    inner: &str,
    is_wanted: &dyn Fn(&str) -> bool,
    tree: &mut Tree,
) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let below = if inner.is_empty() { name } else { format!("{inner}/{name}") };
        if !is_wanted(&below) {
            continue;
        }
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            collect(&path, &below, is_wanted, tree)?;
        }
        tree.entry(below).or_insert(path);
    }
    Ok(())
}

/// The relative path from a folder to a path; both are absolute and canonical.
fn relative(to: &Path, from: &Path) -> PathBuf {
    let same = to.components().zip(from.components()).take_while(|(one, other)| one == other);
    let same = same.count();
    let up = from.components().skip(same).map(|_| Component::ParentDir);
    up.chain(to.components().skip(same)).collect()
}

#[cfg(test)]
mod tests;
