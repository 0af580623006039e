//! The sources of images: the values of `--from`.

mod debian;
mod directory;
mod kind;
mod npm;
mod recipe;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::compress;
use crate::context::Context;
use crate::digest::{self, Hashing, Key};
use crate::error::{Error, Result};
use crate::layer::{self, Whiteouts};
use crate::members::Archive;
use crate::oci;
use crate::progress::{Meter, Origin, Reporter, Step};
use crate::request::BuildRequest;
use crate::store::Defaults;
use crate::tree::{Limits, Tree};

pub use recipe::Recipe;

/// The source of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// A minimal system of Debian packages.
    Debian {
        /// The release: `bookworm`.
        suite: String,
    },
    /// A recipe of the runner.
    Recipe(&'static Recipe),
    /// A folder with a root file system.
    Directory(PathBuf),
    /// A tar archive of a root file system, plain or compressed.
    Tar(PathBuf),
    /// A container image: an OCI layout or a Docker archive, as an archive or a folder.
    Oci(PathBuf),
}

impl Source {
    /// The default source for an image's name: the recipe of that name, or Debian.
    pub fn usual(name: &str) -> Source {
        match Recipe::find(name) {
            Some(recipe) => Source::Recipe(recipe),
            None => Source::Debian { suite: debian::USUAL_SUITE.to_owned() },
        }
    }

    /// Parses `debian:SUITE`, `recipe:NAME` or a path. The content of the path decides on its kind.
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
            let is_image = kind::is_image_folder(&path);
            return Ok(if is_image { Source::Oci(path) } else { Source::Directory(path) });
        }
        if !metadata.is_file() {
            return Err(Error::BadSource { text: text.to_owned() });
        }
        Ok(if kind::is_image_archive(&path)? { Source::Oci(path) } else { Source::Tar(path) })
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

/// A prepared source: its identity, and a reader of its files.
pub(crate) struct Prepared {
    /// The hash of all inputs. A folder has none.
    pub(crate) key: Option<String>,
    pub(crate) defaults: Defaults,
    /// Whether `sudo` is installed for the user `user`.
    pub(crate) has_sudo: bool,
    files: Files,
}

enum Files {
    Directory(PathBuf),
    /// An archive in the cache, which does not change, and packages on top of it.
    Cached(PathBuf, Vec<npm::Fetched>),
    /// An archive of the user, and its digest, which is part of the cache's key.
    Tar(PathBuf, String),
    Oci(Box<oci::Opened>),
}

/// Downloads missing inputs, and identifies the source.
pub(crate) fn prepare(
    request: &BuildRequest,
    context: &Context<'_>,
    reporter: &mut Reporter<'_>,
) -> Result<Prepared> {
    let tag = request.tag.as_deref();
    if tag.is_some() && !matches!(request.source, Source::Oci(_)) {
        return Err(Error::TagWithoutImage { source_text: request.source.to_string() });
    }
    let has_sudo = !request.without_sudo;
    Ok(match &request.source {
        Source::Debian { suite } => {
            let base = debian::base(suite, &packages(request), context, reporter)?;
            let files = Files::Cached(base.archive, Vec::new());
            Prepared { has_sudo, ..Prepared::new(Some(base.key), files) }
        }
        Source::Recipe(recipe) => {
            let prepared = prepare_recipe(recipe, &packages(request), context, reporter)?;
            Prepared { has_sudo, ..prepared }
        }
        other if !request.packages.is_empty() => {
            return Err(Error::PackagesWithoutDebian { source_text: other.to_string() });
        }
        other if request.without_sudo => {
            return Err(Error::SudoWithoutDebian { source_text: other.to_string() });
        }
        Source::Directory(path) => Prepared::new(None, Files::Directory(path.clone())),
        Source::Tar(path) => {
            let digest = digest::of_file(path)?;
            let key = Key::new("tar").part(&digest).finish();
            Prepared::new(Some(key), Files::Tar(path.clone(), digest))
        }
        Source::Oci(path) => {
            let opened = oci::open(path, tag, context)?;
            let (key, defaults) = (opened.key(), opened.defaults());
            let files = Files::Oci(Box::new(opened));
            Prepared { defaults, ..Prepared::new(Some(key), files) }
        }
    })
}

/// The Debian packages of an image besides the default ones.
fn packages(request: &BuildRequest) -> Vec<String> {
    let sudo = (!request.without_sudo).then(|| "sudo".to_owned());
    request.packages.iter().cloned().chain(sudo).collect()
}

fn prepare_recipe(
    recipe: &Recipe,
    packages: &[String],
    context: &Context<'_>,
    reporter: &mut Reporter<'_>,
) -> Result<Prepared> {
    // The download comes first: it may fail, and the base system takes a minute.
    let programs = recipe.programs(context.arch);
    let programs = programs.map(|package| npm::fetch(package, context, reporter));
    let programs = programs.collect::<Result<Vec<_>>>()?;
    let mut all: Vec<String> = recipe.packages.iter().map(|name| (*name).to_owned()).collect();
    all.extend_from_slice(packages);
    let base = debian::base(recipe.suite, &all, context, reporter)?;
    let key = Key::new("recipe 1").part(&base.key);
    let key = programs.iter().fold(key, |key, program| key.part(program.integrity())).finish();
    let prepared = Prepared::new(Some(key), Files::Cached(base.archive, programs));
    Ok(Prepared { defaults: recipe.defaults(), ..prepared })
}

impl Prepared {
    fn new(key: Option<String>, files: Files) -> Prepared {
        Prepared { key, defaults: Defaults::default(), has_sudo: false, files }
    }

    /// Adds all files to a tree.
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

/// Reads an archive of the user, and checks its digest again: if the file changed since it was
/// identified, the cache would have one archive's files under another's key.
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

/// Opens an archive file that may be compressed.
fn open_archive(path: &Path) -> Result<Archive<Box<dyn std::io::Read>>> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok(Archive::new(compress::reader(file, &name)?, &name))
}

/// Whether a text may be a reference to a registry's image, like `ubuntu:24.04` or `ghcr.io/a/b`,
/// with or without `docker://`.
fn names_an_image(text: &str) -> bool {
    let name = text.strip_prefix("docker://").unwrap_or(text);
    let is_archive = [".tar", ".gz", ".tgz", ".zst", ".xz"].iter().any(|end| name.ends_with(end));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte);
    !is_archive
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::TarBuilder;

    /// What names the image in a docker-archive.
    const DOCKER: &str = r#"[{"Config": "c", "RepoTags": ["a:1"], "Layers": ["l"]}]"#;

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
    fn a_suite_that_looks_like_an_option_is_rejected() {
        assert!(matches!(Source::parse("debian:--help"), Err(Error::BadSource { .. })));
        assert!(matches!(Source::parse("debian:"), Err(Error::BadSource { .. })));
    }

    #[test]
    fn folder_is_a_root_file_system_unless_it_is_an_image() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().to_str().unwrap();
        assert_eq!(Source::parse(text).unwrap(), Source::Directory(dir.path().to_owned()));

        fs::write(dir.path().join("manifest.json"), r#"{"name": "an app"}"#).unwrap();
        assert_eq!(Source::parse(text).unwrap(), Source::Directory(dir.path().to_owned()));

        fs::write(dir.path().join("manifest.json"), DOCKER).unwrap();
        assert_eq!(Source::parse(text).unwrap(), Source::Oci(dir.path().to_owned()));

        fs::remove_file(dir.path().join("manifest.json")).unwrap();
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
    fn an_archive_with_a_manifest_anywhere_is_an_image() {
        let id = "0".repeat(64);
        for files in [
            // docker save
            [format!("{id}.json"), format!("{id}/layer.tar")],
            // crane and ko
            [format!("sha256:{id}"), format!("{id}.tar.gz")],
            // jib
            ["config.json".to_owned(), format!("{id}.tar.gz")],
            // Names that a root file system may have, too.
            ["layers/0.tar".to_owned(), "README".to_owned()],
        ] {
            let [one, other] = &files;
            let last =
                TarBuilder::new().file(one, "{}").file(other, "").file("manifest.json", DOCKER);
            let first =
                TarBuilder::new().file("manifest.json", DOCKER).file(one, "").file(other, "");
            assert!(matches!(parse_archive(last), Source::Oci(_)), "{files:?}");
            assert!(matches!(parse_archive(first), Source::Oci(_)), "{files:?}");
        }
    }

    #[test]
    fn a_foreign_manifest_in_a_root_file_system_makes_no_image() {
        let archive =
            TarBuilder::new().file("manifest.json", r#"{"name": "app"}"#).file("opt/app/run", "");
        assert!(matches!(parse_archive(archive), Source::Tar(_)));
    }

    #[test]
    fn unknown_archive_is_rejected_with_the_accepted_kinds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let sources = TarBuilder::new().dir("project-1.0").file("project-1.0/usr/README", "");
        for archive in [TarBuilder::new(), TarBuilder::new().file("usr", ""), sources] {
            fs::write(&path, [archive.finish(), vec![0; 1024]].concat()).unwrap();
            let error = Source::parse(path.to_str().unwrap()).unwrap_err().to_string();
            assert!(
                error.contains("not a container image") && error.contains("docker save"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_registry_reference_is_distinguished_from_a_missing_file() {
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
    fn the_error_of_a_missing_path_names_it() {
        let error = Source::parse("/nonexistent/x.tar").unwrap_err();

        assert_eq!(error.to_string(), "cannot read /nonexistent/x.tar");
    }
}
