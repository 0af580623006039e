//! Against a server that is not ours.

use std::io::Read;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use host_test::s3::{BUCKET, REGION, S3};
use platform_client::{HttpClient, RequestCancellation, RequestLimits};
use s3::{Bucket, Config, Credentials, Error, Method, Style};

static SERVER: LazyLock<Option<S3>> = LazyLock::new(S3::start);

static NEXT: AtomicU32 = AtomicU32::new(0);

const HOUR: Duration = Duration::from_secs(60 * 60);

fn config(server: &S3) -> Config {
    Config {
        endpoint: server.endpoint(),
        region: REGION.into(),
        bucket: BUCKET.into(),
        style: Style::Path,
        ca_file: None,
        credentials: Credentials::new(S3::KEY, server.secret()),
    }
}

/// The bucket, and a prefix of the calling test. `None` if there is no server.
fn bucket() -> Option<(Bucket, String)> {
    let Some(server) = &*SERVER else {
        host_test::skip("no `weed`: run scripts/test");
        return None;
    };
    let prefix = format!("test{}/", NEXT.fetch_add(1, Ordering::Relaxed));
    Some((Bucket::new(config(server)).unwrap(), prefix))
}

fn client() -> HttpClient {
    HttpClient::new(RequestLimits::within(HOUR), &RequestCancellation::default())
}

fn read(bucket: &Bucket, key: &str) -> Option<Vec<u8>> {
    let mut object = bucket.get(key).unwrap()?;
    let mut bytes = Vec::new();
    object.reader.read_to_end(&mut bytes).unwrap();
    assert_eq!(object.size, bytes.len() as u64);
    Some(bytes)
}

fn put(url: &str, content: &[u8]) -> Result<(), platform_client::Error> {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, content).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    client().put(url, "application/octet-stream", &file, content.len() as u64)
}

#[test]
fn an_object_is_written_read_copied_and_removed() {
    let Some((bucket, prefix)) = bucket() else { return };
    let (one, other) = (format!("{prefix}one"), format!("{prefix}other"));
    bucket.put(&one, b"content").unwrap();
    let stat = bucket.stat(&one).unwrap().unwrap();

    assert!(bucket.copy(&one, &stat.etag, &other).unwrap());
    bucket.remove(&one).unwrap();
    bucket.remove(&one).unwrap();

    assert_eq!(stat.size, 7);
    assert_eq!(read(&bucket, &one), None);
    assert_eq!(bucket.stat(&one).unwrap(), None);
    assert_eq!(read(&bucket, &other).unwrap(), b"content");
}

#[test]
fn an_object_that_was_replaced_is_not_copied() {
    let Some((bucket, prefix)) = bucket() else { return };
    let (one, other) = (format!("{prefix}one"), format!("{prefix}other"));
    bucket.put(&one, b"content").unwrap();
    let stat = bucket.stat(&one).unwrap().unwrap();
    bucket.put(&one, b"another").unwrap();

    assert!(!bucket.copy(&one, &stat.etag, &other).unwrap());
    assert!(!bucket.copy(&format!("{prefix}none"), &stat.etag, &other).unwrap());
    assert_eq!(bucket.stat(&other).unwrap(), None);
}

#[test]
fn objects_are_listed_by_prefix_in_order_and_page_by_page() {
    let Some((bucket, prefix)) = bucket() else { return };
    for name in ["a/1", "a/2", "b/1"] {
        bucket.put(&format!("{prefix}{name}"), name.as_bytes()).unwrap();
    }

    let all = bucket.list(&prefix, "").unwrap();
    let rest = bucket.list(&format!("{prefix}a/"), &all[0].key).unwrap();

    let keys: Vec<_> = all.iter().map(|one| one.key.strip_prefix(&prefix).unwrap()).collect();
    assert_eq!(keys, ["a/1", "a/2", "b/1"]);
    assert_eq!(rest, [all[1].clone()]);
    assert!(all[0].size == 3 && all[0].modified.elapsed().unwrap_or_default() < HOUR);
    assert_eq!(bucket.list(&prefix, &all[2].key).unwrap(), []);
}

#[test]
fn a_presigned_url_is_for_one_method_and_the_announced_length() {
    let Some((bucket, prefix)) = bucket() else { return };
    let key = format!("{prefix}one");
    let url = bucket.presign(Method::Put, &key, &[("content-length", "7")], HOUR);

    let short = put(&url, b"other");
    let read_by_it = client().get(&url, &[]);
    put(&url, b"content").unwrap();

    assert_eq!(short.unwrap_err().status(), Some(403));
    assert_eq!(read_by_it.err().unwrap().status(), Some(403));
    let url = bucket.presign(Method::Get, &key, &[], HOUR);
    let range = client().get(&url, &[("range", "bytes=1-2")]).unwrap();
    assert_eq!(range.status, 206);
    assert_eq!(range.bytes(10).unwrap(), b"on");
}

#[test]
fn an_object_of_parts_exists_when_they_are_complete_and_all_there() {
    let Some((bucket, prefix)) = bucket() else { return };
    let key = format!("{prefix}large");
    let parts = [vec![b'a'; 5 << 20], b"end".to_vec()];
    let size = (5 << 20) + 3;
    let upload = bucket.begin(&key).unwrap();
    put(&bucket.presign_part(&key, &upload, 1, HOUR), &parts[0]).unwrap();

    let early = bucket.complete(&key, &upload, size).unwrap();
    put(&bucket.presign_part(&key, &upload, 2, HOUR), &parts[1]).unwrap();
    let complete = bucket.complete(&key, &upload, size).unwrap();
    let again = bucket.complete(&key, &upload, size).unwrap();

    assert_eq!((early, complete, again), (false, true, true));
    assert_eq!(read(&bucket, &key).unwrap(), parts.concat());
    assert_eq!(bucket.unfinished(&prefix).unwrap(), []);
}

#[test]
fn an_unfinished_upload_is_listed_until_it_is_aborted() {
    let Some((bucket, prefix)) = bucket() else { return };
    let key = format!("{prefix}large");
    let upload = bucket.begin(&key).unwrap();

    let found = bucket.unfinished(&prefix).unwrap();
    bucket.abort(&key, &upload).unwrap();
    bucket.abort(&key, &upload).unwrap();

    assert_eq!((found.len(), &found[0].key, &found[0].upload), (1, &key, &upload));
    assert_eq!(bucket.unfinished(&prefix).unwrap(), []);
    assert!(!bucket.complete(&key, &upload, 0).unwrap());
}

#[test]
fn a_missing_bucket_and_rejected_credentials_are_named() {
    let Some(server) = &*SERVER else {
        return host_test::skip("no `weed`: run scripts/test");
    };
    let list = |config| Bucket::new(config).unwrap().list("", "").unwrap_err();
    let none = list(Config { bucket: "none".into(), ..config(server) });
    let credentials = Credentials::new(S3::KEY, "the-wrong-secret");
    let wrong = list(Config { credentials, ..config(server) });

    assert!(matches!(none, Error::NoBucket { .. }), "{none}");
    assert!(matches!(wrong, Error::Denied { .. }), "{wrong}");
    assert!(!wrong.is_transient() && wrong.to_string().contains("SignatureDoesNotMatch"));
    assert!(![S3::KEY, "secret", "http"].iter().any(|text| wrong.to_string().contains(text)));
}

#[test]
fn a_store_that_was_away_is_used_again() {
    let Some(mut server) = S3::start() else {
        return host_test::skip("no `weed`: run scripts/test");
    };
    let bucket = Bucket::new(config(&server)).unwrap();
    bucket.put("one", b"content").unwrap();

    server.stop();
    let away = bucket.stat("one").unwrap_err();
    server.run();

    assert!(away.is_transient() && matches!(away, Error::Unreachable { .. }), "{away}");
    assert_eq!(read(&bucket, "one").unwrap(), b"content");
}
