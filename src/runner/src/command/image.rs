//! `runner image`: builds, lists and removes the images that VMs start from.

mod snapshot;

use std::env;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use rootfs::{BuildRequest, Image, Source, Store};

use crate::error::{Error, Result};
use crate::options::Global;
use crate::output::{self, Output};
use crate::progress::Build;
use crate::table;

const EXAMPLES: &str = "\
Examples:
  runner image build default
  runner image build base                             Python, git, rsync, an SSH server
  runner image build claude                           Claude Code, git, node, python3, ripgrep
  runner image build tools --package git --package ripgrep
  runner image build mine --from ./image.tar          an OCI or `docker save` archive
  runner image build mine --from ./all.tar --tag v2   one image of an archive with several
  runner image snapshot mine                          restore later VMs instead of booting them
  runner image ls
  runner image rm mine";

/// Build, snapshot, list and remove the images that VMs start from
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Build(BuildArguments),
    Snapshot(snapshot::Arguments),
    /// List images
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove images; running VMs are not affected
    Rm {
        /// Names of the images
        #[arg(required = true)]
        name: Vec<String>,
    },
}

/// Build an image; replaces an image of the same name
///
/// An image consists of the distribution's kernel, the files of the source, and the guest programs.
/// Unchanged parts come from a cache.
#[derive(Debug, clap::Args)]
struct BuildArguments {
    /// Name of the image; `runner run` uses `default`
    name: String,

    /// Source: debian:SUITE, recipe:NAME, or the path of a container image or root file system
    ///
    /// A container image is an archive or folder in OCI or `docker save` layout, as docker, crane,
    /// ko, kaniko, jib, buildah and skopeo write it. A root file system is a tar archive or a
    /// folder. Registries are not supported: save the image to a file first. The default is the
    /// recipe with the image's name, else debian:bookworm. The recipe `base` is Debian with python3,
    /// git, rsync and an SSH server; its commands run as `user`. The recipe `claude` is Debian with
    /// Claude Code, git, node, python3 and ripgrep; its commands run as `user` in
    /// /home/user/workspace.
    #[arg(long, value_name = "SOURCE")]
    from: Option<String>,

    /// Tag or full name of the image to use, if the source contains several
    #[arg(long, value_name = "TAG", requires = "from")]
    tag: Option<String>,

    /// Add a Debian package (debian:SUITE and recipes only)
    #[arg(long, value_name = "NAME")]
    package: Vec<String>,

    /// Do not install passwordless sudo for the user `user` (debian:SUITE and recipes only)
    #[arg(long)]
    no_sudo: bool,

    /// Folder of guest-init and the other guest programs, as built by scripts/build-guest
    #[arg(long, value_name = "DIR", env = "RUNNER_GUEST_DIR")]
    guest_dir: Option<PathBuf>,

    /// Default size of the writable disk of VMs
    #[arg(long, value_name = "SIZE", default_value = "8G", value_parser = egress::disk::size)]
    disk: u64,

    /// Rebuild all parts
    #[arg(long)]
    no_cache: bool,
}

pub(crate) fn run(global: &Global, arguments: Arguments) -> Result<u8> {
    let store = Store::open(&global.state_dir)?;
    match arguments.command {
        Command::Build(arguments) => build(&store, arguments, global.quiet)?,
        Command::Snapshot(arguments) => snapshot::run(global, &arguments)?,
        Command::Ls { json } => list(&store, json)?,
        Command::Rm { name } => {
            for name in name {
                store.remove(&name)?;
                output::line(name)?;
            }
        }
    }
    Ok(0)
}

fn build(store: &Store, arguments: BuildArguments, is_quiet: bool) -> Result<()> {
    let source = match &arguments.from {
        Some(from) => Source::parse(from)?,
        None => Source::usual(&arguments.name),
    };
    let request = BuildRequest {
        name: arguments.name,
        source,
        guest_programs: guest_programs(arguments.guest_dir)?,
        packages: arguments.package,
        tag: arguments.tag,
        without_sudo: arguments.no_sudo,
        disk_mib: arguments.disk,
        no_cache: arguments.no_cache,
    };
    let mut progress = Build::new(is_quiet);
    let image = rootfs::build(store, &request, &mut |event| progress.show(event))?;
    drop(progress);
    output::line(format_args!("{} {}", image.name, image.id))
}

/// The folder of the guest programs: the one that is named, or where they usually are.
pub(crate) fn guest_programs(named: Option<PathBuf>) -> Result<PathBuf> {
    let here = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned()));
    let folders = match (named, here) {
        (Some(named), _) => vec![named],
        (None, Some(here)) => usual_folders(&here),
        (None, None) => Vec::new(),
    };
    if let Some(found) = folders.iter().find(|folder| folder.join("guest-init").is_file()) {
        return Ok(found.clone());
    }
    let looked: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
    Err(Error::NoGuestPrograms { looked: looked.join(", ") })
}

/// Beside an installed runner, and where cargo puts them beside one that was just built.
fn usual_folders(here: &Path) -> Vec<PathBuf> {
    let built = here.parent().unwrap_or(here);
    let machine = env::consts::ARCH;
    let target = |libc: &str| built.join(format!("{machine}-unknown-linux-{libc}/guest"));
    vec![here.join("guest"), target("musl"), target("gnu")]
}

fn list(store: &Store, json: bool) -> Result<()> {
    let images = store.list()?;
    let text = if json {
        let json = serde_json::to_string_pretty(&images);
        json.map_err(|source| Error::Json { source })? + "\n"
    } else {
        table(&images)
    };
    Output::open()?.stdout().write_all(text.as_bytes()).map_err(|source| Error::Output { source })
}

fn table(images: &[Image]) -> String {
    let heads = ["NAME", "ID", "KERNEL", "SIZE", "AGE", "SOURCE"];
    let row = |image: &Image| {
        let about = &image.description;
        vec![
            image.name.clone(),
            image.id.chars().take(12).collect(),
            about.kernel_version.clone(),
            format!("{} MiB", about.size_bytes >> 20),
            table::age(about.created),
            about.source.clone(),
        ]
    };
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(images.iter().map(row));
    table::render(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_programs_are_found_where_cargo_puts_them() {
        let target = tempfile::tempdir().unwrap();
        let folder = usual_folders(&target.path().join("release")).pop().unwrap();
        assert!(folder.starts_with(target.path()));
        assert!(folder.ends_with("guest"));
    }

    #[test]
    fn a_folder_without_guest_programs_is_named_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let error = guest_programs(Some(folder.path().to_owned())).unwrap_err().to_string();
        assert!(error.contains(folder.path().to_str().unwrap()), "{error}");
        assert!(error.contains("scripts/build-guest"), "{error}");
    }
}
