//! `runner ps`: lists the VMs of this host, or the background commands of one VM.

use std::io::Write as _;

use sandbox::label::{COMMAND, IMAGE};
use serde::Serialize;

use crate::background::{self, CommandState};
use crate::error::{Error, Result};
use crate::options::Global;
use crate::output::Output;
use crate::vmm::{self, Phase, PublishedPort, VmRecord};
use crate::{table, terminal};

/// List the running VMs of all runner processes, or the background commands of one VM
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// List the background commands of this VM: that of `run -d` and those of `exec -d`
    vm: Option<String>,

    /// Print JSON; includes VMs whose runner died
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row<'a> {
    id: String,
    name: Option<&'a str>,
    image: Option<&'a str>,
    command: Option<&'a str>,
    phase: Phase,
    vmm: &'a str,
    vcpus: u32,
    memory_mib: u32,
    ports: &'a [PublishedPort],
    created_unix: u64,
    owner_pid: u32,
    alive: bool,
}

impl<'a> Row<'a> {
    fn of(record: &'a VmRecord) -> Self {
        let label = |key| record.labels.get(key).map(String::as_str);
        Self {
            id: record.id.to_string(),
            name: record.name.as_deref(),
            image: label(IMAGE),
            command: label(COMMAND).filter(|_| record.phase == Phase::Assigned),
            phase: record.phase,
            vmm: &record.vmm,
            vcpus: record.vcpus,
            memory_mib: record.memory_mib,
            ports: &record.ports,
            created_unix: record.created_unix,
            owner_pid: record.owner.pid(),
            alive: record.alive,
        }
    }

    fn ports(&self) -> String {
        let text = |published: &PublishedPort| format!("{}->{}", published.host, published.port);
        match self.ports {
            [] => "-".to_owned(),
            ports => ports.iter().map(text).collect::<Vec<_>>().join(", "),
        }
    }

    fn cells(&self) -> Vec<String> {
        let text = |text: Option<&str>| text.unwrap_or("-").to_owned();
        vec![
            self.id.clone(),
            text(self.name),
            text(self.image),
            match self.phase {
                Phase::Assigned => text(self.command),
                Phase::Warm => "(warm)".to_owned(),
                Phase::Parked => "(parked)".to_owned(),
            },
            self.vmm.to_owned(),
            self.vcpus.to_string(),
            format!("{} MiB", self.memory_mib),
            self.ports(),
            table::age(self.created_unix),
        ]
    }
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    if let Some(vm) = &arguments.vm {
        let commands = background::list(&vmm::find(&global.state_dir, vm)?)?;
        print(&if arguments.json { commands_json(&commands)? } else { commands_table(&commands) })?;
        return Ok(0);
    }
    let records = vmm::list(&global.state_dir)?;
    let text = if arguments.json { json(&records)? } else { table(&records) };
    print(&text)?;
    let dead = records.iter().filter(|record| !record.alive).count();
    if dead > 0 {
        log::warn!("some runners died and left VMs: `runner gc` removes them; count={dead}");
    }
    Ok(0)
}

fn print(text: &str) -> Result<()> {
    let mut output = Output::open()?;
    output.stdout().write_all(text.as_bytes()).map_err(|source| Error::Output { source })
}

fn json(records: &[VmRecord]) -> Result<String> {
    pretty(&records.iter().map(Row::of).collect::<Vec<_>>())
}

fn pretty(rows: &impl Serialize) -> Result<String> {
    let json = serde_json::to_string_pretty(rows).map_err(|source| Error::Json { source })?;
    Ok(json + "\n")
}

/// A command in the background. That of `run -d` has no name.
#[derive(Serialize)]
struct CommandRow<'a> {
    name: Option<&'a str>,
    program: &'a str,
    started_unix: u64,
    ended_unix: Option<u64>,
    exit_code: Option<u8>,
    /// Whether it, or a process that it left and that holds its output, runs.
    attended: bool,
}

type Commands = [(Option<String>, CommandState)];

impl<'a> CommandRow<'a> {
    fn of((name, report): &'a (Option<String>, CommandState)) -> Self {
        Self {
            name: name.as_deref(),
            program: &report.started.program,
            started_unix: report.started.unix,
            ended_unix: report.ended.as_ref().map(|ended| ended.unix),
            exit_code: report.ended.as_ref().map(|ended| ended.code),
            attended: report.is_attended,
        }
    }
}

fn commands_json(commands: &Commands) -> Result<String> {
    pretty(&commands.iter().map(CommandRow::of).collect::<Vec<_>>())
}

fn commands_table(commands: &Commands) -> String {
    let mut rows = vec![["NAME", "COMMAND", "STATUS", "AGE"].map(str::to_owned).to_vec()];
    rows.extend(commands.iter().map(|(name, report)| {
        vec![
            name.clone().unwrap_or_else(|| "-".to_owned()),
            report.started.program.clone(),
            match (&report.ended, report.is_attended) {
                (Some(ended), _) => terminal::harmless(&ended.how).replace('\n', " "),
                (None, true) => "running".to_owned(),
                (None, false) => "lost".to_owned(),
            },
            table::age(report.started.unix),
        ]
    }));
    table::render(&rows)
}

fn table(records: &[VmRecord]) -> String {
    let heads = ["ID", "NAME", "IMAGE", "COMMAND", "VMM", "CPUS", "MEMORY", "PORTS", "AGE"];
    let alive = records.iter().filter(|record| record.alive);
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(alive.map(|record| Row::of(record).cells()));
    table::render(&rows)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::background::{Ended, Started};

    pub(crate) fn record(alive: bool) -> VmRecord {
        VmRecord {
            id: "0123456789abcdef".parse().unwrap(),
            name: Some("web".into()),
            labels: [(IMAGE.to_owned(), "default".to_owned())].into(),
            vmm: "qemu".into(),
            owner: crate::vmm::Owner::this(),
            created_unix: u64::MAX,
            phase: Phase::Assigned,
            vcpus: 2,
            memory_mib: 512,
            ports: vec![PublishedPort { host: "127.0.0.1:8080".parse().unwrap(), port: 80 }],
            folder: PathBuf::new(),
            alive,
        }
    }

    #[test]
    fn the_table_lists_running_vms_only() {
        let text = table(&[record(true), record(false)]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[1].starts_with("0123456789abcdef   web    default   -"), "{text}");
        assert!(lines[1].contains("127.0.0.1:8080->80"), "{text}");
    }

    #[test]
    fn a_parked_vm_is_listed_as_parked() {
        let text = table(&[VmRecord { phase: Phase::Parked, ..record(true) }]);
        assert!(text.contains("default   (parked)   qemu"), "{text}");
    }

    #[test]
    fn commands_in_the_background_have_a_name_and_a_status() {
        let report = |ended: Option<u8>, is_attended| CommandState {
            started: Started { program: "make".into(), unix: u64::MAX },
            ended: ended.map(|code| Ended { code, how: format!("exit code {code}"), unix: 1 }),
            is_attended,
        };
        let commands = [
            (None, report(None, true)),
            (Some("a".into()), report(Some(3), true)),
            (Some("b".into()), report(None, false)),
        ];
        let text = commands_table(&commands);
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "-      make      running       0s",
                "a      make      exit code 3   0s",
                "b      make      lost          0s"
            ]
        );
        let rows: serde_json::Value =
            serde_json::from_str(&commands_json(&commands).unwrap()).unwrap();
        assert_eq!((&rows[1]["exit_code"], &rows[1]["attended"]), (&3.into(), &true.into()));
    }

    #[test]
    fn json_lists_vms_of_dead_runners_too() {
        let rows: serde_json::Value =
            serde_json::from_str(&json(&[record(true), record(false)]).unwrap()).unwrap();
        assert_eq!(rows[0]["ports"][0]["host"], "127.0.0.1:8080");
        assert_eq!(rows[0]["id"], "0123456789abcdef");
        assert_eq!(rows[0]["command"], serde_json::Value::Null);
        assert_eq!(rows[1]["alive"], false);
    }
}
