//! `runner fleet ls`: the runners, with their state and load.

use std::time::Duration;

use platform::Runner;

use crate::error::Result;
use crate::operator::{OperatorClient, print, print_json};
use crate::table;

/// List runners that sent a heartbeat in the last hour, and drained ones
///
/// A runner is `lost` if it has been silent for a minute. One is `unhealthy` if three jobs in a row did not
/// start there: it gets no jobs but a trial after a pause.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(operator: &OperatorClient<'_>, arguments: &Arguments) -> Result<u8> {
    let runners = operator.ask(|client| client.runners())?;
    if arguments.json {
        print_json(&runners)?
    } else {
        print(&table(&runners))?
    }
    Ok(0)
}

fn table(runners: &[Runner]) -> String {
    let heads = [
        "NAME", "ID", "GROUP", "STATE", "JOBS", "CPUS", "MEMORY", "PARKED", "PROFILES", "VERSION",
        "SEEN", "REASON",
    ];
    let row = |runner: &Runner| {
        vec![
            runner.runner_name.clone(),
            runner.runner_id.to_string().chars().take(8).collect(),
            runner.group.clone(),
            state(runner).to_owned(),
            format!("{}/{}", runner.running_count, runner.max_concurrent),
            format!("{}/{}", runner.allocated_vcpu, runner.total_vcpu),
            format!("{}/{}M", runner.allocated_memory_mb, runner.total_memory_mb),
            runner.parked.to_string(),
            or_dash(runner.admittable_profiles.join(",")),
            or_dash(runner.version.clone().unwrap_or_default()),
            span(runner.age_ms),
            runner.unhealthy.as_ref().map_or_else(String::new, |unhealthy| {
                format!("{} (trial in {})", unhealthy.reason, span(unhealthy.trial_in_ms))
            }),
        ]
    };
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(runners.iter().map(row));
    table::render(&rows)
}

/// The first of these that is so.
fn state(runner: &Runner) -> &str {
    match runner {
        Runner { lost: true, .. } => "lost",
        Runner { drained: true, .. } => "drained",
        Runner { unhealthy: Some(_), .. } => "unhealthy",
        _ => &runner.mode,
    }
}

fn span(ms: u64) -> String {
    match Duration::from_millis(ms).as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3_600 => format!("{}m", seconds / 60),
        seconds => format!("{}h", seconds / 3_600),
    }
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use platform::Unhealthy;

    use super::*;

    fn runner() -> Runner {
        Runner {
            runner_name: "host-1".into(),
            group: "a/b".into(),
            mode: "running".into(),
            total_vcpu: 8.0,
            allocated_vcpu: 2.0,
            total_memory_mb: 1024.0,
            allocated_memory_mb: 512.0,
            max_concurrent: 4,
            running_count: 1,
            parked: 3,
            age_ms: 61_000,
            ..Runner::default()
        }
    }

    #[test]
    fn a_runner_is_listed_on_one_line() {
        let text = table(&[runner()]);
        let line = text.lines().nth(1).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        let expected = [
            "host-1",
            "00000000",
            "a/b",
            "running",
            "1/4",
            "2/8",
            "512/1024M",
            "3",
            "-",
            "-",
            "1m",
        ];
        assert_eq!(words, expected);
    }

    #[test]
    fn an_unhealthy_runner_is_listed_with_its_reason_and_next_trial() {
        let unhealthy = Unhealthy { reason: "no KVM\x1b[2J".into(), trial_in_ms: 90_000 };
        let text = table(&[Runner { unhealthy: Some(unhealthy), ..runner() }]);
        assert!(text.contains("unhealthy") && text.contains("(trial in 1m)"), "{text}");
        assert!(text.contains("no KVM\\x1b[2J"), "{text}");
    }

    #[test]
    fn what_keeps_a_runner_from_jobs_is_its_state() {
        let unhealthy = Some(Unhealthy { reason: String::new(), trial_in_ms: 0 });
        let drained = Runner { drained: true, unhealthy, ..runner() };
        assert_eq!(state(&drained), "drained");
        assert_eq!(state(&Runner { lost: true, ..drained }), "lost");
        assert_eq!(state(&Runner { mode: "draining".into(), ..runner() }), "draining");
    }
}
