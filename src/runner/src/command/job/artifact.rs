//! `runner job artifact`: what a job left in a folder that it was given.

use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use archive::Limits;
use platform::Checkpoint;

use crate::copy::unpack;
use crate::error::{Result, file};
use crate::operator::{Error, OperatorClient};
use crate::options::Global;
use crate::value;

/// The most files, folders and links of an artifact: an archive of nothing but names is not small
/// once it is unpacked.
const MOST_ENTRIES: u64 = 1_000_000;

/// Copy what a job left
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Get(Get),
}

/// Copy an artifact of a job's latest checkpoint to a folder
///
/// Files come with their modes, links as links, empty folders too. Nothing outside of the folder is
/// touched, whatever the archive says.
#[derive(Debug, clap::Args)]
struct Get {
    /// Which artifact, if the job has several
    #[arg(long)]
    name: Option<String>,

    /// Into a folder that is not empty: what has the same name is replaced, the rest stays
    #[arg(long)]
    merge: bool,

    /// The most bytes that may come out of it: 64K, 10M, 1G
    #[arg(long, value_name = "BYTES", value_parser = value::bytes, default_value = "16G")]
    limit: u64,

    /// The job's id, or the beginning of it
    job: String,

    /// The folder, made if it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let Command::Get(get) = &arguments.command;
    let operator = OperatorClient::of(global);
    let run = operator.job(&get.job)?.run_id;
    let checkpoint = operator.ask(|client| client.checkpoint(run))?;
    let name = get.name.clone().map_or_else(|| only(&checkpoint), Ok)?;
    let is_there = is_there(get)?;
    // All of it is here before any of it is unpacked: a platform that ends leaves no half folder.
    let temporary = std::env::temp_dir();
    let mut archive = tempfile::tempfile().map_err(file("create a file in", &temporary))?;
    operator.ask(|client| client.artifact(run, &name, &mut archive))?;
    archive.seek(SeekFrom::Start(0)).map_err(file("read a file in", &temporary))?;
    let limits = Limits { bytes: get.limit, entries: MOST_ENTRIES, ..Limits::default() };
    match is_there {
        true => unpack(archive, &get.folder, limits)?,
        false => unpack_whole(archive, &get.folder, limits)?,
    }
    Ok(0)
}

/// The name of the only artifact.
fn only(checkpoint: &Checkpoint) -> Result<String> {
    let run = checkpoint.run_id;
    match &checkpoint.artifacts[..] {
        [] => Err(Error::NoArtifact { run }.into()),
        [one] => Ok(one.name.clone()),
        several => {
            let names: Vec<_> = several.iter().map(|mount| mount.name.as_str()).collect();
            Err(Error::SeveralArtifacts { run, names: names.join(", ") }.into())
        }
    }
}

/// Whether the folder is there, and such that it may be unpacked into.
fn is_there(get: &Get) -> Result<bool> {
    let folder: &Path = &get.folder;
    let mut entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries.map_err(file("read", folder))?,
    };
    if entries.next().is_some() && !get.merge {
        return Err(Error::NotEmpty { path: folder.to_owned() }.into());
    }
    Ok(true)
}

/// Makes the folder with all that is in it, or not at all.
fn unpack_whole(archive: File, folder: &Path, limits: Limits) -> Result<()> {
    let above = folder.parent().filter(|above| !above.as_os_str().is_empty());
    let above = above.unwrap_or(Path::new("."));
    fs::create_dir_all(above).map_err(file("create", above))?;
    let hidden = tempfile::Builder::new().prefix(".runner-").tempdir_in(above);
    let hidden = hidden.map_err(file("create a folder in", above))?;
    // A folder in it has the mode that folders have here.
    let made = hidden.path().join("artifact");
    fs::create_dir(&made).map_err(file("create", &made))?;
    unpack(archive, &made, limits)?;
    fs::rename(&made, folder).map_err(file("create", folder))
}
