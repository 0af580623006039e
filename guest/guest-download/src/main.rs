//! Fetches archives as a manifest says: `guest-download MANIFEST` or `--manifest-stdin`.
//!
//! | exit code | when |
//! |---|---|
//! | 0 | everything is in its place |
//! | 1 | something is not, or there is no manifest; what and why is on stderr |

mod logging;

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use guest_common::{OperationLog, RunFolder, env};
use guest_download::{Manifest, Settings};
use lexopt::Arg;

const USAGE: &str = "Usage: guest-download MANIFEST | --manifest-stdin";

/// The longest manifest that makes sense.
const LONGEST: u64 = 64 << 20;

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
            let well = guest_download::run(&manifest, &settings(), operations().as_ref());
            ExitCode::from(u8::from(!well))
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
        None => return Err("no manifest is named".into()),
    };
    parser.next()?.map_or(Ok(source), |other| Err(other.unexpected()))
}

/// The manifest, which is a secret: URLs in it are.
fn read(source: Option<PathBuf>) -> io::Result<Vec<u8>> {
    let mut json = Vec::new();
    let count = match source {
        Some(path) => File::open(path)?.take(LONGEST + 1).read_to_end(&mut json)?,
        None => io::stdin().lock().take(LONGEST + 1).read_to_end(&mut json)?,
    };
    if count as u64 > LONGEST {
        return Err(io::Error::other("the manifest is too long"));
    }
    Ok(json)
}

/// As usual, but for the outage that the environment may say to outlast.
fn settings() -> Settings {
    let usual = Settings::default();
    let seconds = std::env::var(env::DOWNLOAD_OUTAGE_SECS).ok().and_then(|text| text.parse().ok());
    Settings { outage: seconds.map_or(usual.outage, Duration::from_secs), ..usual }
}

/// Where the run's agent finds what was done, if this is for a run.
fn operations() -> Option<OperationLog> {
    let log = RunFolder::from_env()?.and_then(|folder| OperationLog::open(&folder));
    log.inspect_err(|error| log::warn!("{}", guest_common::chain(error))).ok()
}

fn fail(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    log::error!("{}", guest_common::chain(error));
    ExitCode::FAILURE
}
