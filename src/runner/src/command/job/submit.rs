//! `runner job submit`: submits a job to the platform.
//!
//! ```text
//! 1 arguments   → prompt, variables, secrets, folders
//! 2 upload      the folders whose content the platform does not have
//! 3 submit      the job is queued, and stays queued if this process ends
//! 4 follow      to the job's end, with --follow
//! ```

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use egress::SecretHost;
use intercept::Secret;
use platform::{Mount, Submission, Submitted};
use serde_json::{Map, Value, json};

use super::events::{EventWriter, follow};
use super::given::{self, Folder, SecretFile};
use super::summary::print_waiting_reason;
use super::wait::print_outcome;
use crate::error::{Error, Result, Usage, file};
use crate::operator::{OperatorClient, Reconnect, RetryingClient, json_line, print};
use crate::output::{self, Output};
use crate::value::{self, Variable};

/// Shorter secrets are not masked: they occur in too many other texts.
const SHORTEST_MASKED: usize = 5;

const EXAMPLES: &str = "\
Examples:
  runner job submit --prompt 'fix the build' --artifact .:/home/user/workspace/app --follow
  runner job submit --prompt-file task.md --secret ANTHROPIC_API_KEY --for api.anthropic.com
  generate-task | runner job submit - --key nightly-2026-05-01
  runner job submit --agent mock --prompt 'uname -a' --follow
  job=$(runner job submit --prompt 'say hi') && runner job wait $job

Other users of this host see command lines in `ps`: pass secrets by name or in a file, and
confidential prompts in a file or on standard input.

Prints the job's id. With --follow, the exit code is the job's; it is 124 if the job timed out, and
125 if the job ended without an exit code, or if submitting or following failed. Ctrl-C ends
following, not the job. With --json and --follow each line is a JSON value: {\"runId\",\"isNew\"},
the events, then the job.";

/// Submit a job
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(group(clap::ArgGroup::new("task").required(true).args(["prompt", "prompt_file", "stdin"])))]
pub(super) struct Arguments {
    /// Prompt for the agent
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,

    /// File with the prompt
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,

    /// Read the prompt from standard input
    #[arg(value_name = "-", value_parser = ["-"], hide_possible_values = true)]
    stdin: Option<String>,

    /// Agent; `mock` runs the prompt with bash. Default: the resumed job's agent, else
    /// the agent in the runner's configuration, else claude
    #[arg(long, value_enum)]
    agent: Option<Agent>,

    /// Profile of the VM, as defined in the runner's configuration. Default: any
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,

    /// Group whose runners may take the job, like `team/gpu`. Default: the resumed job's group, else
    /// the platform's default
    #[arg(long, value_name = "GROUP", value_parser = value::group)]
    group: Option<String>,

    /// Environment variable for the agent; NAME alone takes the value from this process
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = value::os(|text| Ok(value::variable(text))))]
    env: Vec<Variable>,

    /// Environment variable that is masked in everything the job reports; NAME alone takes the value
    /// from this process, and =VALUE is visible to other users in `ps`
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = value::os(|text| Ok(value::variable(text))))]
    secret: Vec<Variable>,

    /// Secret with its value from a file, without the file's final newline
    #[arg(long, value_name = "NAME=FILE", value_parser = value::os(given::secret_file))]
    secret_file: Vec<SecretFile>,

    /// Host that may receive the secret (HTTPS only); `*.HOST` matches subdomains. The job gets a
    /// placeholder, which the runner's proxy replaces with the value
    #[arg(long = "for", id = "for_", value_name = "[NAME=]HOST", value_parser = SecretHost::parse)]
    for_: Vec<SecretHost>,

    /// Folder to copy into the VM at MOUNT; the platform stores its content at the job's end. NAME
    /// defaults to the folder's name
    #[arg(long, value_name = "[NAME=]DIR:MOUNT", value_parser = value::os(given::folder))]
    artifact: Vec<Folder>,

    /// Resume from the latest checkpoint of a job: its session and artifacts, not its variables
    #[arg(long, value_name = "JOB")]
    resume: Option<String>,

    /// Time limit of the job, like 30s or 5m
    #[arg(long, value_name = "TIME", value_parser = base::duration::parse)]
    timeout: Option<Duration>,

    /// Idempotency key: if a job was submitted with this key, print that job's id
    #[arg(long)]
    key: Option<String>,

    /// Follow the agent's events until the job ends
    #[arg(short, long)]
    pub(super) follow: bool,

    #[command(flatten)]
    reconnect: Reconnect,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// An agent that a job may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Agent {
    Claude,
    Codex,
    Mock,
}

impl Agent {
    /// What the platform calls its command-line interface.
    fn name(self) -> &'static str {
        match self {
            Self::Claude | Self::Mock => "claude-code",
            Self::Codex => "codex",
        }
    }

    /// The members of the execution context that select Claude Code or its mock.
    fn context(self) -> Map<String, Value> {
        let (name, value) = match self {
            Self::Claude => ("debugNoMockClaude", true.into()),
            // Our own flag: without it a platform selects no mock.
            Self::Mock => ("featureFlags", json!({"mockClaude": true})),
            Self::Codex => return Map::new(),
        };
        Map::from_iter([(name.to_owned(), value)])
    }
}

pub(super) fn run(operator: &OperatorClient<'_>, arguments: Arguments) -> Result<u8> {
    let global = operator.global;
    // 1
    let mut submission = arguments.understand()?;
    let folders = given::artifacts(&arguments.artifact)?;
    if let Some(id) = &arguments.resume {
        submission.resume = Some(operator.job(id)?.run_id);
    }
    // 2
    let upload = |folder| operator.ask(|client| client.upload(folder));
    submission.artifacts = folders.iter().map(upload).collect::<Result<Vec<Mount>>>()?;
    // 3
    let submitted = operator.ask(|client| client.submit(&submission))?;
    print_waiting_reason(submitted.waits.as_deref(), global);
    if arguments.follow {
        return follow_submitted(operator, &submitted, &arguments);
    }
    if arguments.json {
        print(&json_line(&submitted)?)?;
    } else {
        output::line(submitted.run_id)?;
    }
    Ok(0)
}

/// 4
fn follow_submitted(
    operator: &OperatorClient<'_>,
    submitted: &Submitted,
    arguments: &Arguments,
) -> Result<u8> {
    let (run, is_json, global) = (submitted.run_id, arguments.json, operator.global);
    if !is_json && !global.quiet {
        let again = if submitted.is_new { "" } else { ", submitted before with this key" };
        output::remark(format_args!("job {run}{again}"));
    }
    let job = operator.with_retries(run, &arguments.reconnect, |retrying, output| {
        if is_json {
            return follow_as_json(retrying, submitted, output);
        }
        follow(retrying, run, 0, &mut EventWriter::new(output.stdout(), false))?;
        retrying.ask(|client| client.wait(run, None))
    })?;
    Ok(print_outcome(&job, global))
}

fn follow_as_json(
    retrying: &RetryingClient<'_>,
    submitted: &Submitted,
    output: &mut Output,
) -> Result<platform::Job> {
    let run = submitted.run_id;
    let failed = |source| Error::Output { source };
    output.stdout().write_all(json_line(submitted)?.as_bytes()).map_err(failed)?;
    follow(retrying, run, 0, &mut EventWriter::new(output.stdout(), true))?;
    let job = retrying.ask(|client| client.wait(run, None))?;
    output.stdout().write_all(json_line(&job)?.as_bytes()).map_err(failed)?;
    Ok(job)
}

impl Arguments {
    /// The submission without its artifacts and the resumed job, which the platform resolves.
    fn understand(&self) -> Result<Submission> {
        let secrets = given::secrets(&self.secret, &self.secret_file)?;
        for (name, _) in secrets.iter().filter(|(_, value)| value.len() < SHORTEST_MASKED) {
            log::warn!("a secret is too short to be masked; name={name}");
        }
        let mut context = self.agent.map(Agent::context).unwrap_or_default();
        let held = egress::restrict_to_hosts(&mut secrets.clone(), &self.for_)?;
        if !held.is_empty() {
            let told = |one: &Secret| {
                let Secret { placeholder, hosts, .. } = one;
                (one.name.clone(), json!({"placeholder": placeholder, "hosts": hosts}))
            };
            let told: Map<_, _> = held.iter().map(told).collect();
            context.insert("heldSecrets".to_owned(), told.into());
        }
        let timeout_ms = self.timeout.map(|time| u64::try_from(time.as_millis()));
        Ok(Submission {
            prompt: self.prompt()?,
            agent: self.agent.map(|agent| agent.name().to_owned()),
            profile: self.profile.clone(),
            group: self.group.clone(),
            environment: given::environment(&self.env)?,
            secrets,
            timeout_ms: timeout_ms.and_then(std::result::Result::ok),
            key: self.key.clone(),
            context,
            ..Submission::default()
        })
    }

    fn prompt(&self) -> Result<String> {
        if let Some(prompt) = &self.prompt {
            return Ok(prompt.clone());
        }
        let mut bytes = Vec::new();
        match &self.prompt_file {
            Some(path) => bytes = fs::read(path).map_err(file("read", path))?,
            None => {
                let read = io::stdin().read_to_end(&mut bytes);
                read.map_err(|source| Error::Stdin { source })?;
            }
        }
        String::from_utf8(bytes).map_err(|_| Usage::PromptNotText.into())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn line(flags: &[&str]) -> std::result::Result<Arguments, clap::Error> {
        Line::try_parse_from([&["submit"], flags].concat()).map(|line| line.arguments)
    }

    fn understood(flags: &[&str]) -> Submission {
        line(flags).unwrap().understand().unwrap()
    }

    #[test]
    fn a_submission_has_exactly_one_source_of_its_prompt() {
        assert!(line(&[]).is_err());
        assert!(line(&["--prompt", "x", "-"]).is_err());
        assert!(line(&["--prompt", "x", "--prompt-file", "y"]).is_err());
        assert!(line(&["x"]).is_err());
        assert!(line(&["-"]).is_ok());
    }

    #[test]
    fn a_prompt_may_begin_with_a_hyphen() {
        assert_eq!(understood(&["--prompt", "-n hello"]).prompt, "-n hello");
        assert_eq!(understood(&["--prompt", "--help", "--key", "k"]).prompt, "--help");
    }

    #[test]
    fn a_prompt_that_looks_like_a_flag_is_a_prompt_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("task");
        fs::write(&path, "--help\n").unwrap();
        let submission = understood(&["--prompt-file", path.to_str().unwrap()]);
        assert_eq!(submission.prompt, "--help\n");
    }

    #[test]
    fn the_mock_is_an_agent_of_claude_that_the_context_selects() {
        let mock = understood(&["--prompt", "x", "--agent", "mock"]);
        assert_eq!(mock.agent.as_deref(), Some("claude-code"));
        assert_eq!(mock.context["featureFlags"]["mockClaude"], true);
        let claude = understood(&["--prompt", "x", "--agent", "claude"]);
        assert_eq!(claude.context["debugNoMockClaude"], true);
        let codex = understood(&["--prompt", "x", "--agent", "codex"]);
        assert_eq!((codex.agent.as_deref(), codex.context.len()), (Some("codex"), 0));
        assert_eq!(understood(&["--prompt", "x"]).agent, None);
    }

    #[test]
    fn a_secret_for_a_host_is_held_by_a_placeholder_and_the_context_has_no_value() {
        let flags = ["--prompt", "x", "--secret", "S=hunter2", "--for", "api.example.com"];
        let submission = understood(&flags);
        assert_eq!(submission.secrets["S"], "hunter2");
        let held = &submission.context["heldSecrets"]["S"];
        assert_eq!(held["hosts"], json!(["api.example.com"]));
        assert!(!submission.context["heldSecrets"].to_string().contains("hunter2"));
    }

    #[test]
    fn flags_set_the_members_of_a_submission() {
        let flags = ["--prompt", "x", "--env", "A=1", "--secret", "S=hunter2", "--timeout", "5m"];
        let more = ["--key", "k", "--profile", "p", "--group", "a/b"];
        let submission = understood(&[&flags[..], &more].concat());
        assert_eq!(submission.environment["A"], "1");
        assert_eq!(submission.secrets["S"], "hunter2");
        assert_eq!(submission.timeout_ms, Some(300_000));
        assert_eq!(
            (submission.key.as_deref(), submission.profile.as_deref()),
            (Some("k"), Some("p"))
        );
        assert_eq!(submission.group.as_deref(), Some("a/b"));
        assert!(line(&["--prompt", "x", "--group", "gpu"]).is_err());
    }
}
