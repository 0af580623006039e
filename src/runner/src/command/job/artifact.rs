//! `runner job artifact`: copies the folders that a job changed.

use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use archive::Limits;
use platform::Checkpoint;

use crate::copy::unpack;
use crate::error::{Result, file};
use crate::operator::{Error, OperatorClient};
use crate::value;

/// The most files, folders and links of an artifact. A small archive may hold very many empty files.
const MOST_ENTRIES: u64 = 1_000_000;

/// Copy artifacts of a job
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
/// File modes, links and empty folders are kept. Nothing outside DIR is written, even if the archive
/// is malicious.
#[derive(Debug, clap::Args)]
struct Get {
    /// Artifact to copy; required if the job has several
    #[arg(long)]
    name: Option<String>,

    /// Allow a folder that is not empty: files of the same names are replaced, others stay
    #[arg(long)]
    merge: bool,

    /// Maximum unpacked size, like 64K, 10M or 1G
    #[arg(long, value_name = "BYTES", value_parser = value::bytes, default_value = "16G")]
    limit: u64,

    /// Id of the job, or a unique prefix
    job: String,

    /// Destination folder, created if missing
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(super) fn run(operator: &OperatorClient<'_>, arguments: &Arguments) -> Result<u8> {
    let Command::Get(get) = &arguments.command;
    let run = operator.job(&get.job)?.run_id;
    let checkpoint = operator.ask(|client| client.checkpoint(run))?;
    let name = get.name.clone().map_or_else(|| only(&checkpoint), Ok)?;
    let exists = check_destination(get)?;
    // The archive is complete before it is unpacked: a platform that ends leaves no partial folder.
    let temporary = std::env::temp_dir();
    let mut archive = tempfile::tempfile().map_err(file("create a file in", &temporary))?;
    operator.ask(|client| client.artifact(run, &name, &mut archive))?;
    archive.seek(SeekFrom::Start(0)).map_err(file("read a file in", &temporary))?;
    let limits = Limits { bytes: get.limit, entries: MOST_ENTRIES, ..Limits::default() };
    if exists {
        unpack(archive, &get.folder, limits)?;
    } else {
        unpack_atomically(archive, &get.folder, limits)?;
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

/// Whether the destination exists. It must be empty without `--merge`.
fn check_destination(get: &Get) -> Result<bool> {
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

/// Unpacks into a hidden folder, which is renamed when it is complete.
fn unpack_atomically(archive: File, folder: &Path, limits: Limits) -> Result<()> {
    let above = folder.parent().filter(|above| !above.as_os_str().is_empty());
    let above = above.unwrap_or(Path::new("."));
    fs::create_dir_all(above).map_err(file("create", above))?;
    let hidden = tempfile::Builder::new().prefix(".runner-").tempdir_in(above);
    let hidden = hidden.map_err(file("create a folder in", above))?;
    // Unlike the temporary folder, a folder in it has its mode from the umask.
    let made = hidden.path().join("artifact");
    fs::create_dir(&made).map_err(file("create", &made))?;
    unpack(archive, &made, limits)?;
    fs::rename(&made, folder).map_err(file("create", folder))
}
