//! A job in its VM. The numbers are those of the stages in `service.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_common::{env, epoch_ms};
use intercept::Reachable;
use sandbox::{
    Event, ExecRequest, Execution, Image, Interception, Network, Outcome, Policy, Sandbox,
    SandboxConfig, SandboxId, Stream, TreeItem, User,
};
use serde::Deserialize;

use super::config::Profile;
use super::context::Context;
use super::delivery::Delivery;
use super::endpoint;
use super::firewall;
use super::inbox::{HOME, INBOX, Inbox};
use super::job::Job;
use super::journal::Completion;
use super::pool::{Taken, Wish};
use super::stage::Stages;
use super::{mount, session};
use crate::error::{Error, Result};
use crate::{label, shortage};

/// How long a guest may take to accept a command.
const HAND_OVER: Duration = Duration::from_secs(60);
/// How long storages may take, which have a limit of their own for silence.
const STORAGES: Duration = Duration::from_secs(30 * 60);

const USER: &str = "user";
const AGENT: &str = "guest-agent";
const DOWNLOAD: &str = "guest-download";

/// How much of a program's last words is kept.
const LAST_WORDS: usize = 2048;
/// How much output is looked at.
const OUTPUT: u64 = 16 << 20;
/// The longest outcome that makes sense.
const LONGEST_OUTCOME: usize = 64 << 10;
/// The longest error text, in characters.
const LONGEST_ERROR: usize = 4096;
/// The longest session's name that a platform is told, in bytes.
const LONGEST_SESSION: usize = 256;

/// Does it; the VM is left in `slot`.
pub(super) fn work(
    job: &Job,
    context: &Context,
    network_record: Option<&Path>,
    slot: &mut Option<Taken>,
    stages: &mut Stages,
) -> Result<Completion> {
    let reachable = endpoint::of_job(context, job.crew.source.access());
    let (context, interception) = &firewall::intercept(job, context, &reachable, network_record)?;
    // 3 start
    if let Some(asked) = context.api_start_time {
        let waited = Duration::from_millis(epoch_ms().saturating_sub(asked));
        stages.add("api_to_vm_start", waited, true);
    }
    let config = config(job, context, interception, &reachable)?;
    let wish = Wish {
        profile: &job.profile.name,
        key: context.reuse_key.as_deref(),
        config: &config,
        cancellation: job.leash.cancellation(),
        hold: &|vm| job.leash.hold_vm(vm),
    };
    let taken = slot.insert(stages.measure("vm_create", || job.crew.pool.claim(&wish))?);
    let Taken { sandbox, reuse, session, .. } = taken;
    let sandbox = &**sandbox;
    job.leash.check()?;
    // 4 fill
    let access = job.crew.source.access();
    let mut inbox = Inbox::of(context, access, job.profile.mock_claude);
    let disk = Disk::of(&config.image);
    inbox.bound(job.crew.cancel_grace, disk.mib);
    stages.measure("files", || fill(sandbox, context, &inbox))?;
    if context.resume_session.is_some() {
        let restore = || session::restore(sandbox, context, access, job.leash.stop());
        stages.measure("session_restore", restore)?;
    }
    if context.has_storages() {
        stages.measure("storage_download", || download(job, sandbox, context, disk))?;
    }
    job.leash.check()?;
    // 5 run
    let ended = stages.measure("agent", || run_agent(job, sandbox, inbox, disk))?;
    // 6 outcome
    let (completion, named) = stages.measure("outcome", || outcome(sandbox, context, ended))?;
    *session = named;
    Ok(Completion { sandbox_reuse_result: *reuse, ..completion })
}

/// A VM of a profile that is nobody's. It has a network whatever the profile says: by it jobs reach the
/// platform.
pub(crate) fn blank(profile: &Profile, image: Image) -> Result<SandboxConfig> {
    Ok(SandboxConfig {
        id: SandboxId::random()?,
        name: None,
        labels: BTreeMap::from([(label::IMAGE.to_owned(), profile.image.clone())]),
        image,
        vcpus: profile.amount.vcpus,
        memory_mib: profile.amount.memory_mib,
        disk_limits: profile.disk_limits,
        network: Some(Network::default()),
        hostname: "vm".to_owned(),
        timezone: None,
        host_authorities: profile.host_ca.certificates(),
    })
}

fn config(
    job: &Job,
    context: &Context,
    interception: &Option<Interception>,
    reachable: &[Reachable],
) -> Result<SandboxConfig> {
    let image = (job.crew.images)(&job.profile)?;
    let service = job.crew.source.access().service;
    let network = match (&job.profile.network, service) {
        (None, None) => None,
        (network, service) => {
            let nothing = || Network { policy: Policy::none(), ..Network::default() };
            let mut network = network.clone().unwrap_or_else(nothing);
            network.services.extend(service);
            network.reachable = endpoint::sockets(reachable);
            network.intercept.clone_from(interception);
            Some(network)
        }
    };
    let name = format!("job-{}", job.run.short());
    let mut config = blank(&job.profile, image)?;
    config.labels.insert(label::COMMAND.to_owned(), AGENT.to_owned());
    Ok(SandboxConfig {
        name: Some(name.clone()),
        network,
        hostname: name,
        timezone: context.timezone(),
        ..config
    })
}

/// The inbox, and the places of folders outside of the home.
fn fill(sandbox: &dyn Sandbox, context: &Context, inbox: &Inbox) -> Result<()> {
    if !inbox.files.is_empty() {
        let mut delivery = Delivery::begin(sandbox, HOME)?;
        for (name, content) in &inbox.files {
            delivery.file(&Path::new(INBOX).join(name), content.len() as u64)?;
            delivery.data(content)?;
        }
        delivery.finish()?;
    }
    mount::make(sandbox, context)
}

fn download(job: &Job, sandbox: &dyn Sandbox, context: &Context, disk: Disk) -> Result<()> {
    let manifest = context.storage_manifest.as_ref().map(ToString::to_string).unwrap_or_default();
    let request = ExecRequest {
        argv: vec![DOWNLOAD.into(), "--manifest-stdin".into()],
        env: vec![("HOME".into(), HOME.into()), (env::RUN_ID.into(), job.run.to_string().into())],
        user: Some(User::Name(USER.to_owned())),
        stdin: true,
        timeout: Some(STORAGES),
        output_cap: Some(OUTPUT),
        ..ExecRequest::default()
    };
    let execution = sandbox.exec(&request, Instant::now() + HAND_OVER)?;
    execution.write_stdin(manifest.as_bytes(), Some(Instant::now() + HAND_OVER))?;
    execution.close_stdin()?;
    let ended = attend(&*execution, job, disk)?;
    match ended.outcome {
        Outcome::Exited(0) => Ok(()),
        Outcome::FailedToStart { message, .. } => Err(Error::Storages { said: message }),
        Outcome::TimedOut => Err(Error::Storages { said: "they took too long".to_owned() }),
        _ => Err(Error::Storages { said: ended.explained(ended.said.clone()) }),
    }
}

/// Starts it as root, with the user that it becomes before anything else: it keeps the rights to read
/// what root leaves in the job's folders, and to end root's processes.
fn run_agent(job: &Job, sandbox: &dyn Sandbox, inbox: Inbox, disk: Disk) -> Result<Ended> {
    let user = [(env::RUN_AS, USER), ("USER", USER), ("LOGNAME", USER)];
    let user = user.map(|(name, value)| (name.into(), value.into()));
    let request = ExecRequest {
        argv: vec![AGENT.into()],
        env: inbox.environment.into_iter().chain(user).collect(),
        cwd: Some(HOME.into()),
        output_cap: Some(OUTPUT),
        ..ExecRequest::default()
    };
    let execution: Arc<dyn Execution> = sandbox.exec(&request, Instant::now() + HAND_OVER)?.into();
    job.leash.hold_agent(&execution)?;
    let ended = attend(&*execution, job, disk);
    job.leash.let_go_of_agent();
    ended
}

/// How a program of ours ended.
struct Ended {
    outcome: Outcome,
    /// Its last words.
    said: String,
    /// What it had too little of, if it had: memory, the host's disk.
    shortage: Option<String>,
    disk: Disk,
}

/// A VM's disk.
#[derive(Debug, Clone, Copy)]
struct Disk {
    /// Its size, if that is known.
    mib: Option<u64>,
}

impl Disk {
    fn of(image: &Image) -> Self {
        let size = fs::metadata(&image.disk_template).map(|metadata| metadata.len());
        Self { mib: size.ok().map(|bytes| bytes >> 20) }
    }

    /// That it is full, if a program says that it is and no more.
    fn shortage(self, text: &str) -> Option<String> {
        let is_full = text.contains("os error 28") && !text.contains("give it more with `disk`");
        is_full.then(|| shortage::disk_full(self.mib))
    }
}

impl Ended {
    /// What is said of it, with what it may not know itself.
    fn explained(&self, text: String) -> String {
        let of_disk = self.disk.shortage(&text);
        let reasons = self.shortage.iter().chain(&of_disk);
        reasons.fold(text, |text, reason| format!("{text}: {reason}"))
    }
}

/// Waits for a command's end; its limits are known elsewhere.
fn attend(execution: &dyn Execution, job: &Job, disk: Disk) -> Result<Ended> {
    let mut tail = Vec::new();
    loop {
        match execution.next(None)? {
            Event::Output(Stream::Stderr, data) => {
                tail.extend_from_slice(&data);
                let over = tail.len().saturating_sub(LAST_WORDS);
                tail.drain(..over);
            }
            Event::Output(..) | Event::Ended(_) => {}
            Event::Exit(exit) => {
                let memory_mib = job.profile.amount.memory_mib;
                let of_memory = shortage::describe(&exit, memory_mib)
                    .map(|text| format!("{text}: give it more with `memory_mib`"));
                let of_host =
                    job.crew.journal.full_disk().map(|path| shortage::host_disk_full(&path));
                let shortage = of_memory.or(of_host);
                return Ok(Ended { outcome: exit.outcome, said: last_line(&tail), shortage, disk });
            }
        }
    }
}

fn last_line(tail: &[u8]) -> String {
    let text = String::from_utf8_lossy(tail);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    harmless(line)
}

/// A text of a guest's as it may be in a record.
fn harmless(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(plain).take(LONGEST_ERROR).collect()
}

/// What the agent left, as far as it can be true, and the session that it named.
fn outcome(
    sandbox: &dyn Sandbox,
    context: &Context,
    ended: Ended,
) -> Result<(Completion, Option<String>)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Left {
        exit_code: u8,
        error: Option<String>,
        last_event_sequence: Option<u64>,
        session_id: Option<String>,
        #[serde(default)]
        warnings: u32,
        partial_checkpoint_id: Option<String>,
    }
    let code = ended.outcome.exit_code();
    let said = match &ended.outcome {
        Outcome::FailedToStart { message, .. } => message,
        _ => &ended.said,
    };
    let said = ended.explained(context.masked(said.clone()));
    let no_outcome = || Error::NoOutcome { code, said: said.clone() };
    let path = format!("{HOME}/.vm0/guest-agent/runs/{}/outcome.json", context.run_id);
    let json = read(sandbox, Path::new(&path));
    let left = json.and_then(|json| serde_json::from_slice::<Left>(&json).ok());
    let Some(left) = left else {
        log::warn!("the agent left no outcome; run={} exit_code={code}", context.run_id);
        let completion = Completion {
            last_event_sequence: acknowledged(sandbox, context),
            sandbox_id: Some(sandbox.id().to_string()),
            ..Completion::failed(no_outcome().chain())
        };
        return Ok((completion, None));
    };
    if left.warnings > 0 || left.partial_checkpoint_id.is_some() {
        let (run, is_partial) = (context.run_id, left.partial_checkpoint_id.is_some());
        log::info!("kept; run={run} partial={is_partial} warnings={}", left.warnings);
    }
    // Success is what both say.
    let exit_code = if left.exit_code == 0 { code } else { left.exit_code };
    let error = left.error.filter(|_| exit_code != 0);
    let unexplained = || format!("the agent ended with exit code {exit_code}");
    let error = error.map(|text| harmless(&text));
    let error = error.or_else(|| (exit_code != 0).then(unexplained));
    let completion = Completion {
        exit_code,
        error: error.map(|text| ended.explained(context.masked(text))),
        last_event_sequence: left.last_event_sequence,
        sandbox_id: Some(sandbox.id().to_string()),
        ..Completion::default()
    };
    let session = left.session_id.filter(|id| id.len() <= LONGEST_SESSION && harmless(id) == *id);
    Ok((completion, session))
}

/// What an agent leaves that was killed: the number of the last event such that it and all before it
/// were acknowledged.
fn acknowledged(sandbox: &dyn Sandbox, context: &Context) -> Option<u64> {
    let path = format!("{HOME}/.vm0/guest-agent/runs/{}/acknowledged", context.run_id);
    let text = String::from_utf8(read(sandbox, Path::new(&path))?).ok()?;
    text.trim().parse().ok()
}

/// A small file of the guest's; none if it is not one.
fn read(sandbox: &dyn Sandbox, path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut entries = 0;
    let mut reader = sandbox.read(path, session::step()).ok()?;
    while let Some(item) = reader.next(session::step()).ok()? {
        match item {
            TreeItem::Entry(_) => entries += 1,
            TreeItem::Data(data) => bytes.extend_from_slice(&data),
        }
        if entries > 1 || bytes.len() > LONGEST_OUTCOME {
            return None;
        }
    }
    Some(bytes)
}
