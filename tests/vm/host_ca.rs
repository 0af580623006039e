//! Certificate authorities that the host's administrator added.

use std::fs;
use std::path::Path;

use guest_test::{Reply, Request};
use nix::mount::{MsFlags, mount};

use crate::internet::Internet;
use crate::runner::{Runner, text};

const HOST: &str = "git.example.com";

fn hello(_: &Request) -> Reply {
    Reply::bytes(*b"hello\n")
}

/// Has this test's own view of the host trust the internet's authority, as an administrator would.
fn add_authority(runner: &Runner, internet: &Internet) {
    let folder = runner.state().join("ca-certificates");
    fs::create_dir(&folder).unwrap();
    fs::copy(internet.variable().1, folder.join("inspection.crt")).unwrap();
    let target = Path::new("/usr/local/share/ca-certificates");
    let none = None::<&str>;
    mount(Some(&folder), target, none, MsFlags::MS_BIND, none).unwrap();
}

#[test]
#[ignore = "needs root, QEMU and the image `claude`"]
fn programs_of_user_and_root_in_a_guest_trust_the_hosts_cas() {
    let runner = Runner::new();
    let internet = Internet::serve(&runner, &[HOST], hello);
    add_authority(&runner, &internet);
    let python = format!("import urllib.request as u; print(u.urlopen('https://{HOST}/').read())");
    let node = format!("fetch('https://{HOST}/').then(r=>r.text()).then(console.log)");
    // Python once more without a word of where certificates are, and as root.
    let script = format!(
        "curl -sS https://{HOST}/ && python3 -c \"{python}\" && node -e \"{node}\" \
         && env -u SSL_CERT_FILE python3 -c \"{python}\" && sudo python3 -c \"{python}\""
    );

    let output = runner.succeed(&["run", "--image", "claude", "--", "bash", "-c", &script]);

    assert_eq!(output.matches("hello").count(), 5, "{output}");
    assert_eq!(internet.https.requests().len(), 5);
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_guest_does_not_trust_the_hosts_cas_with_host_ca_off() {
    let runner = Runner::new();
    let internet = Internet::serve(&runner, &[HOST], hello);
    add_authority(&runner, &internet);
    let url = format!("https://{HOST}/");

    let output = runner.run(&["run", "--host-ca", "off", "--", "curl", "-sS", &url]);

    // curl's code for a certificate of an unknown CA.
    assert_eq!(output.status.code(), Some(60), "{}", text(&output.stderr));
    let doctor = text(&runner.run(&["doctor"]).stdout);
    assert!(doctor.contains("guests trust 1 that this host's administrator added"), "{doctor}");
}
