//! Tokens of a platform, as an operator makes and revokes them.

use serde_json::Value;

use crate::harness::{Host, stderr, stdout};

#[test]
fn a_token_is_printed_once_listed_and_revoked() {
    let host = Host::start();
    let create = ["token", "create", "--name", "ci", "--role", "submitter", "--expires", "36h"];

    let made = host.run(&create);
    let listed = host.run(&["token", "ls"]);
    let json: Value = serde_json::from_slice(&host.run(&["token", "ls", "--json"]).stdout).unwrap();
    let again = host.run(&create);
    let revoked = host.run(&["token", "revoke", "ci"]);
    let unknown = host.run(&["token", "revoke", "ci"]);

    let secret = stdout(&made).trim_end().to_owned();
    assert!(secret.starts_with("submitter_"), "{secret}");
    assert_eq!(stderr(&made), "token ci was made: it is not shown again\n");
    assert!(stdout(&listed).contains("ci     submitter   -       0s"), "{}", stdout(&listed));
    assert!(stdout(&listed).contains("in 1d"), "{}", stdout(&listed));
    assert_eq!((&json[0]["name"], &json[0]["role"]), (&"ci".into(), &"submitter".into()));
    assert!(!stdout(&listed).contains(&secret) && !json.to_string().contains(&secret));
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("a token `ci` exists: revoke it first"), "{}", stderr(&again));
    assert_eq!(revoked.status.code(), Some(0));
    assert_eq!(stderr(&unknown), "runner: no token `ci`: `runner token ls` lists them\n");
}

#[test]
fn a_group_of_another_role_is_rejected() {
    let host = Host::start();
    let create = ["token", "create", "--name", "a", "--role", "operator", "--group", "a/b"];

    let refused = host.run(&create);

    assert!(stderr(&refused).contains("only a token of a runner"), "{}", stderr(&refused));
}
