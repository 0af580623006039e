//! Tokens over HTTP: what each role may do, and how its jobs are kept apart from those of others.

use platform::{Error, NewToken, Role, Submission};
use serde_json::{Value, json};

use crate::harness::{Host, Reply, contains, refusal};
use crate::jobs::{RUNNER, heartbeat};
use crate::storages::files;

/// Makes a token, and returns its secret.
pub(crate) fn token(host: &Host, name: &str, role: Role) -> String {
    let new = NewToken { name: name.into(), role, group: None, expires_in_ms: None };
    host.client().create_token(&new).unwrap().secret
}

pub(crate) fn get(host: &Host, path: &str, token: &str) -> Reply {
    host.send("GET", path, &format!("Authorization: Bearer {token}\r\n"), b"")
}

fn submit(host: &Host, token: &str, submission: &Value) -> Reply {
    host.post("/v1/jobs", token, submission)
}

/// Submits a job, and returns its id.
fn submitted(host: &Host, token: &str) -> String {
    let reply = submit(host, token, &json!({"prompt": "x"})).ok();
    reply["runId"].as_str().unwrap().to_owned()
}

#[test]
fn an_operator_may_do_everything_from_elsewhere() {
    let host = Host::start();
    let run = host.submit("x");
    let operator = token(&host, "op", Role::Operator);

    let listed = get(&host, "/v1/jobs", &operator).ok();
    let made = json!({"name": "ci", "role": "submitter"});
    let made = host.post("/v1/tokens", &operator, &made).ok();
    let cancelled = host.post(&format!("/v1/jobs/{run}/cancel"), &operator, &json!({}));
    let revoked = host.post("/v1/tokens/ci/revoke", &operator, &json!({}));
    let of_revoked = get(&host, "/v1/jobs", made["secret"].as_str().unwrap());

    assert_eq!(listed[0]["runId"], json!(run));
    assert_eq!([cancelled.status, revoked.status], [200, 200]);
    assert_eq!(of_revoked.refused(), refusal(401, "UNAUTHORIZED"));
    assert_eq!(get(&host, "/v1/runners", &operator).status, 200);
    assert_eq!(host.post("/v1/prune", &operator, &json!({"keepMs": 1_000_000})).status, 200);
}

#[test]
fn each_role_has_its_own_paths() {
    let host = Host::start();
    let runner = token(&host, "r", Role::Runner);
    let submitter = token(&host, "s", Role::Submitter);
    let operator = token(&host, "o", Role::Operator);
    let wrong = refusal(403, "WRONG_ROLE");
    let made = json!({"name": "ci", "role": "operator"});

    let of_submitter = [
        get(&host, "/v1/runners", &submitter),
        get(&host, "/v1/tokens", &submitter),
        host.post("/v1/tokens", &submitter, &made),
        host.post("/v1/tokens/o/revoke", &submitter, &json!({})),
        host.post("/v1/prune", &submitter, &json!({"keepMs": 0})),
        host.post("/api/runners/poll", &submitter, &json!({})),
    ];
    let of_others = [
        get(&host, "/v1/jobs", &runner),
        submit(&host, &runner, &json!({"prompt": "x"})),
        host.post("/api/runners/heartbeat", &operator, &heartbeat(RUNNER)),
    ];

    assert_eq!(of_submitter.map(|reply| reply.refused()), [0; 6].map(|_| wrong.clone()));
    assert_eq!(of_others.map(|reply| reply.refused()), [0; 3].map(|_| wrong.clone()));
}

#[test]
fn a_request_from_elsewhere_needs_a_known_token() {
    let host = Host::start();
    let unknown = format!("operator_{}", "0".repeat(64));
    let unauthorized = refusal(401, "UNAUTHORIZED");

    let replies = [
        host.send("GET", "/v1/jobs", "", b""),
        get(&host, "/v1/jobs", "x"),
        get(&host, "/v1/jobs", &unknown),
        get(&host, "/v1/jobs", host.platform().runner_token()),
        host.post("/api/runners/heartbeat", &unknown, &heartbeat(RUNNER)),
    ];

    assert_eq!(replies.map(|reply| reply.refused()), [0; 5].map(|_| unauthorized.clone()));
}

#[test]
fn a_submitter_has_access_to_its_own_jobs_only() {
    let host = Host::start();
    let of_host = host.submit("x");
    let (one, other) = (token(&host, "one", Role::Submitter), token(&host, "two", Role::Submitter));
    let run = submitted(&host, &one);
    let path = |rest: &str| format!("/v1/jobs/{run}{rest}");

    let own = get(&host, "/v1/jobs", &one).ok();
    let of_others = [
        get(&host, &path(""), &other),
        get(&host, &path("/events"), &other),
        get(&host, &format!("/v1/jobs/{}", &run[..8]), &other),
        get(&host, &format!("/v1/jobs?before={run}"), &other),
        get(&host, &format!("/v1/jobs/{of_host}"), &other),
        host.post(&path("/cancel"), &other, &json!({})),
        submit(&host, &other, &json!({"prompt": "x", "resume": run})),
    ];

    assert_eq!(own.as_array().unwrap().len(), 1);
    assert_eq!(get(&host, &path(""), &one).ok()["submittedBy"], "one");
    assert_eq!(get(&host, "/v1/jobs", &other).ok(), json!([]));
    let absent = refusal(404, "NO_JOB");
    assert_eq!(of_others.map(|reply| reply.refused()), [0; 7].map(|_| absent.clone()));
    assert_eq!(host.post(&path("/cancel"), &one, &json!({})).status, 200);
}

#[test]
fn names_of_a_submitter_are_its_own() {
    let host = Host::start();
    let tokens = ["one", "two"].map(|name| token(&host, name, Role::Submitter));
    let request = json!({"storageName": "work", "files": files("x")});
    let keyed = json!({"prompt": "x", "key": "k"});

    let [mine, theirs] =
        tokens.each_ref().map(|token| host.post("/v1/storages/prepare", token, &request).ok());
    let runs = tokens.each_ref().map(|token| submit(&host, token, &keyed).ok()["runId"].clone());
    let again = submit(&host, &tokens[0], &keyed).ok();
    let mount = json!({"name": "work", "storageId": mine["storageId"],
        "versionId": mine["versionId"], "mountPath": "/w"});
    let stolen = submit(&host, &tokens[1], &json!({"prompt": "x", "artifacts": [mount]}));

    assert_ne!(mine["storageId"], theirs["storageId"]);
    assert_ne!(runs[0], runs[1]);
    assert_eq!((&again["runId"], &again["isNew"]), (&runs[0], &json!(false)));
    assert_eq!(stolen.refused(), refusal(404, "NOT_FOUND"));
}

#[test]
fn a_job_shows_who_submitted_and_who_cancelled_it() {
    let host = Host::start();
    let (ci, op) = (token(&host, "ci", Role::Submitter), token(&host, "op", Role::Operator));
    let run = submitted(&host, &ci);
    host.post(&format!("/v1/jobs/{run}/cancel"), &op, &json!({})).ok();
    let of_host = host.submit("x");

    let job = host.client().job(&run).unwrap();

    assert_eq!(job.submitted_by.as_deref(), Some("ci"));
    assert_eq!(job.cancelled_by.as_deref(), Some("op"));
    assert_eq!(host.job(of_host).submitted_by, None);
}

#[test]
fn a_runners_token_is_good_for_its_group_only() {
    let host = Host::start();
    let new = NewToken {
        name: "r".into(),
        role: Role::Runner,
        group: Some("a/b".into()),
        expires_in_ms: None,
    };
    let token = host.client().create_token(&new).unwrap().secret;
    let poll = json!({"runnerId": RUNNER, "group": "c/d", "supportedProfiles": ["default"]});
    let mut of_others = heartbeat(RUNNER);
    of_others["group"] = json!("c/d");

    let submit = |group: &str| {
        let submission = Submission { group: Some(group.into()), ..Submission::default() };
        host.client().submit(&Submission { prompt: "x".into(), ..submission }).unwrap().run_id
    };
    let (ours, theirs) = (submit("a/b"), submit("c/d"));
    let claim = |run| host.post(&format!("/api/runners/jobs/{run}/claim"), &token, &json!({}));

    let beat = host.post("/api/runners/heartbeat", &token, &heartbeat(RUNNER));
    let refused = [
        claim(theirs),
        host.post("/api/runners/poll", &token, &poll),
        host.post("/api/runners/heartbeat", &token, &of_others),
    ];

    assert_eq!([beat.status, claim(ours).status], [200, 200]);
    assert_eq!(refused.map(|reply| reply.refused()), [0; 3].map(|_| refusal(403, "WRONG_GROUP")));
}

#[test]
fn a_token_is_stored_as_its_hash_only() {
    let mut host = Host::start();
    let secret = token(&host, "op", Role::Operator);
    get(&host, "/v1/jobs", &secret).ok();
    let listed = host.client().tokens().unwrap();

    host.stop();

    assert_eq!(contains(host.state(), &secret), Vec::<String>::new());
    assert_eq!((listed[0].name.as_str(), listed[0].role), ("op", Role::Operator));
    assert!(listed[0].last_used_ms >= Some(listed[0].created_ms));
}

#[test]
fn names_of_tokens_are_unique_until_they_are_revoked() {
    let host = Host::start();
    let new =
        NewToken { name: "ci".into(), role: Role::Submitter, group: None, expires_in_ms: None };
    let client = host.client();
    let first = client.create_token(&new).unwrap().secret;

    let again = client.create_token(&new).unwrap_err();
    client.revoke_token("ci").unwrap();
    let second = client.create_token(&new).unwrap().secret;
    let unknown = client.revoke_token("cd").unwrap_err();

    assert!(matches!(again, Error::Answered { status: 409, .. }), "{again}");
    assert!(matches!(unknown, Error::Answered { status: 404, .. }), "{unknown}");
    assert_eq!(get(&host, "/v1/jobs", &first).refused(), refusal(401, "UNAUTHORIZED"));
    assert_eq!(get(&host, "/v1/jobs", &second).status, 200);
}

#[test]
fn a_malformed_token_is_not_made() {
    let host = Host::start();
    let operator = token(&host, "op", Role::Operator);
    let make = |body: Value| host.post("/v1/tokens", &operator, &body).refused();
    let bad = refusal(400, "BAD_REQUEST");

    assert_eq!(make(json!({"name": "", "role": "runner"})), bad);
    assert_eq!(make(json!({"name": "a/b", "role": "runner"})), bad);
    assert_eq!(make(json!({"name": "x".repeat(65), "role": "runner"})), bad);
    assert_eq!(make(json!({"name": "a", "role": "god"})), bad);
    assert_eq!(make(json!({"name": "a", "role": "operator", "group": "a/b"})), bad);
    assert_eq!(make(json!({"name": "a", "role": "runner", "group": "a"})), bad);
    assert_eq!(make(json!({"name": "a", "role": "runner", "expiresInMs": 0})), bad);
}
