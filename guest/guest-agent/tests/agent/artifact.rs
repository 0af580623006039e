//! Artifacts are packed, announced, uploaded and committed.

use std::fs;
use std::io::Read as _;

use guest_test::Reply;
use serde_json::{Value, json};

use crate::harness::Fixture;

/// The entries of an archive: path, mode, content or link target.
pub(crate) fn unpack(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    let mut found = Vec::new();
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        if let Some(target) = entry.link_name_bytes() {
            content = target.into_owned();
        }
        found.push((path, entry.header().mode().unwrap(), content));
    }
    found
}

fn set_artifact(fixture: &mut Fixture, more: Value) {
    let mut artifact = json!({ "name": "w", "mountPath": fixture.path("work"), "storageId": "st", "versionId": "v0" });
    artifact.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    fixture.set("VM0_ARTIFACTS", &json!([artifact]).to_string());
}

fn upload(fixture: &Fixture, name: &str) -> Vec<u8> {
    let uploads = fixture.platform.uploads();
    let named = uploads.iter().find(|upload| upload.target() == format!("/upload/{name}"));
    named.unwrap().body.clone()
}

#[test]
fn an_artifact_is_saved_with_modes_links_and_empty_folders() {
    let mut fixture = Fixture::new(
        "mkdir -p .git/objects empty .vm0/x 'dir with space'; echo hi > file; chmod 600 file; \
         printf '#!' > run; chmod 755 run; ln -s /nowhere dangling; ln -s ./file good; touch .git/HEAD; chmod 700 empty",
    );
    set_artifact(&mut fixture, json!({}));
    let run = fixture.run();
    assert_eq!(run.code, Some(0), "{}", run.outcome);
    let entries = unpack(&upload(&fixture, "st/archive"));
    let paths: Vec<_> = entries.iter().map(|(path, ..)| path.as_str()).collect();
    assert_eq!(
        paths,
        [
            ".git/",
            ".git/HEAD",
            ".git/objects/",
            "dangling",
            "dir with space/",
            "empty/",
            "file",
            "good",
            "run"
        ]
    );
    let entry = |name: &str| entries.iter().find(|(path, ..)| path == name).unwrap();
    assert_eq!((entry("file").1, entry("run").1, entry("empty/").1), (0o600, 0o755, 0o700));
    assert_eq!(
        (&entry("dangling").2[..], &entry("good").2[..]),
        (&b"/nowhere"[..], &b"./file"[..])
    );

    let prepare = &fixture.platform.bodies("storages/prepare")[0];
    let files = prepare["files"].as_array().unwrap();
    let paths: Vec<_> = files.iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(paths, [".git/HEAD", "file", "run"]);
    let of_hi = "98ea6e4f216f2fb4b69fff9b3a44842c38686ca685f3f55dc48c5d3fb1107be4";
    assert_eq!(files[1], json!({ "path": "file", "hash": of_hi, "size": 3 }));
    assert_eq!((&prepare["storageId"], &prepare["parentVersionId"]), (&"st".into(), &"v0".into()));
    assert_eq!(prepare.as_object().unwrap().len(), 4);

    let manifest: Value = serde_json::from_slice(&upload(&fixture, "st/manifest")).unwrap();
    assert_eq!((&manifest["version"], &manifest["files"]), (&1.into(), &prepare["files"]));
    let commit = &fixture.platform.bodies("storages/commit")[0];
    assert_eq!(commit["message"], "Checkpoint from run run-1");
    assert_eq!(commit["versionId"], "version-of-st");
    let checkpoint = &fixture.platform.bodies("checkpoints")[0];
    let snapshot =
        json!([{ "name": "w", "version": "version-of-st", "mountPath": fixture.path("work") }]);
    assert_eq!(checkpoint["artifactSnapshots"], snapshot);
}

#[test]
fn a_version_that_the_platform_has_is_committed_without_upload_and_message() {
    let mut fixture = Fixture::new("true");
    fixture.platform.pretend_to_have_all();
    set_artifact(&mut fixture, json!({}));
    assert_eq!(fixture.run().code, Some(0));
    assert!(fixture.platform.uploads().is_empty());
    assert_eq!(fixture.platform.calls("storages/prepare").len(), 1);
    let commit = &fixture.platform.bodies("storages/commit")[0];
    assert_eq!((&commit["versionId"], commit.get("message")), (&"version-of-st".into(), None));
}

#[test]
fn a_changed_mode_makes_a_new_version_of_the_same_files() {
    let mut fixture = Fixture::new("chmod 755 file; mkdir empty");
    fs::write(fixture.path("work/file"), "same").unwrap();
    fixture.platform.pretend_to_have_all();
    set_artifact(&mut fixture, json!({}));
    assert_eq!(fixture.run().code, Some(0));
    let prepares = fixture.platform.bodies("storages/prepare");
    assert_eq!((prepares[0].get("force"), &prepares[1]["force"]), (None, &true.into()));
    assert_eq!(unpack(&upload(&fixture, "st/archive"))[1].1, 0o755);
}

#[test]
fn artifacts_in_the_older_form_are_identified_by_name_and_type() {
    let mut fixture = Fixture::new("echo hi > file");
    fs::create_dir(fixture.path("memory")).unwrap();
    let (work, memory) = (fixture.path("work"), fixture.path("memory"));
    for (name, value) in [
        ("VM0_ARTIFACT_DRIVER", "vas"),
        ("VM0_ARTIFACT_MOUNT_PATH", work.to_str().unwrap()),
        ("VM0_ARTIFACT_VOLUME_NAME", "vol"),
        ("VM0_ARTIFACT_VERSION_ID", "v1"),
        ("VM0_MEMORY_DRIVER", "vas"),
        ("VM0_MEMORY_MOUNT_PATH", memory.to_str().unwrap()),
        ("VM0_MEMORY_NAME", "mem"),
    ] {
        fixture.set(name, value);
    }
    assert_eq!(fixture.run().code, Some(0));
    let mut prepares = fixture.platform.bodies("storages/prepare");
    prepares.sort_by_key(|prepare| prepare["storageName"].to_string());
    assert_eq!(
        (&prepares[0]["storageName"], &prepares[0]["storageType"]),
        (&"mem".into(), &"memory".into())
    );
    assert_eq!(
        (&prepares[1]["storageName"], &prepares[1]["storageType"]),
        (&"vol".into(), &"artifact".into())
    );
    assert_eq!(prepares[0].get("parentVersionId"), None);
    let snapshots = &fixture.platform.bodies("checkpoints")[0]["artifactSnapshots"];
    assert_eq!((&snapshots[0]["name"], &snapshots[1]["name"]), (&"vol".into(), &"mem".into()));
}

fn warnings(fixture: &Fixture) -> Vec<String> {
    let body = &fixture.platform.bodies("warnings")[0];
    let texts = body["warnings"].as_array().unwrap().iter();
    texts.map(|text| text.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_mount_that_was_removed_is_saved_as_empty_with_a_warning() {
    let mut fixture = Fixture::new("rm -r \"$HOME/gone\"");
    fs::create_dir(fixture.path("home/gone")).unwrap();
    fs::write(fixture.path("home/gone/file"), "x").unwrap();
    let gone = fixture.path("home/gone");
    set_artifact(&mut fixture, json!({ "mountPath": gone }));
    let run = fixture.run();
    assert_eq!(run.code, Some(0), "{}", run.outcome);
    assert_eq!(fixture.platform.bodies("storages/prepare")[0]["files"], json!([]));
    assert_eq!(unpack(&upload(&fixture, "st/archive")), []);
    let sent = warnings(&fixture);
    assert!(sent[0].starts_with("artifact w: saved as empty: "), "{sent:?}");

    let mut fixture = Fixture::new("true");
    let gone = fixture.path("home/gone");
    set_artifact(
        &mut fixture,
        json!({ "mountPath": gone, "missingRootPolicy": "preserveParentVersion" }),
    );
    assert_eq!(fixture.run().code, Some(0));
    assert!(fixture.platform.calls("storages/commit").is_empty());
    assert_eq!(fixture.platform.bodies("checkpoints")[0]["artifactSnapshots"][0]["version"], "v0");
}

#[test]
fn a_file_name_that_is_not_utf8_makes_a_warning_and_the_rest_is_saved() {
    let mut fixture = Fixture::new("touch \"$(printf 'bad\\377name')\" good");
    set_artifact(&mut fixture, json!({}));
    let run = fixture.run();
    assert_eq!(run.code, Some(0), "{}", run.outcome);
    assert_eq!(fixture.platform.bodies("storages/prepare")[0]["files"][0]["path"], "good");
    let sent = warnings(&fixture);
    assert_eq!(sent, ["artifact w: bad\u{fffd}name was not saved: its name is not UTF-8"]);
    assert_eq!(run.outcome["warnings"], 1);
}

#[test]
fn a_failed_run_saves_its_session_and_artifacts_in_a_partial_checkpoint() {
    let mut fixture = Fixture::with_cli("session\necho half > file; exit 7");
    set_artifact(&mut fixture, json!({}));
    let run = fixture.run();
    assert_eq!((run.code, run.error()), (Some(7), "the agent exited with code 7"));
    let partial = &fixture.platform.bodies("checkpoints/partial")[0];
    let mut names: Vec<_> = partial.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["artifactSnapshots", "cliAgentType", "runId", "session"]);
    assert_eq!(partial["session"]["id"], "s1");
    assert_eq!(unpack(&upload(&fixture, "st/archive"))[0].2, b"half\n");
    assert!(fixture.platform.calls("checkpoints").is_empty());
    assert!(fixture.platform.calls("warnings").is_empty());
}

#[test]
fn a_failed_run_without_a_session_saves_its_artifacts_with_a_warning() {
    let mut fixture = Fixture::with_cli("echo half > file; exit 7");
    set_artifact(&mut fixture, json!({}));
    assert_eq!(fixture.run().code, Some(7));
    let partial = &fixture.platform.bodies("checkpoints/partial")[0];
    assert_eq!(
        (partial.get("session"), partial["artifactSnapshots"].as_array().unwrap().len()),
        (None, 1)
    );
    let sent = warnings(&fixture);
    assert!(
        sent[0].starts_with("the session was not saved: the agent named no session"),
        "{sent:?}"
    );
}

#[test]
fn a_refused_commit_fails_the_run() {
    let mut fixture = Fixture::new("echo hi > file");
    set_artifact(&mut fixture, json!({}));
    fixture.platform.answer("storages/commit", Reply::refusal(409, "objects missing"));
    let run = fixture.run();
    assert_eq!(run.code, Some(1));
    assert!(run.error().ends_with("HTTP 409: objects missing"), "{}", run.error());
    // The session is saved all the same.
    let partial = &fixture.platform.bodies("checkpoints/partial")[0];
    assert!(partial["session"]["id"].is_string() && partial.get("artifactSnapshots").is_none());
}

#[test]
fn several_artifacts_are_saved_and_listed_in_their_order() {
    let mut fixture =
        Fixture::new("for name in a b c d e; do mkdir ../$name; echo $name > ../$name/f; done");
    let entry = |name: &str| json!({ "name": name, "mountPath": fixture.path(name), "storageId": name, "versionId": "v" });
    let list = Value::from(["a", "b", "c", "d", "e"].map(entry).to_vec());
    fixture.set("VM0_ARTIFACTS", &list.to_string());
    let run = fixture.run();
    assert_eq!(run.code, Some(0), "{}", run.outcome);
    let snapshots = fixture.platform.bodies("checkpoints")[0]["artifactSnapshots"].clone();
    let versions: Vec<_> =
        snapshots.as_array().unwrap().iter().map(|snapshot| snapshot["version"].clone()).collect();
    assert_eq!(versions, ["a", "b", "c", "d", "e"].map(|name| format!("version-of-{name}")));
}
