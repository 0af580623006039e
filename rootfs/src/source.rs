//! Where an image's files come from: what `--from` means.

mod debian;
mod directory;
mod npm;
mod recipe;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::str;

use crate::archive::Archive;
use crate::build::Context;
use crate::compress;
use crate::digest::{self, Hashing, Key};
use crate::error::{Error, Result};
use crate::layer::{self, Whiteouts};
use crate::oci;
use crate::progress::{Meter, Origin, Reporter, Step};
use crate::store::Defaults;
use crate::tree::{Limits, Tree};

pub use recipe::Recipe;

/// What an image is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// A minimal system of Debian packages.
    Debian {
        /// The release: `bookworm`.
        suite: String,
    },
    /// A system that the runner knows by name.
    Recipe(&'static Recipe),
    /// A folder that holds a root file system.
    Directory(PathBuf),
    /// A tar archive of a root file system, plain or compressed.
    Tar(PathBuf),
    /// An OCI image: a layout folder, an archive of one, or what `docker save` writes.
    Oci(PathBuf),
}

impl Source {
    /// What an image of that name is made from if nothing else is said: its recipe, or Debian.
    pub fn usual(name: &str) -> Source {
        match Recipe::find(name) {
            Some(recipe) => Source::Recipe(recipe),
            None => Source::Debian { suite: debian::USUAL_SUITE.to_owned() },
        }
    }

    /// Understands `debian:SUITE`, `recipe:NAME` or a path; what the path holds decides on the
    /// rest.
    pub fn parse(text: &str) -> Result<Source> {
        if let Some(suite) = text.strip_prefix("debian:") {
            if !debian::is_suite(suite) {
                return Err(Error::BadSource { text: text.to_owned() });
            }
            return Ok(Source::Debian { suite: suite.to_owned() });
        }
        if let Some(name) = text.strip_prefix("recipe:") {
            return Ok(Source::Recipe(Recipe::named(name)?));
        }
        let path = PathBuf::from(text);
        let metadata = path.metadata().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound if names_an_image(text) => {
                Error::NotAFile { text: text.trim_start_matches("docker://").to_owned() }
            }
            _ => Error::Read { path: path.clone(), source },
        })?;
        if metadata.is_dir() {
            let is_layout = path.join("oci-layout").is_file();
            return Ok(if is_layout { Source::Oci(path) } else { Source::Directory(path) });
        }
        if !metadata.is_file() {
            return Err(Error::BadSource { text: text.to_owned() });
        }
        Ok(if is_image_archive(&path)? { Source::Oci(path) } else { Source::Tar(path) })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Debian { suite } => write!(f, "debian:{suite}"),
            Source::Recipe(recipe) => recipe.fmt(f),
            Source::Directory(path) | Source::Tar(path) | Source::Oci(path) => {
                write!(f, "{}", path.display())
            }
        }
    }
}

/// A source that is at hand: its identity, and how to read it.
pub(crate) struct Prepared {
    /// Hash of all that its files depend on; a folder has none but its content.
    pub(crate) key: Option<String>,
    pub(crate) defaults: Defaults,
    files: Files,
}

enum Files {
    Directory(PathBuf),
    /// An archive that nobody changes, and packages on top of it.
    Cached(PathBuf, Vec<npm::Fetched>),
    /// Somebody's archive, and the digest that stands for it in the cache's key.
    Tar(PathBuf, String),
    Oci(Box<oci::Opened>),
}

/// Fetches what has to be fetched and identifies the source.
pub(crate) fn prepare(
    source: &Source,
    packages: &[String],
    context: &Context<'_>,
    reporter: &mut Reporter<'_>,
) -> Result<Prepared> {
    if !packages.is_empty() && !matches!(source, Source::Debian { .. } | Source::Recipe(_)) {
        return Err(Error::PackagesWithoutDebian { source_text: source.to_string() });
    }
    Ok(match source {
        Source::Debian { suite } => {
            let base = debian::base(suite, packages, context, reporter)?;
            let files = Files::Cached(base.archive, Vec::new());
            Prepared { key: Some(base.key), defaults: Defaults::default(), files }
        }
        Source::Recipe(recipe) => prepare_recipe(recipe, packages, context, reporter)?,
        Source::Directory(path) => {
            let files = Files::Directory(path.clone());
            Prepared { key: None, defaults: Defaults::default(), files }
        }
        Source::Tar(path) => {
            let digest = digest::of_file(path)?;
            let key = Key::new("tar").part(&digest).finish();
            let files = Files::Tar(path.clone(), digest);
            Prepared { key: Some(key), defaults: Defaults::default(), files }
        }
        Source::Oci(path) => {
            let opened = oci::open(path, context)?;
            let key = Some(opened.key());
            Prepared { key, defaults: opened.defaults(), files: Files::Oci(Box::new(opened)) }
        }
    })
}

fn prepare_recipe(
    recipe: &Recipe,
    packages: &[String],
    context: &Context<'_>,
    reporter: &mut Reporter<'_>,
) -> Result<Prepared> {
    // First, since they may fail: the base takes a minute.
    let programs = recipe.programs(context.arch);
    let programs = programs.map(|package| npm::fetch(package, context, reporter));
    let programs = programs.collect::<Result<Vec<_>>>()?;
    let mut all: Vec<String> = recipe.packages.iter().map(|name| (*name).to_owned()).collect();
    all.extend_from_slice(packages);
    let base = debian::base(recipe.suite, &all, context, reporter)?;
    let key = Key::new("recipe 1").part(&base.key);
    let key = programs.iter().fold(key, |key, program| key.part(program.integrity())).finish();
    let env = recipe.env.iter().map(|pair| (*pair).to_owned()).collect();
    let defaults = Defaults { env, ..Defaults::default() };
    Ok(Prepared { key: Some(key), defaults, files: Files::Cached(base.archive, programs) })
}

impl Prepared {
    /// Reads all files into a tree.
    pub(crate) fn read(&self, spool: &Path, reporter: &mut Reporter<'_>) -> Result<Tree> {
        reporter.step(Step::Read, |meter| {
            let mut tree = Tree::create(spool, Limits::default())?;
            match &self.files {
                Files::Directory(path) => directory::add(&mut tree, path, meter)?,
                Files::Tar(path, digest) => read_tar(&mut tree, path, digest, meter)?,
                Files::Cached(path, programs) => {
                    let mut archive = open_archive(path)?;
                    layer::apply(&mut tree, &mut archive, Whiteouts::Literal, meter)?;
                    programs.iter().try_for_each(|program| program.install(&mut tree, meter))?;
                }
                Files::Oci(opened) => opened.read(&mut tree, meter)?,
            }
            Ok((tree, Origin::Made))
        })
    }
}

/// Reads somebody's archive, and makes sure that it still is what was identified: else the cache
/// would hold one archive's files under another's key.
fn read_tar(tree: &mut Tree, path: &Path, digest: &str, meter: &mut Meter<'_>) -> Result<()> {
    let fail = |source| Error::Read { path: path.to_owned(), source };
    let name = path.display().to_string();
    let mut file = Hashing::new(File::open(path).map_err(fail)?);
    let mut archive = Archive::new(compress::reader(&mut file, &name)?, &name);
    layer::apply(tree, &mut archive, Whiteouts::Literal, meter)?;
    drop(archive);
    file.drain().map_err(fail)?;
    if file.finish().0 != digest {
        return Err(Error::SourceChanged { path: path.to_owned() });
    }
    Ok(())
}

/// The archive in a file that may be compressed.
fn open_archive(path: &Path) -> Result<Archive<Box<dyn std::io::Read>>> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok(Archive::new(compress::reader(file, &name)?, &name))
}

/// Whether a text may be a registry's name of an image, like `ubuntu:24.04` or `ghcr.io/a/b`, with
/// or without `docker://` before it.
fn names_an_image(text: &str) -> bool {
    let name = text.strip_prefix("docker://").unwrap_or(text);
    let is_archive = [".tar", ".gz", ".tgz", ".zst", ".xz"].iter().any(|end| name.ends_with(end));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte);
    !is_archive
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(is_plain)
}

/// Tells an archive of an image from one of a file system: image archives have
/// nothing at their top but a few known names, so the first other name decides.
fn is_image_archive(path: &Path) -> Result<bool> {
    let mut archive = open_archive(path)?;
    let mut found = false;
    while let Some(member) = archive.next_member()? {
        let path = str::from_utf8(&member.path).unwrap_or("\0");
        let path = path.trim_start_matches("./").trim_end_matches('/');
        let (top, below) = path.split_once('/').unwrap_or((path, ""));
        match top {
            "" | "blobs" | "index.json" | "repositories" => {}
            "oci-layout" | "manifest.json" => found = true,
            // What docker-archives name after digests.
            _ if is_hex(top.strip_suffix(".json").or(top.strip_suffix(".tar")).unwrap_or(top)) => {}
            _ => return Ok(false),
        }
        if found && below.is_empty() {
            return Ok(true);
        }
    }
    Ok(found)
}

fn is_hex(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::TarBuilder;

    fn parse_archive(archive: TarBuilder) -> Source {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        fs::write(&path, archive.finish()).unwrap();
        Source::parse(path.to_str().unwrap()).unwrap()
    }

    #[test]
    fn archive_that_changes_after_it_was_identified_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        fs::write(&path, TarBuilder::new().file("etc/hostname", "b").finish()).unwrap();
        let mut tree = crate::testing::tree(dir.path());

        let result = Reporter::new(&mut |_| ()).step(Step::Read, |meter| {
            let before = digest::of_bytes(b"what it was");
            Ok((read_tar(&mut tree, &path, &before, meter)?, Origin::Made))
        });

        assert!(matches!(result, Err(Error::SourceChanged { .. })));
    }

    #[test]
    fn debian_suite_is_recognised() {
        let source = Source::parse("debian:bookworm").unwrap();

        assert_eq!(source, Source::Debian { suite: "bookworm".into() });
        assert_eq!(source.to_string(), "debian:bookworm");
    }

    #[test]
    fn image_with_the_name_of_a_recipe_is_made_from_it_and_others_from_debian() {
        assert_eq!(Source::usual("claude"), Source::parse("recipe:claude").unwrap());
        assert_eq!(Source::usual("default"), Source::parse("debian:bookworm").unwrap());
    }

    #[test]
    fn suite_that_would_be_an_option_is_refused() {
        assert!(matches!(Source::parse("debian:--help"), Err(Error::BadSource { .. })));
        assert!(matches!(Source::parse("debian:"), Err(Error::BadSource { .. })));
    }

    #[test]
    fn folder_is_a_root_file_system_unless_it_is_a_layout() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().to_str().unwrap();
        assert_eq!(Source::parse(text).unwrap(), Source::Directory(dir.path().to_owned()));

        fs::write(dir.path().join("oci-layout"), "{}").unwrap();

        assert_eq!(Source::parse(text).unwrap(), Source::Oci(dir.path().to_owned()));
    }

    #[test]
    fn archive_of_a_file_system_is_a_tar() {
        let archive = TarBuilder::new().dir("./").file("./etc/hostname", "a");

        assert!(matches!(parse_archive(archive), Source::Tar(_)));
    }

    #[test]
    fn archive_with_a_layout_file_is_an_image() {
        let archive = TarBuilder::new().file("blobs/sha256/00", "").file("oci-layout", "{}");

        assert!(matches!(parse_archive(archive), Source::Oci(_)));
    }

    #[test]
    fn archive_of_docker_save_is_an_image() {
        let id = "0".repeat(64);
        let archive = TarBuilder::new()
            .file(&format!("{id}.json"), "{}")
            .file(&format!("{id}/layer.tar"), "")
            .file("manifest.json", "[]");

        assert!(matches!(parse_archive(archive), Source::Oci(_)));
    }

    #[test]
    fn name_of_a_registrys_image_is_told_from_an_absent_file() {
        for text in ["ubuntu:24.04", "docker://ubuntu:24.04", "alpine", "ghcr.io/a/b@sha256:00"] {
            let error = Source::parse(text).unwrap_err().to_string();
            let name = text.trim_start_matches("docker://");
            assert!(error.contains(&format!("skopeo copy docker://{name} ")), "{error}");
        }
        for text in ["./ubuntu:24.04", "/ubuntu", "image.tar.gz", "a file"] {
            let error = Source::parse(text).unwrap_err();
            assert!(matches!(error, Error::Read { .. }), "{error}");
        }
    }

    #[test]
    fn absent_path_is_named() {
        let error = Source::parse("/nonexistent/x.tar").unwrap_err();

        assert_eq!(error.to_string(), "cannot read /nonexistent/x.tar");
    }
}
