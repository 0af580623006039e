//! Programs of the npm registry: fetched with the host's npm, so from the registry and through
//! the proxy that the host is configured for.
//!
//! npm only downloads: it runs nothing of a package and unpacks nothing. What it brings is
//! believed if it has the hash that the recipe states, and goes from its archive into the tree as
//! plain files of root; an archive that holds anything else, or a path that climbs, is refused.

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

/// Where npm itself puts what is installed for everybody.
const MODULES: &str = "usr/local/lib/node_modules";
/// The folder that archives of the registry have all their files in.
const TOP: &[u8] = b"package/";
/// The most of npm's answer that is read.
const ANSWER: u64 = 1 << 20;

/// One version of a package, with one program that is wanted of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Package {
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    /// The hash of its archive, as registries and lock files write it: `sha512-BASE64`.
    pub(super) integrity: &'static str,
    /// The program's path in the package.
    pub(super) file: &'static str,
    /// The program's name on the search path.
    pub(super) command: &'static str,
}

/// A package whose archive is here and is the right one.
pub(super) struct Fetched {
    package: &'static Package,
    archive: PathBuf,
}

/// Fetches a package, unless the cache has it.
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

/// npm with its configuration, where it is in the environment or in the user's home.
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

/// Gets the archive with `npm`, and makes sure that it is the right one.
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

/// Has npm download the archive into the staging folder.
fn download(package: &Package, mut command: Command, stage: &Stage) -> Result<PathBuf> {
    let folder = stage.path("npm");
    durable::create_dir(&folder)?;
    command
        .args(["pack", "--json", "--ignore-scripts", "--no-update-notifier", "--logs-max=0"])
        // Our cache keeps the archive: a copy in the user's would only take room.
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

/// What npm left. Its versions disagree on what they call the file in their answer.
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

/// Puts npm's summary in the place of the last lines of its log, which are a trace of its stack.
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

    /// Where its files are in the guest.
    fn folder(&self) -> String {
        format!("{MODULES}/{}", self.name)
    }
}

impl Fetched {
    pub(super) fn integrity(&self) -> &'static str {
        self.package.integrity
    }

    /// Puts the package's files into the tree, and its program on the search path.
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

/// Where a member goes; `None` if it is outside of the one folder that archives have.
fn inside(folder: &str, member: &Member) -> Option<Vec<u8>> {
    let below = member.path.strip_prefix(TOP)?;
    Some([folder.as_bytes(), b"/", below].concat())
}

/// Root's, and for everybody: an archive's owner is whoever published it.
fn meta(member: &Member) -> Meta {
    let for_all = member.kind == Kind::Directory || member.mode & 0o111 != 0;
    Meta { mtime: member.mtime, ..Meta::with_mode(if for_all { 0o755 } else { 0o644 }) }
}

#[cfg(test)]
mod tests;
