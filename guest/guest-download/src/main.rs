//! Downloads the archives of a manifest: `guest-download MANIFEST` or `--manifest-stdin`.
//!
//! | exit code | when |
//! |---|---|
//! | 0 | all tasks of the manifest succeeded |
//! | 1 | a task failed, or the manifest cannot be read; the reason is on stderr |

mod logging;

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use contract::env;
use guest_common::{OperationLog, RunFolder};
use guest_download::{Manifest, Settings};
use lexopt::Arg;

const USAGE: &str = "Usage: guest-download MANIFEST | --manifest-stdin";

/// The longest manifest that is accepted.
const MAX_MANIFEST: u64 = 64 << 20;

fn main() -> ExitCode {
    logging::start();
    let source = match parse(lexopt::Parser::from_env()) {
        Ok(source) => source,
        Err(error) => {
            log::error!("{error}; {USAGE}");
            return ExitCode::FAILURE;
        }
    };
    match read(source).map(|json| Manifest::parse(&json)) {
        Ok(Ok(manifest)) => {
            let success = guest_download::run(&manifest, &settings(), operations().as_ref());
            ExitCode::from(u8::from(!success))
        }
        Ok(Err(error)) => fail(&error),
        Err(error) => fail(&error),
    }
}

fn parse(mut parser: lexopt::Parser) -> Result<Option<PathBuf>, lexopt::Error> {
    let source = match parser.next()? {
        Some(Arg::Long("manifest-stdin")) => None,
        Some(Arg::Value(path)) => Some(PathBuf::from(path)),
        Some(other) => return Err(other.unexpected()),
        None => return Err("no manifest is given".into()),
    };
    parser.next()?.map_or(Ok(source), |other| Err(other.unexpected()))
}

/// Reads the manifest. It is a secret, since its URLs are.
fn read(source: Option<PathBuf>) -> io::Result<Vec<u8>> {
    let mut json = Vec::new();
    let count = match source {
        Some(path) => File::open(path)?.take(MAX_MANIFEST + 1).read_to_end(&mut json)?,
        None => io::stdin().lock().take(MAX_MANIFEST + 1).read_to_end(&mut json)?,
    };
    if count as u64 > MAX_MANIFEST {
        return Err(io::Error::other("the manifest is too long"));
    }
    Ok(json)
}

/// The default settings, with the time limit for an outage that the environment may set.
fn settings() -> Settings {
    let default = Settings::default();
    let seconds = std::env::var(env::DOWNLOAD_OUTAGE_SECS).ok().and_then(|text| text.parse().ok());
    Settings { outage: seconds.map_or(default.outage, Duration::from_secs), ..default }
}

/// The log of operations that guest-agent sends to the platform, if the environment names a run.
fn operations() -> Option<OperationLog> {
    let log = RunFolder::from_env()?.and_then(|folder| OperationLog::open(&folder));
    log.inspect_err(|error| log::warn!("{}", base::error::chain(error))).ok()
}

fn fail(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    log::error!("{}", base::error::chain(error));
    ExitCode::FAILURE
}
