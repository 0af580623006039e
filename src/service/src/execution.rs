//! Runs a job in its VM. The numbers are the stages listed in `lib.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::date::epoch_ms;
use contract::guest::{self, AGENT, DOWNLOAD, HOME, INBOX, USER};
use contract::{AgentOutcome, Completion, env};
use intercept::Reachable;
use sandbox::{
    Event, ExecRequest, Execution, Image, Interception, Network, Outcome, Policy, Sandbox,
    SandboxConfig, SandboxId, Stream, TreeItem, User, label,
};

use super::config::Profile;
use super::context::ExecutionContext;
use super::endpoint;
use super::firewall;
use super::inbox::Inbox;
use super::job::{Images, Job};
use super::pool::{BaseConfig, PoolRequest, PooledVm};
use super::stage::Stages;
use super::upload::Upload;
use super::{mount, session, shortage};
use crate::error::{Error, Result};

/// The limit for a guest to accept a command.
const EXEC_TIMEOUT: Duration = Duration::from_secs(60);
/// The limit for the download of all storages. `guest-download` also limits silence of the server.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// How much of the end of a program's standard error is kept, in bytes.
const STDERR_TAIL: usize = 2048;
/// The output cap of the agent and the download, in bytes.
const OUTPUT_CAP: u64 = 16 << 20;
/// The largest `outcome.json` that is read, in bytes.
const MAX_OUTCOME: usize = 64 << 10;
/// The longest error text that is reported, in characters.
const MAX_ERROR: usize = 4096;
/// The longest session ID that is reported, in bytes.
const MAX_SESSION_ID: usize = 256;

/// Runs the job and returns its completion. The VM is left in `slot`, also after an error.
pub(super) fn execute(
    job: &Job,
    context: &ExecutionContext,
    network_record: Option<&Path>,
    slot: &mut Option<PooledVm>,
    stages: &mut Stages,
) -> Result<Completion> {
    let reachable = endpoint::of_job(context, job.shared.source.access());
    let (context, interception) = &firewall::intercept(job, context, &reachable, network_record)?;
    // 3 start
    if let Some(submitted) = context.api_start_time {
        let waited = Duration::from_millis(epoch_ms().saturating_sub(submitted));
        stages.add("api_to_vm_start", waited, true);
    }
    let config = config(job, context, interception, &reachable)?;
    let request = PoolRequest {
        profile: &job.profile.name,
        key: context.reuse_key.as_deref(),
        config: &config,
        cancellation: job.cancellation.vm_start(),
        set_vm: &|vm| job.cancellation.set_vm(vm),
    };
    let pooled = slot.insert(stages.measure("vm_create", || job.shared.pool.claim(&request))?);
    let PooledVm { sandbox, reuse, session, .. } = pooled;
    let sandbox = &**sandbox;
    job.cancellation.check()?;
    // 4 fill
    let access = job.shared.source.access();
    let mut inbox = Inbox::of(context, access, job.profile.mock_claude);
    let disk = Disk::of(&config.image);
    inbox.set_limits(job.shared.cancel_grace, disk.mib);
    stages.measure("files", || fill(sandbox, context, &inbox))?;
    if context.resume_session.is_some() {
        let restore = || session::restore(sandbox, context, access, job.cancellation.stop());
        stages.measure("session_restore", restore)?;
    }
    if context.has_storages() {
        stages.measure("storage_download", || download(job, sandbox, context, disk))?;
    }
    job.cancellation.check()?;
    // 5 run
    let ended = stages.measure("agent", || run_agent(job, sandbox, inbox, disk))?;
    // 6 outcome
    let (completion, session_id) =
        stages.measure("outcome", || outcome(sandbox, context, ended))?;
    *session = session_id;
    Ok(Completion { sandbox_reuse_result: *reuse, ..completion })
}

/// The configuration of an unassigned VM of a profile. It always has a network, over which its jobs reach
/// the platform.
pub fn base_config(profile: &Profile, image: Image) -> Result<SandboxConfig> {
    Ok(SandboxConfig {
        id: SandboxId::random()?,
        name: None,
        labels: BTreeMap::from([(label::IMAGE.to_owned(), profile.image.clone())]),
        image,
        vcpus: profile.resources.vcpus,
        memory_mib: profile.resources.memory_mib,
        disk_limits: profile.disk_limits,
        network: Some(Network::default()),
        hostname: "vm".to_owned(),
        timezone: None,
        host_authorities: if profile.host_ca {
            egress::host_ca::read_all().certificates
        } else {
            Vec::new()
        },
    })
}

/// As [`base_config`], with the images that `images` finds.
pub(crate) fn base_config_with(images: Arc<Images>) -> Arc<BaseConfig> {
    Arc::new(move |profile| base_config(profile, images(profile).map_err(Error::Image)?))
}

fn config(
    job: &Job,
    context: &ExecutionContext,
    interception: &Option<Interception>,
    reachable: &[Reachable],
) -> Result<SandboxConfig> {
    let image = (job.shared.images)(&job.profile).map_err(Error::Image)?;
    let service = job.shared.source.access().service;
    let network = match (&job.profile.network, service) {
        (None, None) => None,
        (network, service) => {
            let isolated = || Network { policy: Policy::none(), ..Network::default() };
            let mut network = network.clone().unwrap_or_else(isolated);
            network.services.extend(service);
            network.reachable = endpoint::sockets(reachable);
            network.intercept.clone_from(interception);
            Some(network)
        }
    };
    let name = format!("job-{}", job.run.short());
    let mut config = base_config(&job.profile, image)?;
    config.labels.insert(label::COMMAND.to_owned(), AGENT.to_owned());
    config.host_authorities.extend(job.shared.source.access().authorities.clone());
    Ok(SandboxConfig {
        name: Some(name.clone()),
        network,
        hostname: name,
        timezone: context.timezone(),
        ..config
    })
}

/// Writes the inbox, and creates the mount points outside of the home.
fn fill(sandbox: &dyn Sandbox, context: &ExecutionContext, inbox: &Inbox) -> Result<()> {
    if !inbox.files.is_empty() {
        let mut upload = Upload::begin(sandbox, HOME)?;
        for (name, content) in &inbox.files {
            upload.file(&Path::new(INBOX).join(name), content.len() as u64)?;
            upload.data(content)?;
        }
        upload.finish()?;
    }
    mount::create(sandbox, context)
}

fn download(
    job: &Job,
    sandbox: &dyn Sandbox,
    context: &ExecutionContext,
    disk: Disk,
) -> Result<()> {
    let manifest = context.storage_manifest.as_ref().map(ToString::to_string).unwrap_or_default();
    let request = ExecRequest {
        argv: vec![DOWNLOAD.into(), "--manifest-stdin".into()],
        env: vec![("HOME".into(), HOME.into()), (env::RUN_ID.into(), job.run.to_string().into())],
        user: Some(User::Name(USER.to_owned())),
        stdin: true,
        timeout: Some(DOWNLOAD_TIMEOUT),
        output_cap: Some(OUTPUT_CAP),
        ..ExecRequest::default()
    };
    let execution = sandbox.exec(&request, Instant::now() + EXEC_TIMEOUT)?;
    execution.write_stdin(manifest.as_bytes(), Some(Instant::now() + EXEC_TIMEOUT))?;
    execution.close_stdin()?;
    let ended = wait(&*execution, job, disk)?;
    match ended.outcome {
        Outcome::Exited(0) => Ok(()),
        Outcome::FailedToStart { message, .. } => Err(Error::Storages { said: message }),
        Outcome::TimedOut => Err(Error::Storages { said: "the download timed out".to_owned() }),
        _ => Err(Error::Storages { said: ended.explain(ended.error_line.clone()) }),
    }
}

/// Starts the agent as root. It switches to the user in `VM0_RUN_AS` first, but keeps the capabilities to read
/// root's files in the job's folders and to kill root's processes.
fn run_agent(job: &Job, sandbox: &dyn Sandbox, inbox: Inbox, disk: Disk) -> Result<Ended> {
    let user = [(env::RUN_AS, USER), ("USER", USER), ("LOGNAME", USER)];
    let user = user.map(|(name, value)| (name.into(), value.into()));
    let request = ExecRequest {
        argv: vec![AGENT.into()],
        env: inbox.environment.into_iter().chain(user).collect(),
        cwd: Some(HOME.into()),
        output_cap: Some(OUTPUT_CAP),
        ..ExecRequest::default()
    };
    let execution: Arc<dyn Execution> =
        sandbox.exec(&request, Instant::now() + EXEC_TIMEOUT)?.into();
    job.cancellation.set_agent(&execution)?;
    let ended = wait(&*execution, job, disk);
    job.cancellation.clear_agent();
    ended
}

/// The end of a program.
struct Ended {
    outcome: Outcome,
    /// The last line of its standard error.
    error_line: String,
    /// A message about a lack of memory or of space on the host's disk.
    shortage: Option<String>,
    disk: Disk,
}

/// A VM's disk.
#[derive(Debug, Clone, Copy)]
struct Disk {
    /// Its size, if known.
    mib: Option<u64>,
}

impl Disk {
    fn of(image: &Image) -> Self {
        let size = fs::metadata(&image.disk_template).map(|metadata| metadata.len());
        Self { mib: size.ok().map(|bytes| bytes >> 20) }
    }

    /// A message if `text` reports a full disk without the remedy.
    fn shortage(self, text: &str) -> Option<String> {
        let is_full = text.contains("os error 28") && !text.contains("give it more with `disk`");
        is_full.then(|| shortage::disk_full(self.mib))
    }
}

impl Ended {
    /// Appends the shortages that `text` does not explain itself.
    fn explain(&self, text: String) -> String {
        let disk_full = self.disk.shortage(&text);
        let reasons = self.shortage.iter().chain(&disk_full);
        reasons.fold(text, |text, reason| format!("{text}: {reason}"))
    }
}

/// Waits for a command's end. Its own time limit and the job's cancellation bound the wait.
fn wait(execution: &dyn Execution, job: &Job, disk: Disk) -> Result<Ended> {
    let mut tail = Vec::new();
    loop {
        match execution.next(None)? {
            Event::Output(Stream::Stderr, data) => {
                tail.extend_from_slice(&data);
                let excess = tail.len().saturating_sub(STDERR_TAIL);
                tail.drain(..excess);
            }
            Event::Output(..) | Event::Ended(_) => {}
            Event::Exit(exit) => {
                let memory_mib = job.profile.resources.memory_mib;
                let memory = exit
                    .memory_shortage(memory_mib)
                    .map(|text| format!("{text}: give it more with `memory_mib`"));
                let host_disk =
                    job.shared.journal.full_disk().map(|path| shortage::host_disk_full(&path));
                let shortage = memory.or(host_disk);
                return Ok(Ended {
                    outcome: exit.outcome,
                    error_line: last_line(&tail),
                    shortage,
                    disk,
                });
            }
        }
    }
}

fn last_line(tail: &[u8]) -> String {
    let text = String::from_utf8_lossy(tail);
    let line = text
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("it wrote no error message");
    sanitize(line)
}

/// A guest's text without control characters, in bounded length.
fn sanitize(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(plain).take(MAX_ERROR).collect()
}

/// The completion according to the agent's `outcome.json` and its exit code, and the session ID.
fn outcome(
    sandbox: &dyn Sandbox,
    context: &ExecutionContext,
    ended: Ended,
) -> Result<(Completion, Option<String>)> {
    let code = ended.outcome.exit_code();
    let error_line = match &ended.outcome {
        Outcome::FailedToStart { message, .. } => message,
        _ => &ended.error_line,
    };
    let said = ended.explain(context.masked(error_line.clone()));
    let no_outcome = || Error::NoOutcome { code, said: said.clone() };
    let path = guest::run_file(context.run_id, guest::OUTCOME);
    let json = read(sandbox, Path::new(&path));
    let outcome = json.and_then(|json| serde_json::from_slice::<AgentOutcome>(&json).ok());
    let Some(outcome) = outcome else {
        log::warn!("the agent left no outcome; run={} exit_code={code}", context.run_id);
        let completion = Completion {
            last_event_sequence: acknowledged(sandbox, context),
            sandbox_id: Some(sandbox.id().to_string()),
            ..Completion::failed(no_outcome().chain())
        };
        return Ok((completion, None));
    };
    if outcome.warnings > 0 || outcome.partial_checkpoint_id.is_some() {
        let (run, is_partial) = (context.run_id, outcome.partial_checkpoint_id.is_some());
        log::info!("checkpoint kept; run={run} partial={is_partial} warnings={}", outcome.warnings);
    }
    // A success needs both: exit code 0 and an outcome of 0.
    let exit_code = if outcome.exit_code == 0 { code } else { outcome.exit_code };
    let error = outcome.error.filter(|_| exit_code != 0);
    let default_error = || format!("the agent ended with exit code {exit_code}");
    let error = error.map(|text| sanitize(&text));
    let error = error.or_else(|| (exit_code != 0).then(default_error));
    let completion = Completion {
        exit_code,
        error: error.map(|text| ended.explain(context.masked(text))),
        last_event_sequence: outcome.last_event_sequence,
        sandbox_id: Some(sandbox.id().to_string()),
        ..Completion::default()
    };
    let session = outcome.session_id.filter(|id| id.len() <= MAX_SESSION_ID && sanitize(id) == *id);
    Ok((completion, session))
}

/// The number of the last event up to which the platform acknowledged all. A killed agent leaves it in a file.
fn acknowledged(sandbox: &dyn Sandbox, context: &ExecutionContext) -> Option<u64> {
    let path = guest::run_file(context.run_id, guest::ACKNOWLEDGED);
    let text = String::from_utf8(read(sandbox, Path::new(&path))?).ok()?;
    text.trim().parse().ok()
}

/// The content of a small file of the guest; `None` if it is missing, large or not a single file.
fn read(sandbox: &dyn Sandbox, path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut entries = 0;
    let mut reader = sandbox.read(path, session::step_deadline()).ok()?;
    while let Some(item) = reader.next(session::step_deadline()).ok()? {
        match item {
            TreeItem::Entry(_) => entries += 1,
            TreeItem::Data(data) => bytes.extend_from_slice(&data),
        }
        if entries > 1 || bytes.len() > MAX_OUTCOME {
            return None;
        }
    }
    Some(bytes)
}
