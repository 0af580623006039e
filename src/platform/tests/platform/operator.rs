//! What commands of the same host see, and what is tidied up.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use platform::{Client, Error, Pruned, Status};
use serde_json::json;

use crate::harness::Host;
use crate::storages::{snapshot, upload, with_artifact};

#[test]
fn jobs_are_listed_from_the_newest_in_pages() {
    let host = Host::start();
    let runs = ["a", "b", "c"].map(|prompt| host.submit(prompt));

    let first = host.client().jobs(None, 2).unwrap();
    let rest = host.client().jobs(Some(first[1].run_id), 2).unwrap();

    let prompts: Vec<_> = first.iter().chain(&rest).map(|job| job.prompt.as_str()).collect();
    assert_eq!(prompts, ["c", "b", "a"]);
    assert_eq!(rest[0].run_id, runs[0]);
}

#[test]
fn a_job_is_found_by_a_prefix_of_its_id() {
    let host = Host::start();
    let run = host.submit("a");
    let id = run.to_string();

    assert_eq!(host.client().job(&id[..8]).unwrap().run_id, run);
    assert_eq!(host.client().job(&id[..8].to_uppercase()).unwrap().run_id, run);
    assert!(matches!(host.client().job(&id[..3]), Err(Error::Answered { status: 404, .. })));
    assert!(matches!(host.client().job("../x"), Err(Error::Refused(_))));
}

#[test]
fn a_client_without_a_platform_gets_an_error() {
    let dir = tempfile::tempdir().unwrap();

    let error = Client::new(dir.path()).jobs(None, 1).unwrap_err();

    assert!(error.to_string().contains("`runner start --local`"), "{error}");
}

#[test]
fn an_unchanged_folder_is_uploaded_once() {
    let host = Host::start();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("run.sh"), "x").unwrap();
    let first = upload(&host, folder.path());
    let same = upload(&host, folder.path());

    let executable = PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.path().join("run.sh"), executable).unwrap();
    let other_mode = upload(&host, folder.path());
    fs::write(folder.path().join("run.sh"), "y").unwrap();
    let other_content = upload(&host, folder.path());

    assert_eq!(same, first);
    assert_ne!(other_mode.version_id, first.version_id);
    assert_ne!(other_content.version_id, other_mode.version_id);
    assert_eq!(other_content.storage_id, first.storage_id);
}

#[test]
fn pruning_an_old_job_removes_its_data_only() {
    let host = Host::start();
    let (old, mount) = with_artifact(&host);
    snapshot(&old, &mount, "new");
    old.history("{}\n");
    old.events(&[0]).ok();
    old.complete(0).ok();
    let (open, _) = with_artifact(&host);

    let pruned = host.client().prune(Duration::ZERO).unwrap();

    // The open job has the first version, with its archive and its manifest.
    assert_eq!((pruned.jobs, pruned.versions, pruned.blobs), (1, 1, 3));
    assert!(matches!(host.client().job(&old.run.to_string()), Err(Error::Answered { .. })));
    let url = &open.context["storageManifest"]["storageMounts"][0]["archiveUrl"];
    assert_eq!(host.get(url, "").status, 200);
    assert_eq!(host.client().prune(Duration::ZERO).unwrap(), Pruned::default());
}

#[test]
fn young_jobs_and_uploads_are_not_pruned() {
    let host = Host::start();
    let (job, _) = with_artifact(&host);
    job.complete(0).ok();

    let pruned = host.client().prune(Duration::from_secs(3600)).unwrap();

    assert_eq!(pruned, Pruned::default());
}

#[test]
fn a_resumed_job_is_not_pruned() {
    let host = Host::start();
    let guest = host.running();
    let history = guest.history("{}\n");
    let body = json!({"cliAgentType": "", "cliAgentSessionId": "s",
        "cliAgentSessionHistoryHash": history});
    guest.post("checkpoints", body).ok();
    guest.complete(0).ok();
    let resume =
        platform::Submission { prompt: "x".into(), resume: Some(guest.run), ..Default::default() };
    let run = host.client().submit(&resume).unwrap().run_id;

    let pruned = host.client().prune(Duration::ZERO).unwrap();

    assert_eq!(pruned, Pruned::default());
    let session = &host.claim(run).context["resumeSession"];
    assert_eq!(host.get(&session["historyRef"]["url"], "").body, b"{}\n");
}

#[test]
fn a_folder_without_a_platform_can_be_pruned() {
    let mut host = Host::start();
    host.running().complete(0).ok();
    let busy = platform::prune(host.config(), Duration::ZERO).unwrap_err();
    host.stop();

    let pruned = platform::prune(host.config(), Duration::ZERO).unwrap();

    assert!(matches!(busy, Error::InUse { .. }));
    assert_eq!(pruned.jobs, 1);
}

#[test]
fn a_job_shows_its_outcome() {
    let host = Host::start();
    let guest = host.running();
    guest.post("complete", json!({"exitCode": 3, "error": "it broke"})).ok();

    let job = host.job(guest.run);

    assert_eq!((job.status, job.exit_code, job.attempt), (Status::Failed, Some(3), 1));
    assert_eq!(job.error.as_deref(), Some("it broke"));
    assert!(job.started_ms >= Some(job.created_ms) && job.finished_ms >= job.started_ms);
}

#[test]
fn a_cut_client_stops_waiting_at_once() {
    let host = Host::start();
    let run = host.submit("a");
    let client = host.client();
    let (told, tell) = std::sync::mpsc::channel();

    let ended = std::thread::scope(|scope| {
        let waiting = client.clone();
        let waiter = scope.spawn(move || {
            told.send(()).unwrap();
            waiting.wait(run, None)
        });
        tell.recv().unwrap();
        client.cut();
        waiter.join().unwrap()
    });

    assert!(matches!(ended, Err(Error::Cut)), "{ended:?}");
    assert!(matches!(client.jobs(None, 1), Err(Error::Cut)));
    assert_eq!(host.client().jobs(None, 1).unwrap().len(), 1);
}
