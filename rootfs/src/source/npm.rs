//! Programs of the npm registry, downloaded with the host's npm, so with the host's registry, proxy
//! and credentials.
//!
//! npm only downloads: it runs no scripts and unpacks nothing. An archive is accepted if it has the
//! hash that the recipe states. Its files are added to the tree as plain files of root; other kinds
//! of entries and unsafe paths are rejected.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use base::durable;
use serde_json::Value;

use crate::compress;
use crate::context::Context;
use crate::digest::{self, Key};
use crate::error::{Error, Result};
use crate::members::{Archive, Kind, Member};
use crate::progress::{Meter, Origin, Reporter, Step};
use crate::stage::Stage;
use crate::tool::{NPM, Streams};
use crate::tree::{Content, Meta, Tree, display};

/// The folder that npm itself uses for global packages.
const MODULES: &str = "usr/local/lib/node_modules";
/// The top-level folder of the registry's archives.
const TOP: &[u8] = b"package/";
/// The size limit of npm's output.
const ANSWER: u64 = 1 << 20;

/// One version of a package, and its program.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Package {
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    /// The integrity of its archive, as in lock files: `sha512-BASE64`.
    pub(super) integrity: &'static str,
    /// The path of the program in the package.
    pub(super) file: &'static str,
    /// The name of the program in `PATH`.
    pub(super) command: &'static str,
}

/// A package with a downloaded and verified archive.
pub(super) struct Fetched {
    package: &'static Package,
    archive: PathBuf,
}

/// Downloads a package, unless the cache has it.
pub(super) fn fetch(
    package: &'static Package,
    context: &Context<'_>,
    reporter: &mut Reporter<'_>,
) -> Result<Fetched> {
    let key = Key::new("npm 1").part(package.integrity).finish();
    reporter.step(Step::Package, |_| {
        if let Some(archive) = context.cache.get("npm", &key) {
            return Ok((Fetched { package, archive }, Origin::Cache));
        }
        let made = obtain(package, command(), context.stage)?;
        let archive = context.cache.put("npm", &key, &made)?;
        Ok((Fetched { package, archive }, Origin::Made))
    })
}

/// npm with its configuration from the environment and the user's home.
fn command() -> Command {
    let mut command = NPM.command();
    command.envs(env::vars_os().filter(|(name, _)| is_configuration(name)));
    command
}

fn is_configuration(name: &OsStr) -> bool {
    const NAMES: [&str; 3] = ["HOME", "HTTP_PROXY", "NODE_EXTRA_CA_CERTS"];
    let name = name.to_str().unwrap_or_default();
    NAMES.contains(&name) || name.to_ascii_lowercase().starts_with("npm_config_")
}

/// Downloads the archive with `npm`, and verifies it.
fn obtain(package: &Package, npm: Command, stage: &Stage) -> Result<PathBuf> {
    let archive = download(package, npm, stage).map_err(|source| Error::FetchPackage {
        package: package.spec(),
        source: Box::new(source),
    })?;
    verify(package, &archive)?;
    Ok(archive)
}

fn verify(package: &Package, archive: &Path) -> Result<()> {
    let found = digest::integrity_of_file(archive)?;
    if found != package.integrity {
        let (package, wanted) = (package.spec(), package.integrity);
        return Err(Error::WrongPackage { package, wanted, found });
    }
    Ok(())
}

/// Runs npm to download the archive into the staging folder.
fn download(package: &Package, mut command: Command, stage: &Stage) -> Result<PathBuf> {
    let folder = stage.path("npm");
    durable::create_dir(&folder)?;
    command
        .args(["pack", "--json", "--ignore-scripts", "--no-update-notifier", "--logs-max=0"])
        // Our cache has the archive, so npm's cache need not.
        .arg(format!("--cache={}", stage.path("npm-cache").display()))
        .arg(format!("--pack-destination={}", folder.display()))
        .args(["--", &package.spec()])
        .current_dir(&folder);
    let mut running = NPM.start(command, Streams::Output, stage)?;
    let mut answer = Vec::new();
    if let Some(stdout) = running.stdout() {
        stdout
            .take(ANSWER)
            .read_to_end(&mut answer)
            .map_err(|source| Error::ReadTool { tool: NPM.name, source })?;
    }
    running.finish().map_err(|error| explain(error, &answer))?;
    archive_in(folder)
}

/// The archive in the folder. npm's versions name the file differently.
fn archive_in(folder: PathBuf) -> Result<PathBuf> {
    let fail = |source| Error::Read { path: folder.clone(), source };
    for entry in fs::read_dir(&folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.extension() == Some(OsStr::new("tgz")) {
            return Ok(path);
        }
    }
    Err(Error::NothingFetched { folder })
}

/// Replaces the last lines of npm's log, which are a stack trace, by its summary.
fn explain(error: Error, answer: &[u8]) -> Error {
    let summary = serde_json::from_slice::<Value>(answer)
        .ok()
        .and_then(|answer| Some(answer.get("error")?.get("summary")?.as_str()?.trim().to_owned()));
    match (error, summary) {
        (Error::ToolFailed { tool, status, .. }, Some(summary)) if !summary.is_empty() => {
            let output = summary.split(['\n', '\r']).collect::<Vec<_>>().join("; ");
            Error::ToolFailed { tool, status, output }
        }
        (error, _) => error,
    }
}

impl Package {
    fn spec(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    /// The package's folder in the guest.
    fn folder(&self) -> String {
        format!("{MODULES}/{}", self.name)
    }
}

impl Fetched {
    pub(super) fn integrity(&self) -> &'static str {
        self.package.integrity
    }

    /// Adds the package's files to the tree, and its program to `PATH`.
    pub(super) fn install(&self, tree: &mut Tree, meter: &mut Meter<'_>) -> Result<()> {
        let fail = |source| Error::Read { path: self.archive.clone(), source };
        let file = fs::File::open(&self.archive).map_err(fail)?;
        let name = self.package.spec();
        let archive = Archive::new(compress::reader(file, &name)?, &name);
        install(tree, self.package, archive, meter)
    }
}

fn install(
    tree: &mut Tree,
    package: &Package,
    mut archive: Archive<impl Read>,
    meter: &mut Meter<'_>,
) -> Result<()> {
    let folder = package.folder();
    while let Some(member) = archive.next_member()? {
        match (inside(&folder, &member), &member.kind) {
            (Some(path), Kind::File) => {
                tree.add(&path, meta(&member), Content::File(&mut archive.body()))?;
            }
            (Some(path), Kind::Directory) => {
                tree.add(&path, meta(&member), Content::Directory)?;
            }
            _ => {
                let (package, member) = (package.spec(), display(&member.path));
                return Err(Error::UnexpectedMember { package, member });
            }
        }
        meter.add(member.size);
    }
    let program = format!("{folder}/{}", package.file);
    if tree.get(program.as_bytes())?.is_none_or(|inode| inode.meta.mode & 0o111 == 0) {
        return Err(Error::NoProgram { package: package.spec(), file: package.file });
    }
    let link = format!("usr/local/bin/{}", package.command);
    let target = format!("/{program}");
    tree.add(link.as_bytes(), Meta::with_mode(0o777), Content::Symlink(target.as_bytes()))
}

/// The path of a member in the tree; `None` outside the archive's top-level folder.
fn inside(folder: &str, member: &Member) -> Option<Vec<u8>> {
    let below = member.path.strip_prefix(TOP)?;
    Some([folder.as_bytes(), b"/", below].concat())
}

/// Files belong to root and are readable by all users. The owner in the archive is the publisher's.
fn meta(member: &Member) -> Meta {
    let for_all = member.kind == Kind::Directory || member.mode & 0o111 != 0;
    Meta { mtime: member.mtime, ..Meta::with_mode(if for_all { 0o755 } else { 0o644 }) }
}

#[cfg(test)]
mod tests;
