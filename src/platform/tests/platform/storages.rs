//! Versions of storages: prepared, uploaded by presigned URLs, committed, downloaded.

use std::fs;
use std::path::Path;
use std::time::Duration;

use platform::{Artifact, Mount, Submission};
use serde_json::{Value, json};

use crate::harness::{Guest, Host, refusal, sha256};

/// A job with an artifact `work` at `/w` that holds one file.
pub(crate) fn with_artifact(host: &Host) -> (Guest<'_>, Mount) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.txt"), "old").unwrap();
    let file = fs::File::open(folder.path().join("a.txt")).unwrap();
    // So that two of them are the same.
    file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
    let mount = upload(host, folder.path());
    let submission = Submission {
        prompt: "change it".into(),
        artifacts: vec![mount.clone()],
        ..Submission::default()
    };
    let run = host.client().submit(&submission).unwrap().run_id;
    (host.claim(run), mount)
}

pub(crate) fn upload(host: &Host, folder: &Path) -> Mount {
    let artifact =
        Artifact { name: "work".into(), folder: folder.to_owned(), mount_path: "/w".into() };
    host.client().upload(&artifact).unwrap()
}

/// A list of one file with that content.
pub(crate) fn files(content: &str) -> Value {
    json!([{"path": "a.txt", "hash": sha256(content.as_bytes()), "size": content.len()}])
}

pub(crate) fn manifest(files: &Value) -> Vec<u8> {
    let created = "2026-01-01T00:00:00.000Z";
    json!({"version": 1, "files": files, "createdAt": created}).to_string().into_bytes()
}

/// Makes a new version as a guest does, and returns its id.
pub(crate) fn snapshot(guest: &Guest<'_>, mount: &Mount, content: &str) -> String {
    let files = files(content);
    let prepared = prepare(guest, mount, &files);
    let (uploads, version) = (&prepared["uploads"], &prepared["versionId"]);
    guest.host.put(&uploads["archive"]["presignedUrl"], content.as_bytes()).ok();
    guest.host.put(&uploads["manifest"]["presignedUrl"], &manifest(&files)).ok();
    let committed = commit(guest, mount, &files, version).ok();
    assert_eq!(committed, json!({"success": true, "versionId": version}));
    version.as_str().unwrap().to_owned()
}

pub(crate) fn prepare(guest: &Guest<'_>, mount: &Mount, files: &Value) -> Value {
    let body = json!({"storageId": mount.storage_id, "files": files});
    guest.post("storages/prepare", body).ok()
}

pub(crate) fn commit(
    guest: &Guest<'_>,
    mount: &Mount,
    files: &Value,
    version: &Value,
) -> crate::harness::Reply {
    let body = json!({"storageId": mount.storage_id, "files": files, "versionId": version});
    guest.post("storages/commit", body)
}

#[test]
fn a_guest_commits_a_new_version_and_may_repeat_each_step() {
    let host = Host::start();
    let (guest, mount) = with_artifact(&host);
    let version = snapshot(&guest, &mount, "new");

    let again = prepare(&guest, &mount, &files("new"));
    let committed = commit(&guest, &mount, &files("new"), &json!(version)).ok();

    assert_eq!(again["existing"], true);
    assert_eq!(again["versionId"], json!(version));
    assert!(again.get("uploads").is_none());
    assert_eq!(committed["success"], true);
}

#[test]
fn a_forced_prepare_makes_an_existing_version_under_another_name() {
    let host = Host::start();
    let (guest, mount) = with_artifact(&host);
    let body = json!({"storageId": mount.storage_id, "files": files("old"), "force": true});

    let plain = prepare(&guest, &mount, &files("old"));
    let forced = guest.post("storages/prepare", body.clone()).ok();
    let again = guest.post("storages/prepare", body).ok();

    assert_eq!(plain["existing"], true);
    assert_eq!(forced["existing"], false);
    assert_ne!(forced["versionId"], plain["versionId"]);
    assert_eq!(forced["versionId"], again["versionId"]);
}

#[test]
fn an_unchanged_artifact_keeps_its_version() {
    let host = Host::start();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.txt"), "old").unwrap();
    let plain = upload(&host, folder.path());
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.path().join("a.txt"), executable).unwrap();
    let given = upload(&host, folder.path());
    let artifacts = vec![given.clone()];
    let submission = Submission { prompt: "x".into(), artifacts, ..Submission::default() };
    let guest = host.claim(host.client().submit(&submission).unwrap().run_id);

    let prepared = prepare(&guest, &given, &files("old"));

    assert_ne!(given.version_id, plain.version_id);
    assert_eq!(prepared["existing"], true);
    assert_eq!(prepared["versionId"], json!(given.version_id));
}

#[test]
fn a_storage_can_be_named_instead_of_its_id() {
    let host = Host::start();
    let (guest, mount) = with_artifact(&host);
    let prepare = |name: &str, kind: &str| {
        let body = json!({"storageName": name, "storageType": kind, "files": files("old")});
        guest.post("storages/prepare", body)
    };

    assert_eq!(prepare("work", "artifact").ok()["versionId"], json!(mount.version_id));
    assert_eq!(prepare("work", "memory").refused(), refusal(403, "NOT_WRITABLE"));
    assert_eq!(prepare("other", "artifact").refused(), refusal(403, "NOT_WRITABLE"));
}

#[test]
fn a_commit_before_the_uploads_is_refused() {
    let host = Host::start();
    let (guest, mount) = with_artifact(&host);
    let prepared = prepare(&guest, &mount, &files("new"));
    let version = &prepared["versionId"];

    let nothing = commit(&guest, &mount, &files("new"), version);
    host.put(&prepared["uploads"]["archive"]["presignedUrl"], b"archive").ok();
    let half = commit(&guest, &mount, &files("new"), version);
    let unprepared = commit(&guest, &mount, &files("other"), &json!("ab"));

    assert_eq!(nothing.refused(), refusal(409, "OBJECTS_MISSING"));
    assert_eq!(half.refused(), refusal(409, "OBJECTS_MISSING"));
    assert_eq!(unprepared.refused(), refusal(409, "OBJECTS_MISSING"));
}

#[test]
fn a_prepared_upload_survives_a_crash() {
    let mut host = Host::start();
    let (guest, mount) = with_artifact(&host);
    let prepared = prepare(&guest, &mount, &files("new"));
    host.put(&prepared["uploads"]["archive"]["presignedUrl"], b"archive").ok();
    let (run, token) = (guest.run, guest.token.clone());
    host.restart();
    let guest = Guest { host: &host, run, token, context: Value::Null };

    let again = prepare(&guest, &mount, &files("new"));
    host.put(&again["uploads"]["manifest"]["presignedUrl"], &manifest(&files("new"))).ok();

    commit(&guest, &mount, &files("new"), &again["versionId"]).ok();
}

#[test]
fn strict_calls_reject_unknown_fields() {
    let host = Host::start();
    let (guest, mount) = with_artifact(&host);
    let storage = |more: &str| {
        let mut body = json!({"storageId": mount.storage_id, "files": [], "versionId": "x"});
        body[more] = json!(1);
        (
            guest.post("storages/prepare", body.clone()).status,
            guest.post("storages/commit", body).status,
        )
    };

    assert_eq!(storage("unknown"), (400, 400));
    assert_eq!(storage("archiveHash"), (400, 400));
    let file = json!([{"path": "a", "hash": sha256(b""), "size": 0, "mode": 1}]);
    let body = json!({"storageId": mount.storage_id, "files": file});
    assert_eq!(guest.post("storages/prepare", body).status, 400);
}

#[test]
fn a_job_cannot_touch_storages_that_are_not_its_own() {
    let host = Host::start();
    let (_, mount) = with_artifact(&host);
    let stranger = host.running();

    let body = json!({"storageId": mount.storage_id, "files": []});
    let refused = stranger.post("storages/prepare", body);

    assert_eq!(refused.refused(), refusal(403, "NOT_WRITABLE"));
}
