//! The state folder: who may read it, who may serve it, and what a crash leaves of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use platform::{Config, Error, Platform, Status};

use crate::harness::{Host, done, take};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn only_the_owner_can_read_the_state_folder() {
    let host = Host::start();
    let mode = |name: &str| {
        let path = host.state().join("control").join(name);
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };

    let folders = ["", "blobs", "secrets", "partial"].map(mode);
    let files = ["control.db", "control.db-wal", "control.sock", "key", "runner.token", "lock"];

    assert_eq!(folders, [0o700; 4]);
    assert_eq!(files.map(mode), [0o600; 6]);
}

#[test]
fn a_second_platform_on_the_folder_is_rejected() {
    let host = Host::start();

    let second = Platform::start(Config::new(host.state()));

    assert!(matches!(second.err(), Some(Error::InUse { .. })));
    assert_eq!(host.client().jobs(None, 1).unwrap().len(), 0);
}

#[test]
fn a_platform_starts_from_the_files_of_a_killed_process() {
    let host = Host::start();
    let run = host.submit("x");
    let guest = host.claim(run);
    guest.events(&[0, 1]).ok();
    let dir = tempfile::tempdir().unwrap();
    copy(&host.state().join("control"), &dir.path().join("control"));
    fs::write(dir.path().join("control/partial/7"), "half an upload").unwrap();
    fs::write(dir.path().join("control/control.sock"), "").unwrap();

    let platform = Platform::start(Config::new(dir.path())).unwrap();

    let client = platform::Client::new(dir.path());
    let job = client.job(&run.to_string()).unwrap();
    assert_eq!((job.status, job.events), (Status::Running, 2));
    assert_eq!(fs::read_dir(dir.path().join("control/partial")).unwrap().count(), 0);
    let source = platform.source().unwrap();
    source.give_back(run, 1).unwrap();
    assert_eq!(source.complete(&take(&source), done(0)).unwrap().status, Status::Completed);
}

#[test]
fn a_damaged_database_is_reported() {
    let mut host = Host::start();
    host.stop();
    let database = host.state().join("control/control.db");
    fs::write(&database, "garbage".repeat(1000)).unwrap();

    let error = Platform::start(Config::new(host.state())).err().unwrap();

    assert!(error.to_string().contains("control.db is damaged"), "{error}");
}

#[test]
fn a_taken_address_is_reported() {
    let host = Host::start();
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(dir.path());
    config.listen = vec![host.address()];

    let error = Platform::start(config).err().unwrap();

    assert_eq!(error.to_string(), format!("cannot listen on {}", host.address()));
}

#[test]
fn a_state_folder_with_a_long_path_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("a".repeat(120));

    let platform = Platform::start(Config::new(&state)).unwrap();

    assert_eq!(platform::Client::new(&state).jobs(None, 1).unwrap().len(), 0);
    platform.stop().unwrap();
}
