//! Many platforms and runners on one database, of which each may fail: processes in network namespaces,
//! PostgreSQL of the distribution, the programs of the guest, and hosts whose VMs are processes.
//!
//!     cargo build -p runner --features postgres
//!     cargo build -p guest-agent -p guest-download -p guest-mock-claude
//!     cargo test -p fleet-test -- --ignored

#![allow(clippy::unwrap_used, reason = "a test that fails should")]

mod checker;
mod network;
mod process;
mod world;

use std::collections::BTreeMap;

use platform::{Mount, Submission};

use self::checker::{Expected, SECRET, check, violations};
use self::world::{Clock, Fleet, Replica};

const JOBS: usize = 200;

/// Jobs that are under way.
struct Load {
    data: Mount,
    jobs: Vec<Expected>,
}

impl Load {
    fn of(fleet: &Fleet) -> Self {
        Self { data: fleet.upload(), jobs: Vec::new() }
    }

    /// Submits jobs to all platforms in turn. Each tenth fails, after it has sent its events; each fourth
    /// prints its secret.
    fn submit(&mut self, fleet: &Fleet, count: usize) {
        for number in self.jobs.len()..self.jobs.len() + count {
            let exit_code = if number % 10 == 9 { 3 } else { 0 };
            let mark = format!("job {number};");
            let prompt = format!(
                "echo '{mark}' $PASSWORD; printf \"$NUMBER\" > data/result; sleep 0.2; exit {exit_code}"
            );
            let result = format!("the result of {number}");
            let has_secret = number % 4 == 0;
            let secret = has_secret.then(|| ("PASSWORD".to_owned(), format!("{SECRET}{number}")));
            let submission = Submission {
                secrets: secret.into_iter().collect(),
                prompt,
                environment: BTreeMap::from([("NUMBER".to_owned(), result.clone())]),
                artifacts: vec![self.data.clone()],
                key: Some(format!("job-{number}")),
                ..Submission::default()
            };
            let run = fleet.submit(number, &submission);
            self.jobs.push(Expected { run, exit_code, mark, result, has_secret });
        }
    }

    /// Submits more jobs, and waits until all but this many have ended.
    fn leave(&mut self, fleet: &Fleet, more: usize, left: usize) {
        self.submit(fleet, more);
        for job in &self.jobs[..self.jobs.len() - left] {
            fleet.end(job.run);
        }
    }
}

#[test]
#[ignore = "needs root and PostgreSQL"]
fn jobs_end_once_while_each_kind_of_process_is_killed() {
    let mut fleet = Fleet::of(2, 3);
    let mut load = Load::of(&fleet);

    load.leave(&fleet, 60, 40);
    fleet.replicas[0].kill();
    load.submit(&fleet, 10);
    fleet.replicas[0].start();
    load.leave(&fleet, 30, 40);
    fleet.hosts[0].kill();
    load.leave(&fleet, 30, 40);
    fleet.hosts[0].start();
    load.leave(&fleet, 40, 40);
    fleet.databases[0].kill();
    fleet.databases[0].run();
    load.leave(&fleet, JOBS - 170, 0);

    fleet.stop();
    check(&fleet, &load.jobs, 8);
}

#[test]
#[ignore = "needs root and PostgreSQL"]
fn the_checker_finds_what_is_lost_doubled_and_damaged() {
    let mut fleet = Fleet::of(1, 1);
    let mut load = Load::of(&fleet);
    load.leave(&fleet, 5, 0);
    fleet.stop();
    check(&fleet, &load.jobs, 0);

    let of = |number: usize| format!("SELECT id FROM jobs WHERE run = '{}'", load.jobs[number].run);
    fleet.sql(&format!(
        "DELETE FROM events WHERE sequence = 2 AND job = ({});
         INSERT INTO events SELECT job, 9, attempt, 9, received, body FROM events
             WHERE sequence = 1 AND job = ({});
         UPDATE jobs SET exit_code = 1 WHERE id = ({});
         UPDATE attempts SET state = 'live' WHERE job = ({})",
        of(0),
        of(1),
        of(2),
        of(3)
    ));
    let blob = fleet.sql("SELECT min(archive) FROM versions");
    std::fs::write(fleet.blobs().join(&blob[..2]).join(&blob), "half").unwrap();
    let found = violations(&fleet, &load.jobs, 0);

    let of = |number: usize| load.jobs[number].run.to_string();
    for needle in [of(0), of(1), of(2), of(3), format!("the blob {blob} is damaged")] {
        assert!(found.iter().any(|one| one.contains(&needle)), "{needle} is not in {found:#?}");
    }
}

#[test]
#[ignore = "needs root and PostgreSQL"]
fn jobs_end_once_through_a_partition_a_failover_and_wrong_clocks() {
    let mut fleet = Fleet::new();
    fleet.add_standby();
    fleet.add_replica(Clock::Right).spawn();
    fleet.add_replica(Clock::Ahead).spawn();
    // Both have found the database empty, or one has waited for the other's migrations.
    fleet.replicas.iter_mut().for_each(Replica::ready);
    for clock in [Clock::Right, Clock::Right, Clock::Ahead] {
        fleet.add_host(clock).start();
    }
    let mut load = Load::of(&fleet);

    load.leave(&fleet, 60, 40);
    fleet.hosts[1].node.cut();
    fleet.expire(1);
    load.leave(&fleet, 60, 40);
    let lost = fleet.sql("SELECT count(*) FROM attempts WHERE state = 'lost'");
    fleet.hosts[1].node.heal();
    load.leave(&fleet, 40, 40);
    fleet.databases[0].kill();
    fleet.databases[1].promote();
    load.leave(&fleet, JOBS - 160, 0);

    fleet.stop();
    check(&fleet, &load.jobs, 0);
    assert_ne!(lost, "0", "the host that was cut off had no job");
}
