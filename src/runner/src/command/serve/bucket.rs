//! The options of an object store.

use std::path::PathBuf;

use platform::{BucketConfig, BucketCredentials, BucketStyle, Content, Error};

/// Where the bucket's name is in a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Style {
    Path,
    VirtualHost,
}

/// A bucket for archives, manifests and histories.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Object store")]
pub(super) struct BucketArguments {
    /// Bucket of an S3 object store for archives and histories [default: files in the state folder]
    #[arg(long, value_name = "NAME", requires = "bucket_endpoint")]
    bucket: Option<String>,

    /// URL of the object store, which runners and guests use, too
    #[arg(long, value_name = "URL", requires = "bucket")]
    bucket_endpoint: Option<String>,

    /// Region of the bucket
    #[arg(long, value_name = "REGION", default_value = "us-east-1", requires = "bucket")]
    bucket_region: String,

    /// What the keys of all objects begin with, like `fleet/`
    #[arg(long, value_name = "PREFIX", default_value = "", requires = "bucket")]
    bucket_prefix: String,

    /// Where the bucket's name is in URLs
    #[arg(long, value_name = "STYLE", default_value = "path", requires = "bucket")]
    bucket_style: Style,

    /// Certificates of authorities in PEM format that are trusted besides the system's
    #[arg(long, value_name = "FILE", requires = "bucket")]
    bucket_ca: Option<PathBuf>,

    /// File with the credentials in AWS's format, mode 0600 [default: AWS_ACCESS_KEY_ID and
    /// AWS_SECRET_ACCESS_KEY of the environment]
    #[arg(long, value_name = "FILE", requires = "bucket")]
    bucket_credentials: Option<PathBuf>,
}

impl BucketArguments {
    pub(super) fn content(self) -> Result<Content, Error> {
        let (Some(bucket), Some(endpoint)) = (self.bucket, self.bucket_endpoint) else {
            return Ok(Content::Files);
        };
        let credentials = match self.bucket_credentials {
            Some(path) => BucketCredentials::from_file(&path),
            None => BucketCredentials::from_environment(),
        };
        let credentials =
            credentials.map_err(|source| Error::Store { source: Box::new(source) })?;
        let style = match self.bucket_style {
            Style::Path => BucketStyle::Path,
            Style::VirtualHost => BucketStyle::VirtualHost,
        };
        let (region, ca_file) = (self.bucket_region, self.bucket_ca);
        let bucket = BucketConfig { endpoint, region, bucket, style, ca_file, credentials };
        Ok(Content::Bucket { bucket, prefix: self.bucket_prefix })
    }
}
