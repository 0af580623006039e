//! Content that the platform receives and sends itself: what it checks while it does.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::checkpoints::announce;
use crate::harness::{Host, refusal, sha256};
use crate::storages::{commit, files, manifest, prepare, with_artifact};

#[test]
fn a_commit_or_manifest_of_other_files_is_refused() {
    let host = Host::start();
    let (guest, mount) = with_artifact(&host);
    let prepared = prepare(&guest, &mount, &files("new"));
    let url = &prepared["uploads"]["manifest"]["presignedUrl"];

    let wrong = host.put(url, &manifest(&files("other")));
    let garbage = host.put(url, b"garbage");
    host.put(url, &manifest(&files("new"))).ok();
    host.put(&prepared["uploads"]["archive"]["presignedUrl"], b"archive").ok();
    let other = commit(&guest, &mount, &files("other"), &prepared["versionId"]);

    assert_eq!(wrong.refused(), refusal(400, "WRONG_HASH"));
    assert_eq!(garbage.refused(), refusal(400, "BAD_REQUEST"));
    assert_eq!(other.refused(), refusal(400, "WRONG_HASH"));
}

#[test]
fn tampered_urls_are_refused() {
    let host = Host::start();
    let (guest, mount) = with_artifact(&host);
    let url = guest.context["storageManifest"]["storageMounts"][0]["archiveUrl"].clone();
    let text = url.as_str().unwrap();
    let upload =
        prepare(&guest, &mount, &files("new"))["uploads"]["archive"]["presignedUrl"].clone();
    let other_end = if text.ends_with('0') { "1" } else { "0" };
    let get = |text: String| host.get(&json!(text), "").refused();
    let bad = refusal(403, "BAD_SIGNATURE");

    assert_eq!(get(format!("{}{other_end}", &text[..text.len() - 1])), bad);
    assert_eq!(get(text.replace("expires=", "expires=9")), bad);
    assert_eq!(get(text.replace("/blobs/", "/blobs/../blobs/")), bad);
    assert_eq!(get(text.split('?').next().unwrap().to_owned()), bad);
    assert_eq!(host.put(&url, b"x").refused(), bad);
    assert_eq!(host.get(&upload, "").refused(), bad);
    let elsewhere = upload.as_str().unwrap().replace("/archive/", "/manifest/");
    assert_eq!(host.put(&json!(elsewhere), b"x").refused(), bad);
}

#[test]
fn expired_urls_are_refused() {
    let host = Host::with(|config| config.url_lifetime = Duration::ZERO);
    let guest = host.running();
    let announcement =
        json!({"hash": sha256(b"x"), "rawSize": 1, "encodedSize": 1, "encoding": "identity"});

    let prepared = guest.post("checkpoints/prepare-history", announcement).ok();

    let refused = host.put(&prepared["presignedUrl"], b"x").refused();
    assert_eq!(refused, refusal(403, "URL_EXPIRED"));
}

#[test]
fn uploads_of_an_attempt_that_was_lost_are_refused() {
    let host = Host::start();
    let (guest, mount) = with_artifact(&host);
    let prepared = prepare(&guest, &mount, &files("new"));
    host.source().give_back(guest.run, 1).unwrap();

    let refused = host.put(&prepared["uploads"]["archive"]["presignedUrl"], b"x");

    assert_eq!(refused.refused(), refusal(409, "OBJECTS_MISSING"));
}

#[test]
fn the_same_archive_may_be_uploaded_by_many_at_once() {
    let host = Host::start();
    let (guest, mount) = with_artifact(&host);
    let prepared = prepare(&guest, &mount, &files("new"));
    let url = &prepared["uploads"]["archive"]["presignedUrl"];
    let archive = vec![7; 3 << 20];

    let statuses = std::thread::scope(|scope| {
        let uploads = [0; 6].map(|_| scope.spawn(|| host.put(url, &archive).status));
        uploads.map(|upload| upload.join().unwrap())
    });

    assert_eq!(statuses, [200; 6]);
    assert_eq!(fs::read_dir(host.state().join("control/partial")).unwrap().count(), 0);
}

#[test]
fn archives_that_are_empty_or_too_large_are_refused() {
    let host = Host::with(|config| config.largest_archive = 1000);
    let (guest, mount) = with_artifact(&host);
    let prepared = prepare(&guest, &mount, &files("new"));
    let url = &prepared["uploads"]["archive"]["presignedUrl"];

    assert_eq!(host.put(url, b"").refused(), refusal(400, "BAD_REQUEST"));
    assert_eq!(host.put(url, &[0; 1001]).refused(), refusal(413, "TOO_LARGE"));
}

#[test]
fn an_attempt_that_exceeds_its_upload_limit_is_rejected() {
    let host = Host::with(|config| config.largest_upload = 150);
    let (guest, mount) = with_artifact(&host);
    let prepared = prepare(&guest, &mount, &files("new"));
    let url = &prepared["uploads"]["archive"]["presignedUrl"];
    host.put(url, &[0; 100]).ok();

    assert_eq!(host.put(url, &[0; 100]).refused(), refusal(413, "TOO_LARGE"));
}

#[test]
fn urls_for_guests_use_the_configured_base_and_others_the_requests_host() {
    let host = Host::with(|config| config.guest_url = Some("http://192.168.241.1:8080".into()));
    let (guest, mount) = with_artifact(&host);
    let given = &guest.context["storageManifest"]["storageMounts"][0]["archiveUrl"];

    let prepared = prepare(&guest, &mount, &files("new"));

    assert!(given.as_str().unwrap().starts_with("http://192.168.241.1:8080/blobs/"));
    let asked = prepared["uploads"]["archive"]["presignedUrl"].as_str().unwrap();
    assert!(asked.starts_with(&format!("http://{}/uploads/", host.address())));
}

#[test]
fn a_guest_downloads_its_artifact_completely_and_by_ranges() {
    let host = Host::start();
    let (guest, mount) = with_artifact(&host);
    let given = &guest.context["storageManifest"]["storageMounts"][0];
    let url = &given["archiveUrl"];

    let whole = host.get(url, "");
    let part = host.get(url, "Range: bytes=2-5\r\n");
    let outside = host.get(url, "Range: bytes=99999-\r\n");

    assert_eq!(given["versionId"], json!(mount.version_id));
    assert_eq!(given["mountPath"], "/w");
    assert_eq!(given["archiveSize"], json!(whole.body.len()));
    assert_eq!(&whole.body[..2], b"\x1f\x8b");
    assert_eq!((part.status, &part.body[..]), (206, &whole.body[2..6]));
    assert!(part.head.contains(&format!("Content-Range: bytes 2-5/{}", whole.body.len())));
    assert_eq!(outside.refused(), refusal(416, "RANGE"));
}

#[test]
fn a_compressed_history_is_stored_and_not_requested_again() {
    let host = Host::start();
    let guest = host.running();
    let text = "{\"line\":1}\n".repeat(20_000);
    let packed = zstd::encode_all(text.as_bytes(), 3).unwrap();
    let announcement = announce(text.as_bytes(), &packed, "zstd");

    let prepared = guest.post("checkpoints/prepare-history", announcement.clone()).ok();
    host.put(&prepared["presignedUrl"], &packed).ok();
    let again = guest.post("checkpoints/prepare-history", announcement).ok();

    assert_eq!(prepared["encoding"], "zstd");
    assert_eq!(again, json!({"existing": true}));
}

#[test]
fn a_history_of_the_wrong_hash_or_size_is_refused() {
    let host = Host::start();
    let guest = host.running();
    let prepare = |announcement| {
        guest.post("checkpoints/prepare-history", announcement).ok()["presignedUrl"].clone()
    };
    let plain = prepare(announce(b"{}\n", b"{}\n", "identity"));

    assert_eq!(host.put(&plain, b"[]\n").refused(), refusal(400, "WRONG_HASH"));
    assert_eq!(host.put(&plain, b"{}").refused(), refusal(400, "WRONG_SIZE"));
    host.put(&plain, b"{}\n").ok();
}

#[test]
fn a_history_larger_than_announced_is_rejected() {
    let host = Host::start();
    let guest = host.running();
    let bomb = zstd::encode_all(&vec![0; 10 << 20][..], 19).unwrap();
    let garbage = vec![9; bomb.len()];
    let announcement = announce(b"small", &bomb, "zstd");
    let prepared = guest.post("checkpoints/prepare-history", announcement).ok();

    let url = &prepared["presignedUrl"];
    assert_eq!(host.put(url, &bomb).refused(), refusal(400, "BAD_REQUEST"));
    assert_eq!(host.put(url, &garbage).refused(), refusal(400, "BAD_REQUEST"));
}

#[test]
fn a_history_of_a_run_that_has_ended_is_refused() {
    let host = Host::start();
    let guest = host.running();
    let announcement = announce(b"{}\n", b"{}\n", "identity");
    let prepared = guest.post("checkpoints/prepare-history", announcement).ok();
    guest.complete(1).ok();

    let refused = host.put(&prepared["presignedUrl"], b"{}\n").refused();

    assert_eq!(refused, refusal(409, "RUN_ENDED"));
}
