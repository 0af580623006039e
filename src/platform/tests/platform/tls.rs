//! The platform over TLS, as the runner's and the guests' client sees it.

use std::path::Path;

use guest_test::{Authority, Identity};
use platform_client::{
    ClientType, Error, PlatformAddresses, PlatformClient, PlatformCredentials, RequestCancellation,
    RequestLimits,
};
use serde_json::{Value, json};

use crate::harness::{Host, soon};

/// A platform with this certificate, in its state folder.
fn host(identity: &Identity) -> Host {
    Host::with(|config| {
        let (certificate, key) = (config.state.join("tls.crt"), config.state.join("tls.key"));
        identity.write(&certificate, &key);
        config.tls = Some((certificate, key));
    })
}

fn url(host: &Host) -> String {
    let port = host.address().port();
    format!("https://localhost:{port}")
}

/// A runner that trusts an authority.
fn runner(host: &Host, authority: &Authority) -> PlatformClient {
    let ca = host.state().join("ca.pem");
    authority.install(&ca);
    let credentials = PlatformCredentials {
        addresses: PlatformAddresses::from(url(host)).trusting(Path::new(&ca)).unwrap(),
        token: host.platform().runner_token().to_owned(),
        bypass: None,
        client_session: "r".into(),
    };
    let limits = RequestLimits::within(std::time::Duration::from_secs(30));
    let stop = RequestCancellation::new();
    PlatformClient::of(ClientType::Runner, &credentials, limits, &stop).unwrap()
}

fn ask(client: &PlatformClient) -> Result<Value, Error> {
    let body = json!({"runnerId": uuid(), "group": "a/b", "snapshotGeneration": 1,
        "snapshotSequence": 1, "runnerName": "r", "totalVcpu": 1, "totalMemoryMb": 1,
        "maxConcurrent": 1, "allocatedVcpu": 0, "allocatedMemoryMb": 0, "runningCount": 0,
        "admittableProfiles": [], "heldSessionStates": [], "mode": "running"});
    client.attempt("/api/runners/heartbeat", body.to_string().as_bytes())
}

fn uuid() -> &'static str {
    "11111111-2222-4333-8444-555555555555"
}

#[test]
fn a_runner_takes_a_job_over_tls_and_its_urls_are_https() {
    let authority = Authority::new();
    let host = host(&authority.issue());
    let run = host.submit("x");
    let client = runner(&host, &authority);

    let context: Value = client.attempt(&format!("/api/runners/jobs/{run}/claim"), b"{}").unwrap();
    let credentials = PlatformCredentials {
        addresses: client.addresses().clone(),
        token: context["sandboxToken"].as_str().unwrap().to_owned(),
        bypass: None,
        client_session: run.to_string(),
    };
    let guest = client.with(ClientType::GuestAgent, &credentials).unwrap();
    let history = json!({"runId": run, "hash": "0".repeat(64), "rawSize": 3, "encodedSize": 3,
        "encoding": "identity"});
    let prepared: Value =
        guest.post("/api/webhooks/agent/checkpoints/prepare-history", &history).unwrap();

    assert!(prepared["presignedUrl"].as_str().unwrap().starts_with(&url(&host)), "{prepared}");
    assert!(host.platform().urls()[0].starts_with("https://127.0.0.1:"));
}

#[test]
fn a_certificate_of_another_authority_or_an_expired_one_is_rejected_by_the_runner() {
    let authority = Authority::new();
    let expired = host(&authority.issue_expired());
    let other = host(&Authority::new().issue());

    let texts = [&expired, &other].map(|host| {
        let error = ask(&runner(host, &authority)).unwrap_err();
        base::error::chain(&error)
    });

    assert!(texts[0].contains("xpired"), "{}", texts[0]);
    assert!(texts[1].contains("invalid peer certificate"), "{}", texts[1]);
}

#[test]
fn a_replaced_certificate_is_used_without_a_restart() {
    let (first, second) = (Authority::new(), Authority::new());
    let host = host(&first.issue());
    ask(&runner(&host, &first)).unwrap();
    let later = runner(&host, &second);

    second.issue().write(&host.state().join("tls.crt"), &host.state().join("tls.key"));

    let deadline = soon();
    while let Err(error) = ask(&later) {
        assert!(std::time::Instant::now() < deadline, "{error}");
    }
}

#[test]
fn http_without_tls_gets_an_explanation_at_a_tls_address() {
    let host = host(&Authority::new().issue());

    let reply = host.send("GET", "/api/runners/poll", "", b"");

    assert_eq!(reply.status, 400);
}

#[test]
fn a_platform_without_a_usable_certificate_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = platform::Config::new(dir.path());
    config.listen = vec!["127.0.0.1:0".parse().unwrap()];
    config.tls = Some((dir.path().join("none.crt"), dir.path().join("none.key")));

    let error = platform::Platform::start(config).err().unwrap();

    let text = base::error::chain(&error);
    assert!(text.starts_with("cannot serve TLS: ") && text.contains("none.crt"), "{text}");
}
