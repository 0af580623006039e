//! Secrets and keys of platforms that share a database.

use std::path::{Path, PathBuf};
use std::process::Command;

use host_test::postgres::Server;
use platform::{Error, Platform, RunId, Status, add_key};
use serde_json::json;

use crate::harness::{Guest, Host, refusal, sha256, take};
use crate::secrets::{SECRET, TELLTALE, blab, submit};
use crate::store;

/// A platform with a key file, and the name of its database.
fn host() -> (Host, String) {
    let (database, name) = store::named();
    let host = Host::with(|config| {
        config.database = database;
        let path = config.state.join("keys");
        add_key(&path).unwrap();
        config.key_file = Some(path);
    });
    (host, name)
}

/// A platform on the same database, as on another host, with a key file of its own.
fn beside(host: &Host, keys: &[&str]) -> Result<Host, Error> {
    let dir = tempfile::tempdir().unwrap();
    let mut config = host.config();
    config.state = dir.path().to_owned();
    config.key_file = Some(write(&dir.path().join("keys"), keys));
    Platform::start(config.clone())?.stop()?;
    std::fs::copy(token(host.state()), token(dir.path())).unwrap();
    Ok(Host::of(dir, config))
}

fn token(state: &Path) -> PathBuf {
    state.join("control/runner.token")
}

/// The keys of a host's file.
fn keys(host: &Host) -> Vec<String> {
    let text = std::fs::read_to_string(host.state().join("keys")).unwrap();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

fn write(path: &Path, keys: &[&str]) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;

    std::fs::write(path, keys.join("\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.to_owned()
}

/// The files under a folder that have a text. They are large for a search in a debug build.
fn files_with(folder: &Path, text: &str) -> Vec<String> {
    let mut grep = Command::new("grep");
    let grep =
        grep.args(["--recursive", "--text", "--files-with-matches", "--fixed-strings", "-e"]);
    let found = grep.arg(text).arg(folder).output().unwrap();
    assert!(found.stderr.is_empty(), "{}", String::from_utf8_lossy(&found.stderr));
    String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// A dump of a database, as text.
fn dump(server: &Server, database: &str) -> String {
    let mut dump = server.program("pg_dump");
    let dump = dump.arg("--username=postgres").arg("--host").arg(server.socket());
    let done = dump.arg(database).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// A new key.
fn fresh() -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    add_key(&path).unwrap();
    std::fs::read_to_string(path).unwrap().lines().last().unwrap().to_owned()
}

#[test]
fn secrets_of_a_job_of_one_platform_are_used_at_another_and_removed_at_its_end() {
    let (one, name) = host();
    let own = keys(&one);
    let other = beside(&one, &[&own[0]]).unwrap();
    let run = submit(&one);
    let count = || store::sql(&name, "SELECT count(*) FROM secrets");

    let guest = other.claim(run);
    let during = count();
    let at_the_first = Guest { host: &one, run, token: guest.token.clone(), context: json!(null) };
    blab(&at_the_first);
    at_the_first.post("complete", json!({"exitCode": 1, "error": format!("{SECRET} failed")})).ok();

    assert_eq!(guest.context["secretValues"], json!([SECRET]));
    assert_eq!((during, count()), ("1".to_owned(), "0".to_owned()));
    assert_eq!(other.job(run).error.unwrap(), "*** failed");
}

#[test]
fn secrets_go_when_a_job_is_cancelled_in_the_queue_or_given_up() {
    let (host, name) = host();
    let (cancelled, lost) = (submit(&host), submit(&host));
    let source = host.source();
    let count = || store::sql(&name, "SELECT count(*) FROM secrets");

    host.client().cancel(cancelled).unwrap();
    let after_one = count();
    for attempt in 1..=3 {
        take(&source);
        source.give_back(lost, attempt).unwrap();
    }

    assert_eq!((after_one, count()), ("1".to_owned(), "0".to_owned()));
    assert_eq!(host.job(lost).status, Status::Failed);
}

#[test]
fn a_secret_is_in_no_byte_of_the_database_its_log_and_its_dump() {
    let server = Server::start();
    let database = store::create(&server, "jobs");
    server.sql("postgres", "ALTER DATABASE jobs SET log_statement = 'all'");
    let mut host = Host::with(|config| {
        config.database = database;
        config.key_file = Some(write(&config.state.join("keys"), &[&fresh()]));
    });
    let guest = host.claim(submit(&host));
    let token = guest.token.clone();
    blab(&guest);
    let during = dump(&server, "jobs");
    guest.post("storages/commit", json!({"storageId": SECRET, "versionId": SECRET})).refused();
    let snapshots = json!([{"name": SECRET, "version": SECRET, "mountPath": SECRET}]);
    let checkpoint = json!({"cliAgentType": SECRET, "cliAgentSessionId": "s",
        "cliAgentSessionHistoryHash": SECRET, "artifactSnapshots": snapshots});
    guest.post("checkpoints", checkpoint).refused();
    let checkpoint = json!({"cliAgentType": "", "cliAgentSessionId": "s",
        "cliAgentSessionHistoryHash": sha256(b"{}\n"), "artifactSnapshots": snapshots});
    guest.post("checkpoints", checkpoint).refused();
    guest.post("complete", json!({"exitCode": 1, "error": format!("{SECRET} failed")})).ok();
    host.stop();
    server.sql("jobs", "CHECKPOINT");
    let after = dump(&server, "jobs");

    // Text as it is, in base64 at each alignment, and in hex, as dumps and logs show bytes.
    let hex: String = TELLTALE.bytes().map(|byte| format!("{byte:02x}")).collect();
    let forms = [TELLTALE, "czNjcmV0", "MzY3JldC", "zM2NyZXQt", &hex, &token];
    let found = forms.map(|form| {
        (files_with(server.socket(), form), during.contains(form) || after.contains(form))
    });
    assert_eq!(found, [const { (Vec::new(), false) }; 6]);
    // What is no secret is found in all of these places.
    let files = files_with(server.socket(), "use it");
    assert!(files.iter().any(|path| path.contains("/pg_wal/")), "{files:?}");
    assert!(files.iter().any(|path| path.contains("/base/")), "{files:?}");
    assert!(files.iter().any(|path| path.ends_with("/log")), "{files:?}");
    assert!(during.contains("use it") && during.contains("COPY public.secrets"));
    assert_eq!(after.matches("it is ***!").count(), 3);
}

#[test]
fn a_platform_with_another_key_is_rejected() {
    let (one, _) = host();
    let run = submit(&one);

    let error = beside(&one, &[&fresh()]).err().unwrap();

    let text = error.to_string();
    assert!(matches!(error, Error::ForeignKey { jobs: 1, .. }), "{text}");
    assert!(text.ends_with("give all of them the same key file"), "{text}");
    one.claim(run).complete(0).ok();
}

#[test]
fn two_platforms_that_start_at_once_with_different_keys_are_not_both_accepted() {
    let database = store::database();
    let dirs = [0; 2].map(|_| tempfile::tempdir().unwrap());

    let started = std::thread::scope(|scope| {
        let start = |dir: &tempfile::TempDir| {
            let mut config = platform::Config::new(dir.path());
            config.database = database.clone();
            scope.spawn(move || Platform::start(config).map(drop))
        };
        dirs.each_ref().map(start).map(|thread| thread.join().unwrap())
    });

    assert_eq!(started.iter().filter(|one| one.is_ok()).count(), 1, "{started:?}");
}

#[test]
fn a_new_key_takes_over_while_jobs_run() {
    let (mut host, name) = host();
    let old = keys(&host);
    let new = fresh();
    let (queued, running) = (submit(&host), submit(&host));
    let guest = host.claim(running);
    let token = guest.token.clone();
    let history = json!({"hash": sha256(b"{}\n"), "rawSize": 3, "encodedSize": 3, "encoding": ""});
    let upload = guest.post("checkpoints/prepare-history", history).ok();
    let path = host.state().join("keys");

    let before = host.address();
    for keys in [[&old[0], &new], [&new, &old[0]]] {
        write(&path, &keys.map(String::as_str));
        host.restart();
    }
    let sealed = "SELECT count(*) FROM secrets JOIN keys ON keys.id = key
                  WHERE used = (SELECT max(used) FROM keys)";
    while store::sql(&name, sealed) != "2" {}

    let guest = Guest { host: &host, run: running, token, context: json!(null) };
    guest.events(&[0]).ok();
    let url = upload["presignedUrl"].as_str().unwrap();
    let url = url.replace(&before.to_string(), &host.address().to_string());
    host.put(&json!(url), b"{}\n").ok();
    guest.complete(0).ok();
    assert_eq!(host.claim(queued).context["secretValues"], json!([SECRET]));
}

#[test]
fn an_old_key_is_needed_until_it_has_not_been_used_for_hours() {
    let (mut host, name) = host();
    let (old, new) = (keys(&host), fresh());
    let path = host.state().join("keys");
    host.stop();
    write(&path, &[&new, &old[0]]);
    Platform::start(host.config()).unwrap().stop().unwrap();
    write(&path, &[&new]);

    let early = Platform::start(host.config()).err().unwrap();
    store::sql(&name, "UPDATE keys SET used = used - 4 * 3600000");
    let late = Platform::start(host.config());

    assert!(matches!(early, Error::ForeignKey { jobs: 0, .. }), "{early}");
    late.unwrap().stop().unwrap();
    assert_eq!(store::sql(&name, "SELECT count(*) FROM keys"), "1");
}

#[test]
fn a_repeated_claim_has_its_token_again_after_the_key_was_replaced() {
    let (mut host, _) = host();
    let (old, new) = (keys(&host), fresh());
    let run = submit(&host);
    let claim = |host: &Host| {
        let authorization = format!(
            "Authorization: Bearer {}\r\nX-Client-Request-Id: 1\r\n",
            host.platform().runner_token()
        );
        let path = format!("/api/runners/jobs/{run}/claim");
        host.send("POST", &path, &authorization, b"{}").ok()["sandboxToken"].clone()
    };
    let token = claim(&host);
    write(&host.state().join("keys"), &[&new, &old[0]]);
    host.restart();

    assert_eq!(claim(&host), token);
}

#[test]
fn a_repeated_submission_is_recognized_after_the_key_was_replaced() {
    let (mut host, _) = host();
    let (old, new) = (keys(&host), fresh());
    let submission =
        platform::Submission { prompt: "x".into(), key: Some("k".into()), ..Default::default() };
    let first = host.client().submit(&submission).unwrap();
    write(&host.state().join("keys"), &[&new, &old[0]]);
    host.restart();

    let again = host.client().submit(&submission).unwrap();

    assert_eq!((again.run_id, again.is_new), (first.run_id, false));
}

/// What a claim at the platform is answered, and the job's error.
fn claimed(host: &Host, run: RunId) -> (u16, String) {
    host.post_runner(&format!("jobs/{run}/claim"), &json!({})).refused()
}

#[test]
fn a_job_whose_record_is_missing_changed_or_anothers_fails_with_that_reason() {
    let (host, name) = host();
    let runs = [0; 4].map(|_| submit(&host));
    let row = |run: RunId| format!("(SELECT id FROM jobs WHERE run = '{run}')");
    let [missing, changed, moved, other] = runs.map(row);
    store::sql(
        &name,
        &format!(
            "DELETE FROM secrets WHERE job = {missing};
             UPDATE secrets SET sealed = set_byte(sealed, 20, get_byte(sealed, 20) # 1)
                 WHERE job = {changed};
             UPDATE secrets SET sealed = (SELECT sealed FROM secrets WHERE job = {other})
                 WHERE job = {moved}"
        ),
    );

    let refused = [0, 1, 2].map(|at| claimed(&host, runs[at]));

    let gone = "its secrets are gone: submit it again";
    let malformed = "its stored secrets are malformed: submit it again";
    assert_eq!(refused, [0; 3].map(|_| refusal(409, "RUN_ENDED")));
    assert_eq!([0, 1, 2].map(|at| host.job(runs[at]).error.unwrap()), [gone, malformed, malformed]);
    host.claim(runs[3]).complete(0).ok();
}

#[test]
fn a_job_whose_secrets_have_an_unknown_key_waits_for_a_platform_that_has_it() {
    let (host, name) = host();
    let run = submit(&host);
    let key = store::sql(&name, "UPDATE secrets SET key = 'x' || key RETURNING key");

    let refused = claimed(&host, run);
    let waiting = host.job(run).status;
    store::sql(&name, &format!("UPDATE secrets SET key = '{}'", &key[1..]));

    assert_eq!((refused, waiting), (refusal(503, "UNAVAILABLE"), Status::Queued));
    assert_eq!(host.claim(run).context["secretValues"], json!([SECRET]));
}

#[test]
fn no_data_of_a_running_job_is_stored_once_its_record_is_gone() {
    let (mut host, name) = host();
    let guest = host.claim(submit(&host));
    let (run, token) = (guest.run, guest.token.clone());
    store::sql(&name, "DELETE FROM secrets");
    host.restart();
    let guest = Guest { host: &host, run, token, context: json!(null) };
    let gone = refusal(409, "SECRETS_GONE");

    assert_eq!(guest.events(&[0]).refused(), gone);
    guest.post("complete", json!({"exitCode": 1, "error": SECRET})).ok();
    let error = host.job(run).error.unwrap();
    assert!(error.contains("its secrets are gone and cannot be masked in it"), "{error}");
}
