//! A folder for one test, and runs of manifests in it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use guest_download::{Manifest, Settings};
use guest_test::{Reply, Server};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Short time-outs: a silent connection stalls at once, and there is no wait between attempts.
const QUICK: Settings = Settings { stall: Duration::from_millis(200), ..USUAL };

/// A long stall limit, for servers that are not meant to be silent.
const USUAL: Settings = Settings {
    stall: Duration::from_secs(60),
    first_wait: Duration::from_millis(1),
    outage: Duration::ZERO,
};

pub(crate) struct Fixture {
    folder: TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Fixture {
        Fixture { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn mode(&self, name: &str) -> u32 {
        fs::symlink_metadata(self.path(name)).unwrap().permissions().mode() & 0o7777
    }

    /// All paths, hidden ones included, sorted.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        collect(self.folder.path(), self.folder.path(), &mut found);
        found.sort();
        found
    }

    /// An entry of a manifest.
    pub(crate) fn entry(&self, mount: &str, url: &str) -> Value {
        json!({ "mountPath": self.path(mount), "archiveUrl": url })
    }

    pub(crate) fn run(&self, manifest: &Value) -> bool {
        run(manifest, &USUAL)
    }

    pub(crate) fn run_with_short_timeouts(&self, manifest: &Value) -> bool {
        run(manifest, &QUICK)
    }

    pub(crate) fn run_through_outage(&self, manifest: &Value) -> bool {
        run(manifest, &Settings { outage: Duration::from_secs(60), ..USUAL })
    }

    /// Fetches one archive to the mount `x`.
    pub(crate) fn fetch(&self, archive: Vec<u8>) -> bool {
        let server = Server::start(move |_| Reply::bytes(archive.clone()));
        self.fetch_from(&server)
    }

    pub(crate) fn fetch_from(&self, server: &Server) -> bool {
        self.run(&json!({ "storages": [self.entry("x", &server.url())] }))
    }
}

fn run(manifest: &Value, settings: &Settings) -> bool {
    let manifest = Manifest::parse(manifest.to_string().as_bytes()).unwrap();
    guest_download::run(&manifest, settings, None)
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        if path.is_dir() && !path.is_symlink() {
            collect(root, &path, found);
        }
    }
}
