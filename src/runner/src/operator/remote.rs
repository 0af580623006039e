//! The options of commands that may use a platform elsewhere.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use platform::{Client, RemotePlatform};

use super::Error;

/// The most bytes of a file with a token, and of one with certificates.
const LONGEST_TOKEN: u64 = 4 << 10;
const LARGEST_AUTHORITIES: u64 = 4 << 20;

/// Where the platform is.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct PlatformOptions {
    /// URL of a platform elsewhere; several, with commas, are tried in turn [default: the platform that serves the
    /// state folder]
    #[arg(
        long,
        global = true,
        help_heading = "Platform",
        value_name = "URL",
        env = "RUNNER_PLATFORM",
        value_delimiter = ','
    )]
    platform: Vec<String>,

    /// File with the token for it, of mode 0600
    #[arg(
        long,
        global = true,
        help_heading = "Platform",
        value_name = "FILE",
        env = "RUNNER_TOKEN_FILE"
    )]
    token_file: Option<PathBuf>,

    /// PEM file with certificate authorities that are trusted besides the system's
    #[arg(
        long,
        global = true,
        help_heading = "Platform",
        value_name = "FILE",
        env = "RUNNER_PLATFORM_CA"
    )]
    platform_ca: Option<PathBuf>,

    /// Send the token and all content over plain HTTP also to other hosts
    #[arg(long, global = true, help_heading = "Platform")]
    allow_plain_http: bool,
}

impl PlatformOptions {
    /// The URLs of the platform elsewhere, if it is there.
    pub(super) fn urls(&self) -> Option<String> {
        let urls: Vec<_> = self.urls_given().collect();
        (!urls.is_empty()).then(|| urls.join(","))
    }

    /// A client of the platform elsewhere.
    pub(super) fn client(&self) -> Result<Client, Error> {
        let path = self.token_file.as_deref().ok_or(Error::NoTokenFile)?;
        let token = token(path)?;
        let authorities = self.platform_ca.as_deref().map(authorities).transpose()?;
        let urls = self.urls_given().map(str::to_owned).collect();
        let allows_plain_http = self.allow_plain_http;
        let platform = RemotePlatform { urls, token, authorities, allows_plain_http };
        Client::remote(platform).map_err(|error| match error {
            platform::Error::BadToken => Error::NoToken { path: path.to_owned() },
            platform::Error::BadAuthorities { reason } => {
                Error::Authorities { path: self.platform_ca.clone().unwrap_or_default(), reason }
            }
            other => Error::Remote(other),
        })
    }

    pub(super) fn token_file(&self) -> Option<&Path> {
        self.token_file.as_deref()
    }

    /// An empty variable of the environment names none.
    fn urls_given(&self) -> impl Iterator<Item = &str> {
        self.platform.iter().map(|url| url.trim()).filter(|url| !url.is_empty())
    }
}

fn token(path: &Path) -> Result<String, Error> {
    let fail = |source| Error::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(fail)?;
    // That of the open file: the path may name another one by now.
    if file.metadata().map_err(fail)?.mode() & 0o077 != 0 {
        return Err(Error::TokenReadable { path: path.to_owned() });
    }
    let bytes = read(file, LONGEST_TOKEN).map_err(fail)?;
    let text = String::from_utf8(bytes).map_err(|_| Error::NoToken { path: path.to_owned() })?;
    Ok(text.trim().to_owned())
}

fn authorities(path: &Path) -> Result<Vec<u8>, Error> {
    let fail = |source| Error::File { path: path.to_owned(), source };
    read(File::open(path).map_err(fail)?, LARGEST_AUTHORITIES).map_err(fail)
}

fn read(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}
