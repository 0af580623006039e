//! The description of a bucket, and the credentials for it.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Where the bucket's name is in a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `https://ENDPOINT/BUCKET/KEY`
    Path,
    /// `https://BUCKET.ENDPOINT/KEY`
    VirtualHost,
}

/// A bucket.
#[derive(Debug, Clone)]
pub struct Config {
    /// `https://s3.eu-central-1.amazonaws.com`.
    pub endpoint: String,
    /// The region that is signed: `eu-central-1`.
    pub region: String,
    /// The bucket's name.
    pub bucket: String,
    /// Where the bucket's name is in a URL.
    pub style: Style,
    /// Certificates of authorities in PEM, which are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// What signs requests.
    pub credentials: Credentials,
}

/// The name and the secret that sign requests.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub(crate) key: String,
    pub(crate) secret: String,
    pub(crate) token: Option<String>,
}

/// Prints nothing of them.
impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Credentials")
    }
}

impl Credentials {
    /// A pair without a session token.
    #[must_use]
    pub fn new(key: impl Into<String>, secret: impl Into<String>) -> Self {
        Self { key: key.into(), secret: secret.into(), token: None }
    }

    /// Those of `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`.
    pub fn from_environment() -> Result<Self> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (key, secret) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"));
        let token = variable("AWS_SESSION_TOKEN");
        match (key, secret) {
            (Some(key), Some(secret)) => Ok(Self { key, secret, token }),
            _ => Err(Error::NoCredentials),
        }
    }

    /// Those of a file in the format of AWS's programs, with one profile. Only its owner may read it.
    pub fn from_file(path: &Path) -> Result<Self> {
        let read = || {
            let mut open = File::open(path)?;
            let mut text = String::new();
            open.by_ref().take(64 << 10).read_to_string(&mut text)?;
            // That of the open file: the path may name another one by now.
            Ok((text, open.metadata()?.mode()))
        };
        let (text, mode) =
            read().map_err(|source| Error::ReadFile { path: path.to_owned(), source })?;
        if mode & 0o077 != 0 {
            return Err(Error::CredentialsReadable { path: path.to_owned() });
        }
        let malformed = |reason| Error::BadCredentials { path: path.to_owned(), reason };
        Self::parse(&text).map_err(malformed)
    }

    fn parse(text: &str) -> std::result::Result<Self, &'static str> {
        let (mut key, mut secret, mut token, mut profiles) = (None, None, None, 0);
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        for line in lines.filter(|line| !line.starts_with(['#', ';'])) {
            if line.starts_with('[') {
                profiles += 1;
                continue;
            }
            let (name, value) = line.split_once('=').ok_or("a line has no `=`")?;
            match name.trim() {
                "aws_access_key_id" => key = Some(value.trim().to_owned()),
                "aws_secret_access_key" => secret = Some(value.trim().to_owned()),
                "aws_session_token" => token = Some(value.trim().to_owned()),
                _ => {}
            }
        }
        if profiles > 1 {
            return Err("it has several profiles");
        }
        let key = key.ok_or("`aws_access_key_id` is missing")?;
        let secret = secret.ok_or("`aws_secret_access_key` is missing")?;
        Ok(Self { key, secret, token })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_credentials_file_has_one_profile_of_awss_format() {
        let text =
            "# ours\n[default]\naws_access_key_id = AK\naws_secret_access_key= s=c/r\nregion = x\n";
        let all = Credentials::parse(text).unwrap();
        assert_eq!(all, Credentials::new("AK", "s=c/r"));
        let with_token = Credentials::parse(&format!("{text}aws_session_token=t")).unwrap();
        assert_eq!(with_token.token.as_deref(), Some("t"));
        let second = Credentials::parse(&format!("{text}[other]"));
        assert_eq!(second.unwrap_err(), "it has several profiles");
        assert!(Credentials::parse("aws_access_key_id = AK").is_err());
        assert!(Credentials::parse("AKIA:secret").is_err());
    }

    #[test]
    fn a_credentials_file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        fs::write(&path, "aws_access_key_id=AK\naws_secret_access_key=the-secret").unwrap();

        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let refused = Credentials::from_file(&path);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let read = Credentials::from_file(&path).unwrap();

        assert!(matches!(refused, Err(Error::CredentialsReadable { .. })));
        assert_eq!(format!("{read:?}"), "Credentials");
    }
}
