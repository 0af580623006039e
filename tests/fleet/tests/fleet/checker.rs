//! The invariants of a fleet, checked after all jobs have ended and all parts have stopped, except the
//! database. Prints what it checked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::Path;

use platform::RunId;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::world::Fleet;

/// The error of a job whose host died, from the runner's journal.
const DIED: &str = "the runner died";

/// What the secret of each job begins with.
pub(crate) const SECRET: &str = "swordfish-of-";

/// A job and its expected end.
pub(crate) struct Expected {
    pub(crate) run: RunId,
    pub(crate) exit_code: u64,
    /// The event that only this job has contains this.
    pub(crate) mark: String,
    /// The content of the file `result` in its artifact.
    pub(crate) result: String,
    /// Whether it printed a secret.
    pub(crate) has_secret: bool,
}

/// Checks everything. At most `died` jobs may have ended with their host.
#[track_caller]
pub(crate) fn check(fleet: &Fleet, jobs: &[Expected], died: usize) {
    let violations = violations(fleet, jobs, died).join("\n");
    assert!(violations.is_empty(), "violations:\n{violations}");
}

/// What is not as it should be.
pub(crate) fn violations(fleet: &Fleet, jobs: &[Expected], died: usize) -> Vec<String> {
    let mut checker = Checker { fleet, violations: Vec::new() };
    checker.jobs(jobs, died);
    checker.events(jobs);
    checker.checkpoints(jobs);
    checker.blobs();
    checker.secrets(jobs);
    checker.remains();
    checker.violations
}

struct Checker<'a> {
    fleet: &'a Fleet,
    violations: Vec<String>,
}

impl Checker<'_> {
    fn rows(&self, query: &str) -> Vec<Value> {
        let query = format!("SELECT coalesce(json_agg(found), '[]') FROM ({query}) AS found");
        let rows: Value = serde_json::from_str(&self.fleet.sql(&query)).unwrap();
        rows.as_array().unwrap().clone()
    }

    /// Rows by their column `run`.
    fn by_run(&self, query: &str) -> BTreeMap<String, Vec<Value>> {
        let mut all = BTreeMap::<_, Vec<_>>::new();
        for row in self.rows(query) {
            all.entry(row["run"].as_str().unwrap().to_owned()).or_default().push(row);
        }
        all
    }

    fn expect(&mut self, is_so: bool, violation: impl FnOnce() -> String) {
        if !is_so {
            self.violations.push(violation());
        }
    }

    /// Each job is there once, has ended as expected, and had one attempt that ended.
    fn jobs(&mut self, jobs: &[Expected], died: usize) {
        let mut rows = self.by_run("SELECT * FROM jobs");
        let mut attempts = self.by_run(
            "SELECT run, state FROM attempts JOIN jobs ON jobs.id = job ORDER BY attempts.attempt",
        );
        let (mut counts, mut lost) = (BTreeMap::<_, usize>::new(), 0);
        for job in jobs {
            let run = job.run.to_string();
            let found = rows.remove(&run).unwrap_or_default();
            let [row] = &found[..] else {
                self.violations.push(format!("{run}: {} times in the database", found.len()));
                continue;
            };
            let code = row["exit_code"].as_u64();
            let expected = if job.exit_code == 0 { "completed" } else { "failed" };
            let has_died = row["error"] == DIED && row["status"] == "failed";
            let is_as_expected = row["status"] == expected && code == Some(job.exit_code);
            self.expect(is_as_expected || has_died, || format!("{run}: ended as {row}"));
            let outcome = if has_died { "died with their host" } else { expected };
            *counts.entry(outcome).or_default() += 1;
            let states = attempts.remove(&run).unwrap_or_default();
            let states: Vec<_> = states.iter().filter_map(|one| one["state"].as_str()).collect();
            lost += states.len().saturating_sub(1);
            let is_once = states.split_last().is_some_and(|(last, others)| {
                *last == "ended" && others.iter().all(|one| *one == "lost")
            });
            self.expect(is_once, || format!("{run}: attempts {states:?}"));
        }
        self.expect(rows.is_empty(), || format!("jobs that the test did not submit: {rows:?}"));
        let many = counts.get("died with their host").copied().unwrap_or_default();
        self.expect(many <= died, || format!("{many} jobs died with their host, not {died}"));
        println!("checked {} jobs, each ended once: {counts:?}; {lost} lost attempts", jobs.len());
    }

    /// The events of each job's last attempt are there once, in order and without a gap up to the last one
    /// that the guest has counted.
    fn events(&mut self, jobs: &[Expected]) {
        let mut all = self.by_run(
            "SELECT run, position, sequence, body, last_sequence, error FROM jobs
             JOIN events ON events.job = jobs.id AND events.attempt = jobs.attempt
             ORDER BY position",
        );
        let mut count = 0;
        for job in jobs {
            let run = job.run.to_string();
            let events = all.remove(&run).unwrap_or_default();
            count += events.len();
            let sequences: Vec<_> =
                events.iter().filter_map(|one| one["sequence"].as_u64()).collect();
            let is_whole = sequences.iter().copied().eq(0..events.len() as u64);
            self.expect(is_whole, || format!("{run}: events {sequences:?}"));
            let Some(first) = events.first().filter(|one| one["error"] != DIED) else { continue };
            let last = first["last_sequence"].as_u64();
            let is_all = last == sequences.last().copied();
            self.expect(is_all, || format!("{run}: events {sequences:?}, the last is {last:?}"));
            let marked = events.iter().filter_map(|one| one["body"].as_str());
            let marked = marked.filter(|body| body.contains(&job.mark)).count();
            self.expect(marked > 0, || format!("{run}: no event has {:?}", job.mark));
        }
        let positions = self.rows(
            "SELECT job FROM events GROUP BY job
             HAVING count(*) <> max(position) OR count(DISTINCT position) <> count(*)",
        );
        self.expect(positions.is_empty(), || format!("positions with gaps: {positions:?}"));
        println!("checked {count} events, in order and without a gap");
    }

    /// Each job that succeeded has a checkpoint, whose history and artifacts are whole and its own.
    fn checkpoints(&mut self, jobs: &[Expected]) {
        let mut all = self.by_run(
            "SELECT run, hash, encoding, raw_size, blob, archive, manifest FROM jobs
             JOIN checkpoints ON checkpoints.job = jobs.id AND checkpoints.attempt = jobs.attempt
             JOIN histories ON hash = history
             JOIN snapshots ON checkpoint = checkpoints.id
             JOIN versions USING (storage, version) WHERE status = 'completed'",
        );
        let completed = self.by_run("SELECT run FROM jobs WHERE status = 'completed'");
        let mut count = 0;
        for job in jobs.iter().filter(|job| completed.contains_key(&job.run.to_string())) {
            let run = job.run.to_string();
            match &all.remove(&run).unwrap_or_default()[..] {
                [row] => self.checkpoint(&run, row, job),
                rows => self.violations.push(format!("{run}: {} checkpoints", rows.len())),
            }
            count += 1;
        }
        println!("checked {count} checkpoints, each with a history, an archive and a manifest");
    }

    fn checkpoint(&mut self, run: &str, row: &Value, job: &Expected) {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let mut history = self.content(&text("blob"));
        if text("encoding") == "zstd" {
            history = zstd::decode_all(&history[..]).unwrap_or_default();
        }
        let is_whole = digest(&history) == text("hash");
        self.expect(is_whole, || format!("{run}: its history is damaged: {row}"));
        let archive = self.content(&text("archive"));
        let result = file_of(&archive, "result").unwrap_or_default();
        self.expect(result == job.result, || format!("{run}: its artifact has {result:?}"));
        let manifest: Value =
            serde_json::from_slice(&self.content(&text("manifest"))).unwrap_or_default();
        let files = manifest["files"].as_array().cloned().unwrap_or_default();
        let listed = files.iter().find(|file| file["path"] == "result");
        let is_listed = listed.is_some_and(|file| file["hash"] == digest(job.result.as_bytes()));
        self.expect(is_listed, || format!("{run}: its manifest has {files:?}"));
    }

    fn content(&self, digest: &str) -> Vec<u8> {
        let folder = digest.get(..2).unwrap_or_default();
        fs::read(self.fleet.blobs().join(folder).join(digest)).unwrap_or_default()
    }

    /// Each blob is what its name says, and all that are referenced are there.
    fn blobs(&mut self) {
        let mut stored = BTreeSet::new();
        for folder in fs::read_dir(self.fleet.blobs()).unwrap().flatten() {
            for blob in fs::read_dir(folder.path()).unwrap().flatten() {
                let name = blob.file_name().to_string_lossy().into_owned();
                let is_whole = digest(&fs::read(blob.path()).unwrap()) == name;
                self.expect(is_whole, || format!("the blob {name} is damaged"));
                stored.insert(name);
            }
        }
        let referenced = self.rows(
            "SELECT archive AS blob FROM versions UNION SELECT manifest FROM versions
             UNION SELECT blob FROM histories",
        );
        for blob in &referenced {
            let is_there = stored.contains(blob["blob"].as_str().unwrap());
            self.expect(is_there, || format!("a blob is missing: {blob}"));
        }
        println!("checked {} blobs, of which {} are referenced", stored.len(), referenced.len());
    }

    /// No secret is in clear in the database or in a log. Histories and archives come back as they were.
    fn secrets(&mut self, jobs: &[Expected]) {
        let mut texts = vec![("the database".to_owned(), self.fleet.dump())];
        for part in fs::read_dir(self.fleet.folder()).unwrap().flatten() {
            let text = fs::read_to_string(part.path().join("log")).unwrap_or_default();
            texts.push((format!("the log of {}", part.file_name().display()), text));
        }
        for (name, text) in &texts {
            self.expect(!text.contains(SECRET), || format!("{name} has a secret in clear"));
        }
        let count = jobs.iter().filter(|job| job.has_secret).count();
        println!(
            "checked that no secret of {count} jobs is in a dump of the database, or in a log"
        );
    }

    /// Nothing is left of ended jobs in the database, at platforms and on hosts.
    fn remains(&mut self) {
        for query in [
            "SELECT * FROM attempts WHERE state = 'live'",
            "SELECT * FROM uploads WHERE owner LIKE '%/%'",
            "SELECT * FROM secrets",
        ] {
            let rows = self.rows(query);
            self.expect(rows.is_empty(), || format!("{query}: {rows:?}"));
        }
        let fleet = self.fleet;
        let platforms = fleet.replicas.iter().map(|one| one.control().join("secrets"));
        let hosts = fleet.hosts.iter().map(|one| &one.state);
        let hosts = hosts.flat_map(|state| ["outcomes", "guests"].map(|name| state.join(name)));
        let folders: Vec<_> = platforms.chain(hosts).collect();
        for folder in &folders {
            let names = names(folder);
            self.expect(names.is_empty(), || format!("{}: {names:?}", folder.display()));
        }
        let processes = processes(&fleet.folder().to_string_lossy());
        self.expect(processes.is_empty(), || format!("processes: {processes:?}"));
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let is_mounted = mounts.contains(&*fleet.folder().to_string_lossy());
        self.expect(!is_mounted, || format!("mounts: {mounts}"));
        println!(
            "checked that nothing is left: rows, {} folders, processes, mounts",
            folders.len()
        );
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The text of a file in a compressed archive.
fn file_of(archive: &[u8], name: &str) -> Option<String> {
    let mut files = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    let mut files = files.entries().ok()?.flatten();
    let mut file = files.find(|file| file.path().is_ok_and(|path| path.ends_with(name)))?;
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    Some(text)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Processes that have `text` in their command line.
fn processes(text: &str) -> Vec<String> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let commands = all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let commands = commands.map(|command| String::from_utf8_lossy(&command).replace('\0', " "));
    commands.filter(|command| command.contains(text)).collect()
}
