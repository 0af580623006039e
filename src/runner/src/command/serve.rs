//! `runner serve`: the platform alone, for runners that take jobs over HTTP.

mod bucket;

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use platform::{Config, ConnectionString, Database, Platform};

use crate::error::Result;
use crate::operator;
use crate::options::Global;
use crate::{output, signal, value};

const EXAMPLES: &str = "\
Examples:
  runner serve
  runner serve --listen 127.0.0.1:8480 --listen 10.0.0.5:8480 --guest-url http://10.0.0.5:8480
  runner serve --listen 10.0.0.5:443 --tls-cert fullchain.pem --tls-key privkey.pem
  runner serve --add-key /etc/sandbox-runner/platform.keys
  runner serve --listen 10.0.0.5:8480 --database postgresql://platform@db.example/jobs \
      --key-file /etc/sandbox-runner/platform.keys
  runner serve --listen 10.0.0.5:8480 --database-file /etc/runner/database --bucket jobs \
      --bucket-endpoint https://s3.example --bucket-credentials /etc/runner/bucket
  runner job submit --prompt 'run the tests'          from another terminal

Without --tls-cert the server speaks plain HTTP: use that on the loopback device, on a network that you
trust, or behind a TLS proxy. VMs of jobs reach the server too, so its certificate must be issued by an
authority that they trust (docs/service.md).
A database of --database is PostgreSQL 14 or later; several platforms may share it. libpq reads the
connection string: a password belongs in PGPASSFILE or in --database-file. Secrets of jobs are sealed
in it with the first key of --key-file; all keys there open secrets and verify tokens.
With --bucket, guests and runners upload and download by presigned URLs straight to the object store.
Several platforms with one database need one bucket. Credentials are never on the command line.
SIGTERM and SIGINT stop the server. It stores its jobs, and continues with them at the next start.";

/// Serve the platform in the foreground, without running jobs in this process
///
/// Prints its addresses, and the file with the token for runners.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Address for runners and guests; port 0 selects a free port. Repeatable
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8480")]
    listen: Vec<SocketAddr>,

    /// URL at which guests reach the platform, if it differs from the runners' URL
    #[arg(long, value_name = "URL")]
    guest_url: Option<String>,

    /// Group of jobs whose submission names none, like `team/default` [default: none, so that runners of all
    /// groups take them]
    #[arg(long, value_name = "GROUP", value_parser = value::group)]
    group: Option<String>,

    /// Time for which a job is offered only to the runner that has its session's VM
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = base::duration::parse)]
    affinity: Duration,

    /// TLS certificate chain, PEM; without one the server speaks plain HTTP
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Private key of the certificate, PEM; both files are read again when they change
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Connection string of a PostgreSQL database, without a password [default: SQLite in the state folder]
    #[arg(long, value_name = "URL", conflicts_with = "database_file")]
    database: Option<String>,

    /// File with the connection string; one with a password must have mode 0600
    #[arg(long, value_name = "FILE")]
    database_file: Option<PathBuf>,

    /// File with the keys that the platforms of a database share, mode 0600 [default: the state folder's key]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,

    /// Add a new key to FILE, which is made if it is missing, print the names of its keys, and exit
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key_file", "database", "database_file"])]
    add_key: Option<PathBuf>,

    #[command(flatten)]
    bucket: bucket::BucketArguments,
}

pub(crate) fn run(global: &Global, arguments: Arguments) -> Result<u8> {
    if let Some(path) = &arguments.add_key {
        for name in platform::add_key(path).map_err(operator::Error::from)? {
            output::line(name)?;
        }
        return Ok(0);
    }
    let (listener, signals) = signal::until_end()?;
    let mut config = Config::new(&global.state_dir);
    config.listen = arguments.listen;
    config.guest_url = arguments.guest_url;
    config.group = arguments.group;
    config.affinity = arguments.affinity;
    config.key_file = arguments.key_file;
    config.tls = arguments.tls_cert.zip(arguments.tls_key);
    let is_tls = config.tls.is_some();
    config.database = match (arguments.database, arguments.database_file) {
        (Some(typed), _) => typed_database(typed)?,
        (None, Some(path)) => database_of(path)?,
        (None, None) => Database::Embedded,
    };
    config.content = arguments.bucket.content().map_err(operator::Error::from)?;
    let platform = Platform::start(config).map_err(operator::Error::from)?;
    for url in platform.urls() {
        output::line(format_args!("serves {url}"))?;
    }
    warn_of_plain_http(&platform, is_tls);
    let token = platform.runner_token_file();
    output::line(format_args!("runner token in {}", token.display()))?;
    if let Ok(signal) = signals.recv() {
        log::info!("stopping; signal={signal}");
    }
    // This restores the default action of signals: a second one ends the process at once.
    drop(listener);
    platform.stop().map_err(operator::Error::from)?;
    Ok(0)
}

/// Tokens and jobs must not cross a network in clear without the operator's knowledge.
fn warn_of_plain_http(platform: &Platform, is_tls: bool) {
    let others = platform.addresses().iter().filter(|address| !address.ip().is_loopback());
    if let Some(address) = others.into_iter().next().filter(|_| !is_tls) {
        log::warn!(
            "tokens and jobs cross the network in clear unless a TLS proxy is in front: use --tls-cert and \
             --tls-key; address={address}"
        );
    }
}

fn typed_database(text: String) -> std::result::Result<Database, operator::Error> {
    let connection = ConnectionString::new(text);
    if connection.has_password()? {
        return Err(operator::Error::PasswordTyped);
    }
    Ok(Database::Postgres(connection))
}

fn database_of(path: PathBuf) -> std::result::Result<Database, operator::Error> {
    let read = || {
        let mut file = File::open(&path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // That of the open file: the path may name another one by now.
        Ok((text, file.metadata()?.mode()))
    };
    let (text, mode) =
        read().map_err(|source| operator::Error::File { path: path.clone(), source })?;
    let connection = ConnectionString::new(text.trim());
    if connection.has_password()? && mode & 0o077 != 0 {
        return Err(operator::Error::PasswordReadable { path });
    }
    Ok(Database::Postgres(connection))
}
