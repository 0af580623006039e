//! Several platforms on one database, and what happens to its connections.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use host_test::postgres::Server;
use platform::{Config, Error, Platform, Role, Status};
use serde_json::json;

use crate::harness::{Guest, Host, done, refusal, take};
use crate::jobs::{RUNNER, heartbeat};
use crate::placement::{OTHER, holding};
use crate::store;
use crate::tokens::{get, token};

/// A platform, and the name of its database.
fn host() -> (Host, String) {
    let (database, name) = store::named();
    (Host::with(|config| config.database = database), name)
}

/// Another platform on the same database, as on another host. Its key and token are the same.
pub(crate) fn beside(host: &Host) -> Host {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("control")).unwrap();
    for name in ["key", "runner.token"] {
        let path = |dir: &Path| dir.join("control").join(name);
        std::fs::copy(path(host.state()), path(dir.path())).unwrap();
    }
    let mut config = host.config();
    config.state = dir.path().to_owned();
    Host::of(dir, config)
}

#[test]
fn platforms_that_start_together_migrate_once() {
    let database = store::database();
    let dirs = [0; 4].map(|_| tempfile::tempdir().unwrap());

    let started = std::thread::scope(|scope| {
        let keys = dirs[0].path().join("keys");
        platform::add_key(&keys).unwrap();
        let start = |dir: &tempfile::TempDir| {
            let mut config = Config::new(dir.path());
            config.database = database.clone();
            config.key_file = Some(keys.clone());
            scope.spawn(move || Platform::start(config).map(drop))
        };
        dirs.each_ref().map(start).map(|thread| thread.join().unwrap())
    });

    assert!(started.iter().all(Result::is_ok), "{started:?}");
}

#[test]
fn a_database_of_a_newer_version_is_rejected() {
    let (mut host, name) = host();
    host.stop();
    store::sql(&name, "UPDATE platform_schema SET version = 999");

    let error = Platform::start(host.config()).err().unwrap();

    assert!(error.to_string().contains("has schema 999"), "{error}");
}

#[test]
fn a_job_of_one_platform_is_run_at_another() {
    let one = Host::start();
    let other = beside(&one);
    let run = one.submit("x");

    let guest = other.claim(run);
    guest.events(&[0, 1]).ok();
    let at_the_first = Guest { host: &one, run, token: guest.token.clone(), context: json!(null) };
    at_the_first.events(&[1, 2]).ok();
    at_the_first.complete(0).ok();

    let job = other.job(run);
    assert_eq!((job.status, job.events), (Status::Completed, 3));
    assert_eq!(guest.complete(1).ok()["status"], "completed");
}

#[test]
fn a_token_of_one_platform_is_known_and_revoked_at_all() {
    let one = Host::start();
    let other = beside(&one);
    let operator = token(&one, "op", Role::Operator);
    let runner = token(&one, "r", Role::Runner);
    let known = [
        get(&other, "/v1/jobs", &operator),
        other.post("/api/runners/heartbeat", &runner, &heartbeat(RUNNER)),
    ];

    one.client().revoke_token("op").unwrap();
    one.client().revoke_token("r").unwrap();

    assert_eq!(known.map(|reply| reply.status), [200, 200]);
    let run = one.submit("x");
    let refused = [
        get(&other, "/v1/jobs", &operator),
        other.post(&format!("/api/runners/jobs/{run}/claim"), &runner, &json!({})),
    ];
    assert_eq!(refused.map(|reply| reply.refused()), [0; 2].map(|_| refusal(401, "UNAUTHORIZED")));
}

#[test]
fn racing_claims_at_two_platforms_give_each_job_once() {
    let one = Host::start();
    let other = beside(&one);
    let runs = [0; 20].map(|_| one.submit("x"));

    let claim = |host: &Host| {
        let path = |run| format!("jobs/{run}/claim");
        runs.map(|run| u32::from(host.post_runner(&path(run), &json!({})).status == 200))
    };
    let (left, right) = std::thread::scope(|scope| {
        let other = scope.spawn(|| claim(&other));
        (claim(&one), other.join().unwrap())
    });

    let claims: Vec<u32> = left.iter().zip(right).map(|(one, other)| one + other).collect();
    assert_eq!(claims, [1; 20]);
}

#[test]
fn submissions_of_one_key_at_two_platforms_make_one_job() {
    let one = Host::start();
    let other = beside(&one);
    let submission =
        platform::Submission { prompt: "x".into(), key: Some("k".into()), ..Default::default() };

    let submit = |host: &Host| host.client().submit(&submission).unwrap();
    let made = std::thread::scope(|scope| {
        let threads = [&one, &other, &one, &other].map(|host| scope.spawn(move || submit(host)));
        threads.map(|thread| thread.join().unwrap())
    });

    assert_eq!(made.iter().map(|one| one.run_id.to_string()).collect::<BTreeSet<_>>().len(), 1);
    assert_eq!(made.iter().filter(|one| one.is_new).count(), 1);
}

#[test]
fn requests_survive_the_end_of_all_connections() {
    let (host, name) = host();
    let guest = host.running();

    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let killed = [0, 1, 2, 3].map(|number| {
        let killed: u32 = store::sql(&name, kill).parse().unwrap();
        guest.events(&[number]).ok();
        killed
    });

    assert!(killed.iter().all(|killed| *killed > 0), "{killed:?}");
    guest.complete(0).ok();
    assert_eq!(host.job(guest.run).events, 4);
}

#[test]
fn events_are_stored_once_while_connections_are_killed() {
    let (host, name) = host();
    let guest = host.running();
    let numbers: Vec<u32> = (0..200).collect();

    std::thread::scope(|scope| {
        let (sent_tx, sent) = std::sync::mpsc::channel();
        let (guest, numbers) = (&guest, &numbers);
        scope.spawn(move || {
            for number in numbers {
                guest.events(&[*number]).ok();
            }
            sent_tx.send(()).unwrap();
        });
        let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                    WHERE datname = current_database() AND pid <> pg_backend_pid()";
        while sent.try_recv().is_err() {
            store::sql(&name, kill);
        }
    });

    let page = host.client().events(guest.run, 0, std::time::Duration::ZERO).unwrap();
    let stored: Vec<u32> = page.items.iter().map(|event| event.sequence as u32).collect();
    assert_eq!(stored, numbers);
}

#[test]
fn a_request_waits_for_the_restart_of_the_database() {
    let mut server = Server::start();
    let host = Host::with(|config| config.database = store::create(&server, "jobs"));
    let run = host.submit("x");
    server.stop();

    let job = std::thread::scope(|scope| {
        let source = host.source();
        let claimed = scope.spawn(move || (take(&source), source));
        server.run();
        let (job, source) = claimed.join().unwrap();
        source.complete(&job, done(0)).unwrap();
        job
    });

    assert_eq!(job.run_id, run);
    assert_eq!(host.job(run).status, Status::Completed);
}

#[test]
fn an_unreachable_database_is_named_without_its_password() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(dir.path());
    let url = "postgresql://me:hunter22@%2Fnonexistent/jobs";
    config.database = platform::Database::Postgres(platform::ConnectionString::new(url));
    assert!(!format!("{config:?}").contains("hunter22"));

    let error = Platform::start(config).err().unwrap();

    let text = format!("{error:?} {error}");
    assert!(matches!(error, Error::Unavailable { .. }), "{text}");
    assert!(text.contains("/nonexistent") && !text.contains("hunter22"), "{text}");
}

#[test]
fn a_job_of_a_platform_that_ended_is_queued_again_by_another() {
    let mut one = Host::with(|config| config.lease = Duration::from_millis(50));
    let other = beside(&one);
    let source = other.source();
    let lost = one.running().run;
    one.stop();

    let job = take(&source);

    assert_eq!((job.run_id, job.attempt), (lost, 2));
}

#[test]
fn runners_that_poll_at_two_platforms_are_offered_different_jobs() {
    let one = Host::start();
    let other = beside(&one);
    let runs = [one.submit("x"), one.submit("y")];
    let poll = |host: &Host, runner: &str| host.poll(runner).ok()["job"]["runId"].clone();

    let first = poll(&one, RUNNER);
    let second = poll(&other, "22222222-2222-4333-8444-555555555555");
    let again = poll(&other, RUNNER);

    assert_eq!([first, second], runs.map(|run| json!(run)));
    assert_eq!(again, json!(runs[0]));
}

#[test]
fn a_job_that_its_runner_does_not_claim_is_offered_to_another() {
    let one = Host::start();
    let other = beside(&one);
    let run = one.submit("x");
    one.poll(RUNNER).ok();

    let second = other.poll("22222222-2222-4333-8444-555555555555").ok();

    assert_eq!(second["job"]["runId"], json!(run));
}

#[test]
fn runners_in_two_platforms_have_orphans_of_their_own() {
    let one = Host::start();
    let mut other = beside(&one);
    let (source, run) = (one.source(), one.submit("x"));
    take(&source);
    let lost = other.submit("y");
    take(&other.source());

    other.restart();

    let orphans = other.source().orphans().unwrap();
    assert_eq!(orphans, [platform::Orphan { run_id: lost, attempt: 1 }]);
    assert_eq!(one.job(run).attempt, 1);
}

#[test]
fn a_runner_at_one_platform_is_known_at_the_other() {
    let one = Host::start();
    let other = beside(&one);

    one.post_runner("heartbeat", &heartbeat(RUNNER)).ok();

    assert_eq!(other.client().runners().unwrap().len(), 1);
    let submission = platform::Submission { prompt: "x".into(), ..Default::default() };
    assert_eq!(other.client().submit(&submission).unwrap().waits, None);
}

/// A platform on a database whose clock is five minutes behind that of this host.
fn behind() -> Host {
    let (database, name) = store::named();
    let clock = format!(
        "CREATE SCHEMA clock;
         CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql
         AS 'SELECT pg_catalog.clock_timestamp() - interval ''5 minutes''';
         ALTER DATABASE {name} SET search_path = clock, public, pg_catalog"
    );
    store::sql(&name, &clock);
    Host::with(|config| config.database = database)
}

#[test]
fn the_databases_clock_rules_on_a_host_whose_own_is_five_minutes_ahead() {
    let host = behind();
    host.post_runner("heartbeat", &heartbeat(RUNNER)).ok();
    let guest = host.running();
    let hash = guest.history("{}\n");
    let request = json!({"cliAgentType": "claude-code", "cliAgentSessionId": "s",
        "cliAgentSessionHistoryHash": hash});
    guest.post("checkpoints", request).ok();
    // Deadlines are enforced after each claim.
    host.running().complete(0).ok();
    guest.complete(0).ok();
    let late = guest.post("telemetry", json!({"systemLog": "the end"}));

    let job = host.job(guest.run);
    assert_eq!((job.status, job.attempt), (Status::Completed, 1));
    late.ok();
    let minutes = (SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
        - job.created_ms)
        / 60_000;
    assert!((5..10).contains(&minutes), "{minutes}");
    assert!(host.client().runners().unwrap()[0].age_ms < 60_000);
}

#[test]
fn a_job_is_timed_out_by_the_databases_clock() {
    let host = behind();
    let source = host.source();
    let submission =
        platform::Submission { prompt: "x".into(), timeout_ms: Some(50), ..Default::default() };
    let run = host.client().submit(&submission).unwrap().run_id;
    let job = take(&source);

    while source.cancelled().unwrap() != [run] {
        source.notifications().recv_timeout(Duration::from_secs(20)).unwrap();
    }
    source.complete(&job, done(1)).unwrap();

    assert!(host.job(run).timed_out);
}

#[test]
fn a_submission_ends_a_long_poll_at_another_platform() {
    let one = Host::start();
    let other = beside(&one);

    let (run, offered) = std::thread::scope(|scope| {
        let held = scope.spawn(|| other.poll(RUNNER));
        (one.submit("now"), held.join().unwrap())
    });

    assert_eq!(offered.ok()["job"]["runId"], json!(run));
}

#[test]
fn a_follower_at_another_platform_gets_each_event_once_and_the_end() {
    let one = Host::start();
    let other = beside(&one);
    let guest = one.running();
    let follow = other.client().follow(guest.run, 0);

    let followed: Vec<i64> = std::thread::scope(|scope| {
        let follower = scope.spawn(|| follow.map(|event| event.unwrap().sequence).collect());
        for number in 0..50 {
            guest.events(&[number]).ok();
        }
        guest.complete(0).ok();
        follower.join().unwrap()
    });

    assert_eq!(followed, (0..50).collect::<Vec<_>>());
}

#[test]
fn a_cancellation_reaches_a_runner_at_another_platform() {
    let one = Host::start();
    let other = beside(&one);
    let source = other.source();
    let run = one.submit("x");
    take(&source);

    one.client().cancel(run).unwrap();

    while source.cancelled().unwrap() != [run] {
        source.notifications().recv_timeout(Duration::from_secs(20)).unwrap();
    }
}

#[test]
fn a_job_without_a_notification_is_found_by_asking() {
    let (host, name) = host();
    let run = host.submit("x");
    store::sql(&name, "UPDATE jobs SET status = 'held'");

    let offered = std::thread::scope(|scope| {
        let held = scope.spawn(|| host.poll(RUNNER));
        store::sql(&name, "UPDATE jobs SET status = 'queued'");
        held.join().unwrap()
    });

    assert_eq!(offered.ok()["job"]["runId"], json!(run));
}

#[test]
fn notifications_go_on_after_the_listening_connections_are_killed() {
    let (one, name) = host();
    let other = beside(&one);
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE pid <> pg_backend_pid() AND datname = current_database()
                    AND (query LIKE 'LISTEN%' OR query LIKE '%pg_notify%')";
    let source = other.source();

    for _ in 0..3 {
        store::sql(&name, kill);
        let run = one.submit("x");
        let job = take(&source);
        assert_eq!(job.run_id, run);
        source.complete(&job, done(0)).unwrap();
    }
}

#[test]
fn a_session_is_held_across_platforms_until_its_runner_is_silent() {
    let (database, name) = store::named();
    let one = Host::with(|config| {
        config.database = database;
        config.poll_hold = Duration::from_millis(50);
        config.affinity = Duration::from_secs(3600);
    });
    let other = beside(&one);
    one.post_runner("heartbeat", &holding(RUNNER, "s")).ok();
    let run = one.resume(one.with_session("s"));

    let elsewhere = other.poll(OTHER).ok()["job"].clone();
    store::sql(&name, "UPDATE runners SET seen = seen - 26000");
    let after_silence = other.poll(OTHER).ok()["job"]["runId"].clone();

    assert_eq!(elsewhere, json!(null));
    assert_eq!(after_silence, json!(run));
}

#[test]
fn a_poll_of_a_sessions_runner_that_is_held_elsewhere_gets_its_job() {
    let one = Host::with(|config| config.affinity = Duration::from_secs(3600));
    let other = beside(&one);
    one.post_runner("heartbeat", &holding(RUNNER, "s")).ok();
    let ended = one.with_session("s");

    let (run, offered) = std::thread::scope(|scope| {
        let held = scope.spawn(|| other.poll(RUNNER).ok()["job"]["runId"].clone());
        (one.resume(ended), held.join().unwrap())
    });

    assert_eq!(offered, json!(run));
}
