//! Artifacts: packed, announced, uploaded, committed.

use std::fs;
use std::io::Read as _;

use guest_test::Reply;
use serde_json::{Value, json};

use crate::harness::Place;

/// What an archive holds: path, mode, content or link target.
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

fn keep(place: &mut Place, more: Value) {
    let mut artifact = json!({ "name": "w", "mountPath": place.path("work"), "storageId": "st", "versionId": "v0" });
    artifact.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    place.set("VM0_ARTIFACTS", &json!([artifact]).to_string());
}

fn upload(place: &Place, name: &str) -> Vec<u8> {
    let uploads = place.platform.uploads();
    let named = uploads.iter().find(|upload| upload.target() == format!("/upload/{name}"));
    named.unwrap().body.clone()
}

#[test]
fn a_workspace_is_kept_with_modes_links_and_empty_folders() {
    let mut place = Place::new(
        "mkdir -p .git/objects empty .vm0/x 'dir with space'; echo hi > file; chmod 600 file; \
         printf '#!' > run; chmod 755 run; ln -s /nowhere dangling; ln -s ./file good; touch .git/HEAD; chmod 700 empty",
    );
    keep(&mut place, json!({}));
    let run = place.run();
    assert_eq!(run.code, Some(0), "{}", run.outcome);
    let entries = unpack(&upload(&place, "st/archive"));
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

    let prepare = &place.platform.bodies("storages/prepare")[0];
    let files = prepare["files"].as_array().unwrap();
    let paths: Vec<_> = files.iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(paths, [".git/HEAD", "file", "run"]);
    let of_hi = "98ea6e4f216f2fb4b69fff9b3a44842c38686ca685f3f55dc48c5d3fb1107be4";
    assert_eq!(files[1], json!({ "path": "file", "hash": of_hi, "size": 3 }));
    assert_eq!((&prepare["storageId"], &prepare["parentVersionId"]), (&"st".into(), &"v0".into()));
    assert_eq!(prepare.as_object().unwrap().len(), 4);

    let manifest: Value = serde_json::from_slice(&upload(&place, "st/manifest")).unwrap();
    assert_eq!((&manifest["version"], &manifest["files"]), (&1.into(), &prepare["files"]));
    let commit = &place.platform.bodies("storages/commit")[0];
    assert_eq!(commit["message"], "Checkpoint from run run-1");
    assert_eq!(commit["versionId"], "version-of-st");
    let checkpoint = &place.platform.bodies("checkpoints")[0];
    let snapshot =
        json!([{ "name": "w", "version": "version-of-st", "mountPath": place.path("work") }]);
    assert_eq!(checkpoint["artifactSnapshots"], snapshot);
}

#[test]
fn a_version_that_the_platform_has_is_committed_without_upload_and_message() {
    let mut place = Place::new("true");
    place.platform.know_everything();
    keep(&mut place, json!({}));
    assert_eq!(place.run().code, Some(0));
    assert!(place.platform.uploads().is_empty());
    assert_eq!(place.platform.calls("storages/prepare").len(), 1);
    let commit = &place.platform.bodies("storages/commit")[0];
    assert_eq!((&commit["versionId"], commit.get("message")), (&"version-of-st".into(), None));
}

#[test]
fn a_changed_mode_makes_a_new_version_of_the_same_files() {
    let mut place = Place::new("chmod 755 file; mkdir empty");
    fs::write(place.path("work/file"), "same").unwrap();
    place.platform.know_everything();
    keep(&mut place, json!({}));
    assert_eq!(place.run().code, Some(0));
    let prepares = place.platform.bodies("storages/prepare");
    assert_eq!((prepares[0].get("force"), &prepares[1]["force"]), (None, &true.into()));
    assert_eq!(unpack(&upload(&place, "st/archive"))[1].1, 0o755);
}

#[test]
fn the_older_form_knows_storages_by_name_and_type() {
    let mut place = Place::new("echo hi > file");
    fs::create_dir(place.path("memory")).unwrap();
    let (work, memory) = (place.path("work"), place.path("memory"));
    for (name, value) in [
        ("VM0_ARTIFACT_DRIVER", "vas"),
        ("VM0_ARTIFACT_MOUNT_PATH", work.to_str().unwrap()),
        ("VM0_ARTIFACT_VOLUME_NAME", "vol"),
        ("VM0_ARTIFACT_VERSION_ID", "v1"),
        ("VM0_MEMORY_DRIVER", "vas"),
        ("VM0_MEMORY_MOUNT_PATH", memory.to_str().unwrap()),
        ("VM0_MEMORY_NAME", "mem"),
    ] {
        place.set(name, value);
    }
    assert_eq!(place.run().code, Some(0));
    let mut prepares = place.platform.bodies("storages/prepare");
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
    let snapshots = &place.platform.bodies("checkpoints")[0]["artifactSnapshots"];
    assert_eq!((&snapshots[0]["name"], &snapshots[1]["name"]), (&"vol".into(), &"mem".into()));
}

fn warnings(place: &Place) -> Vec<String> {
    let body = &place.platform.bodies("warnings")[0];
    let texts = body["warnings"].as_array().unwrap().iter();
    texts.map(|text| text.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_mount_that_is_gone_is_an_artifact_with_nothing_in_it_and_said() {
    let mut place = Place::new("rm -r \"$HOME/gone\"");
    fs::create_dir(place.path("home/gone")).unwrap();
    fs::write(place.path("home/gone/file"), "x").unwrap();
    let gone = place.path("home/gone");
    keep(&mut place, json!({ "mountPath": gone }));
    let run = place.run();
    assert_eq!(run.code, Some(0), "{}", run.outcome);
    assert_eq!(place.platform.bodies("storages/prepare")[0]["files"], json!([]));
    assert_eq!(unpack(&upload(&place, "st/archive")), []);
    let told = warnings(&place);
    assert!(told[0].starts_with("artifact w: nothing is kept: "), "{told:?}");

    let mut place = Place::new("true");
    let gone = place.path("home/gone");
    keep(&mut place, json!({ "mountPath": gone, "missingRootPolicy": "preserveParentVersion" }));
    assert_eq!(place.run().code, Some(0));
    assert!(place.platform.calls("storages/commit").is_empty());
    assert_eq!(place.platform.bodies("checkpoints")[0]["artifactSnapshots"][0]["version"], "v0");
}

#[test]
fn a_name_that_is_no_text_is_named_in_a_warning_and_the_rest_is_kept() {
    let mut place = Place::new("touch \"$(printf 'bad\\377name')\" good");
    keep(&mut place, json!({}));
    let run = place.run();
    assert_eq!(run.code, Some(0), "{}", run.outcome);
    assert_eq!(place.platform.bodies("storages/prepare")[0]["files"][0]["path"], "good");
    let told = warnings(&place);
    assert_eq!(told, ["artifact w: bad\u{fffd}name is not kept: its name is no UTF-8"]);
    assert_eq!(run.outcome["warnings"], 1);
}

#[test]
fn a_failed_run_keeps_its_session_and_its_artifacts_in_a_partial_checkpoint() {
    let mut place = Place::with_cli("session\necho half > file; exit 7");
    keep(&mut place, json!({}));
    let run = place.run();
    assert_eq!((run.code, run.error()), (Some(7), "the agent exited with code 7"));
    let partial = &place.platform.bodies("checkpoints/partial")[0];
    let mut names: Vec<_> = partial.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["artifactSnapshots", "cliAgentType", "runId", "session"]);
    assert_eq!(partial["session"]["id"], "s1");
    assert_eq!(unpack(&upload(&place, "st/archive"))[0].2, b"half\n");
    assert!(place.platform.calls("checkpoints").is_empty());
    assert!(place.platform.calls("warnings").is_empty());
}

#[test]
fn a_failed_run_without_a_session_keeps_its_artifacts_and_says_so() {
    let mut place = Place::with_cli("echo half > file; exit 7");
    keep(&mut place, json!({}));
    assert_eq!(place.run().code, Some(7));
    let partial = &place.platform.bodies("checkpoints/partial")[0];
    assert_eq!(
        (partial.get("session"), partial["artifactSnapshots"].as_array().unwrap().len()),
        (None, 1)
    );
    let told = warnings(&place);
    assert!(told[0].starts_with("the session is not kept: the agent named no session"), "{told:?}");
}

#[test]
fn a_refused_commit_fails_the_run() {
    let mut place = Place::new("echo hi > file");
    keep(&mut place, json!({}));
    place.platform.answer("storages/commit", Reply::refusal(409, "objects missing"));
    let run = place.run();
    assert_eq!(run.code, Some(1));
    assert!(run.error().ends_with("HTTP 409: objects missing"), "{}", run.error());
    // The session is kept all the same.
    let partial = &place.platform.bodies("checkpoints/partial")[0];
    assert!(partial["session"]["id"].is_string() && partial.get("artifactSnapshots").is_none());
}

#[test]
fn several_artifacts_are_kept_and_named_in_their_order() {
    let mut place =
        Place::new("for name in a b c d e; do mkdir ../$name; echo $name > ../$name/f; done");
    let entry = |name: &str| json!({ "name": name, "mountPath": place.path(name), "storageId": name, "versionId": "v" });
    let list = Value::from(["a", "b", "c", "d", "e"].map(entry).to_vec());
    place.set("VM0_ARTIFACTS", &list.to_string());
    let run = place.run();
    assert_eq!(run.code, Some(0), "{}", run.outcome);
    let snapshots = place.platform.bodies("checkpoints")[0]["artifactSnapshots"].clone();
    let versions: Vec<_> =
        snapshots.as_array().unwrap().iter().map(|kept| kept["version"].clone()).collect();
    assert_eq!(versions, ["a", "b", "c", "d", "e"].map(|name| format!("version-of-{name}")));
}
