//! The stores of a test: SQLite, and a prefix of its own in the bucket that all tests of this process share.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use host_test::s3::{BUCKET, REGION, S3};
use platform::{BucketConfig, BucketCredentials, BucketStyle, Content, Database};
use s3::Bucket;

static SERVER: LazyLock<S3> =
    LazyLock::new(|| S3::start().unwrap_or_else(|| panic!("no `weed`: run scripts/test")));

static NEXT: AtomicU32 = AtomicU32::new(0);

pub(crate) fn database() -> Database {
    Database::Embedded
}

/// Content in a new prefix.
pub(crate) fn content() -> Content {
    in_bucket(config(&SERVER), format!("test{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

pub(crate) fn in_bucket(bucket: BucketConfig, prefix: String) -> Content {
    Content::Bucket { bucket, prefix }
}

pub(crate) fn config(server: &S3) -> BucketConfig {
    BucketConfig {
        endpoint: server.endpoint(),
        region: REGION.into(),
        bucket: BUCKET.into(),
        style: BucketStyle::Path,
        ca_file: None,
        credentials: BucketCredentials::new(S3::KEY, server.secret()),
    }
}

/// The keys of a platform's content, after its prefix.
pub(crate) fn keys(content: &Content) -> Vec<String> {
    let Content::Bucket { bucket, prefix } = content else { panic!("not a bucket") };
    let bucket = Bucket::new(bucket.clone()).unwrap();
    let prefix = format!("{prefix}/");
    let listed = bucket.list(&prefix, "").unwrap();
    listed.into_iter().map(|one| one.key.strip_prefix(&prefix).unwrap().to_owned()).collect()
}

/// The uploads in parts that were begun.
pub(crate) fn unfinished(content: &Content) -> usize {
    let Content::Bucket { bucket, prefix } = content else { panic!("not a bucket") };
    Bucket::new(bucket.clone()).unwrap().unfinished(&format!("{prefix}/")).unwrap().len()
}
