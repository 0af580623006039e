//! What only an object store can do, or do wrong.

use std::fs;
use std::io::Write;
use std::time::Duration;

use host_test::s3::S3;
use platform::{Content, Error, Platform};
use serde_json::json;

use crate::checkpoints::{announce, checkpoint};
use crate::harness::{Host, refusal, sha256};
use crate::storages::{commit, files, manifest, prepare, snapshot, upload, with_artifact};
use crate::store::{config, in_bucket, keys, unfinished};

#[test]
fn content_comes_from_the_store_and_no_upload_is_left() {
    let host = Host::start();
    let (guest, mount) = with_artifact(&host);
    let history = guest.history("{\"a\":1}\n");
    let version = snapshot(&guest, &mount, "new");
    checkpoint(&guest, &history, &version).ok();

    let given = &guest.context["storageManifest"]["storageMounts"][0];
    let whole = host.get(&given["archiveUrl"], "");
    let part = host.get(&given["archiveUrl"], "Range: bytes=2-5\r\n");

    assert_eq!(given["archiveSize"], json!(whole.body.len()));
    assert_eq!((part.status, &part.body[..]), (206, &whole.body[2..6]));
    let store = guest.context["objectStoreUrl"].as_str().unwrap();
    assert!(given["archiveUrl"].as_str().unwrap().starts_with(&format!("{store}/")));
    let keys = keys(&host.config().content);
    assert_eq!(keys.len(), 5, "{keys:?}");
    assert!(keys.iter().all(|key| key.starts_with("objects/")), "{keys:?}");
    assert_eq!(fs::read_dir(host.state().join("control/blobs")).unwrap().count(), 0);
}

#[test]
fn a_commit_stays_what_it_was_when_the_guest_uploads_again() {
    let host = Host::start();
    let (guest, mount) = with_artifact(&host);
    let prepared = prepare(&guest, &mount, &files("new"));
    let url = |kind: &str| prepared["uploads"][kind]["presignedUrl"].clone();
    host.put(&url("archive"), b"new").ok();
    host.put(&url("manifest"), b"not what was committed").ok();
    commit(&guest, &mount, &files("new"), &prepared["versionId"]).ok();

    host.put(&url("archive"), b"evil").ok();
    let history = guest.history("{}\n");
    checkpoint(&guest, &history, prepared["versionId"].as_str().unwrap()).ok();

    let mut archive = Vec::new();
    host.client().artifact(guest.run, "work", &mut archive).unwrap();
    assert_eq!(archive, b"new");
}

#[test]
fn a_history_is_checked_when_a_checkpoint_names_it() {
    let host = Host::start();
    let guest = host.running();
    let upload = |text: &[u8], sent: &[u8], encoding: &str| {
        let announcement = announce(text, sent, encoding);
        let prepared = guest.post("checkpoints/prepare-history", announcement).ok();
        host.put(&prepared["presignedUrl"], sent).status
    };
    let named = |text: &[u8]| {
        let body = json!({"cliAgentType": "claude-code", "cliAgentSessionId": "s",
            "cliAgentSessionHistoryHash": sha256(text)});
        guest.post("checkpoints", body)
    };
    let text = "{\"line\":1}\n".repeat(20_000);
    let packed = zstd::encode_all(text.as_bytes(), 3).unwrap();

    assert_eq!(upload(b"[]\n", b"{}\n", "identity"), 200);
    assert_eq!(
        upload(b"bomb", &zstd::encode_all(&vec![0; 10 << 20][..], 19).unwrap(), "zstd"),
        200
    );
    assert_eq!(upload(b"cut", &packed[..packed.len() - 9], "zstd"), 200);
    assert_eq!(upload(text.as_bytes(), &packed, "zstd"), 200);

    assert_eq!(named(b"[]\n").refused(), refusal(400, "WRONG_HASH"));
    assert_eq!(named(b"bomb").refused(), refusal(400, "WRONG_HASH"));
    assert_eq!(named(b"cut").status, 400);
    named(text.as_bytes()).ok();
    let again =
        guest.post("checkpoints/prepare-history", announce(text.as_bytes(), &packed, "zstd"));
    assert_eq!(again.ok(), json!({"existing": true}));
}

#[test]
fn a_history_of_another_length_than_announced_is_refused_by_the_store() {
    let host = Host::start();
    let guest = host.running();
    let announcement = announce(b"{}\n", b"{}\n", "identity");

    let prepared = guest.post("checkpoints/prepare-history", announcement).ok();

    assert_eq!(host.put(&prepared["presignedUrl"], b"{}\n{}\n").status, 403);
}

#[test]
fn archives_that_are_empty_or_too_large_are_not_committed() {
    let host = Host::with(|config| config.largest_archive = 1000);
    let (guest, mount) = with_artifact(&host);
    let prepared = prepare(&guest, &mount, &files("new"));
    let url = |kind: &str| prepared["uploads"][kind]["presignedUrl"].clone();
    host.put(&url("manifest"), &manifest(&files("new"))).ok();
    let commit = || commit(&guest, &mount, &files("new"), &prepared["versionId"]).refused();

    host.put(&url("archive"), b"").ok();
    assert_eq!(commit(), refusal(400, "BAD_REQUEST"));
    host.put(&url("archive"), &[0; 1001]).ok();
    assert_eq!(commit(), refusal(413, "TOO_LARGE"));
}

#[test]
fn an_attempt_has_limits_of_bytes_and_of_versions_under_upload() {
    let host = Host::with(|config| config.largest_upload = 150);
    let (guest, mount) = with_artifact(&host);
    let prepared = prepare(&guest, &mount, &files("new"));
    let url = |kind: &str| prepared["uploads"][kind]["presignedUrl"].clone();
    host.put(&url("manifest"), &manifest(&files("new"))).ok();
    host.put(&url("archive"), &[0; 151]).ok();

    let too_large = commit(&guest, &mount, &files("new"), &prepared["versionId"]);
    for number in 0..63 {
        prepare(&guest, &mount, &files(&number.to_string()));
    }
    let body = json!({"storageId": mount.storage_id, "files": files("one more")});
    let too_many = guest.post("storages/prepare", body);

    assert_eq!(too_large.refused(), refusal(413, "TOO_LARGE"));
    assert_eq!(too_many.refused(), refusal(413, "TOO_LARGE"));
}

#[test]
fn a_large_folder_is_uploaded_in_parts() {
    let host = Host::start();
    let folder = tempfile::tempdir().unwrap();
    let mut file = fs::File::create(folder.path().join("large")).unwrap();
    // Random, so that its archive is as large.
    let mut random = fs::File::open("/dev/urandom").unwrap();
    let copied = std::io::copy(&mut std::io::Read::take(&mut random, 66 << 20), &mut file).unwrap();
    file.flush().unwrap();

    let mount = upload(&host, folder.path());
    let again = upload(&host, folder.path());
    let artifacts = vec![mount.clone()];
    let submission =
        platform::Submission { prompt: "x".into(), artifacts, ..platform::Submission::default() };
    let guest = host.claim(host.client().submit(&submission).unwrap().run_id);

    assert_eq!(copied, 66 << 20);
    assert_eq!(again.version_id, mount.version_id);
    let given = &guest.context["storageManifest"]["storageMounts"][0];
    let begin = host.get(&given["archiveUrl"], "Range: bytes=0-1\r\n");
    assert!(given["archiveSize"].as_u64().unwrap() > 64 << 20);
    assert_eq!(begin.body, b"\x1f\x8b");
    assert_eq!(unfinished(&host.config().content), 0);
}

#[test]
fn pruning_removes_what_nothing_names_and_uploads_that_were_given_up() {
    let host = Host::start();
    let (guest, mount) = with_artifact(&host);
    let version = snapshot(&guest, &mount, "new");
    let history = guest.history("{}\n");
    checkpoint(&guest, &history, &version).ok();
    let abandoned = prepare(&guest, &mount, &files("abandoned"));
    host.put(&abandoned["uploads"]["archive"]["presignedUrl"], b"abandoned").ok();
    guest.complete(0).ok();
    let content = host.config().content;
    let before = keys(&content).len();

    let young = host.client().prune(Duration::from_secs(3600)).unwrap();
    let kept = keys(&content).len();
    let pruned = host.client().prune(Duration::ZERO).unwrap();

    assert_eq!((before, young.blobs, kept), (6, 0, 6));
    assert_eq!((pruned.jobs, pruned.versions, pruned.blobs), (1, 2, 5));
    assert!(pruned.bytes > 0);
    assert_eq!(keys(&content), [""; 0]);
}

#[test]
fn pruning_keeps_what_is_named() {
    let host = Host::start();
    let (guest, mount) = with_artifact(&host);
    let version = snapshot(&guest, &mount, "new");
    let history = guest.history("{}\n");
    checkpoint(&guest, &history, &version).ok();
    let before = keys(&host.config().content);

    let pruned = host.client().prune(Duration::ZERO).unwrap();

    assert_eq!(pruned.blobs, 0);
    assert_eq!(keys(&host.config().content), before);
}

#[test]
fn a_platform_does_not_start_with_a_bucket_that_it_cannot_use() {
    let server = S3::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let start = |bucket, prefix: &str| {
        let mut config = platform::Config::new(dir.path());
        config.content = in_bucket(bucket, prefix.into());
        Platform::start(config).err().map(|error| base::error::chain(&error))
    };
    let good = config(&server);
    let none = start(platform::BucketConfig { bucket: "none".into(), ..good.clone() }, "");
    let credentials = platform::BucketCredentials::new(S3::KEY, "the-wrong-secret");
    let denied = start(platform::BucketConfig { credentials, ..good.clone() }, "");
    let endpoint = "http://127.0.0.1:1".to_owned();
    let away = start(platform::BucketConfig { endpoint, ..good.clone() }, "");

    assert!(none.unwrap().contains("there is no bucket `none`"));
    let denied = denied.unwrap();
    assert!(denied.contains("rejects the credentials") && !denied.contains("secret"), "{denied}");
    assert!(away.unwrap().contains("cannot reach the object store"));
    assert!(start(good.clone(), "../x").unwrap().contains("not a prefix"));
    assert_eq!(start(good, ""), None);
}

#[test]
fn a_platform_does_not_start_with_another_store_than_its_contents() {
    let mut host = Host::start();
    with_artifact(&host);
    host.stop();
    let mut config = host.config();
    config.content = Content::Files;

    let started = Platform::start(config);

    assert!(matches!(started.err(), Some(Error::ContentElsewhere { .. })));
}

#[test]
fn a_store_that_is_away_is_waited_for_and_nothing_is_half() {
    let mut server = S3::start().unwrap();
    let host = Host::with(|at| at.content = in_bucket(config(&server), "away".into()));
    let (guest, mount) = with_artifact(&host);
    let prepared = prepare(&guest, &mount, &files("new"));
    let url = |kind: &str| prepared["uploads"][kind]["presignedUrl"].clone();
    host.put(&url("archive"), b"new").ok();
    host.put(&url("manifest"), &manifest(&files("new"))).ok();
    let history = guest.history("{}\n");
    let version = prepared["versionId"].as_str().unwrap();

    server.stop();
    let committed = commit(&guest, &mount, &files("new"), &prepared["versionId"]);
    let named = checkpoint(&guest, &history, version);
    guest.events(&[0]).ok();
    server.run();

    assert_eq!(committed.refused(), refusal(503, "STORE_UNAVAILABLE"));
    assert_eq!(named.refused(), refusal(503, "STORE_UNAVAILABLE"));
    assert!(committed.head.contains("Retry-After"));
    commit(&guest, &mount, &files("new"), &prepared["versionId"]).ok();
    checkpoint(&guest, &history, version).ok();
    let mut archive = Vec::new();
    host.client().artifact(guest.run, "work", &mut archive).unwrap();
    assert_eq!(archive, b"new");
}
