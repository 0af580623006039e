//! The command line, environment and standard input of each agent's CLI.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use contract::env;
use guest_common::RunFolder;
use serde_json::json;

use crate::Result;
use crate::config::{Agent, Config};

/// Variables that turn off telemetry, updates and terminal features of Claude Code.
const QUIET: [&str; 6] = [
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
    "DISABLE_AUTOUPDATER",
    "DISABLE_ERROR_REPORTING",
    "DISABLE_TELEMETRY",
    "CLAUDE_CODE_DISABLE_TERMINAL_TITLE",
    "DISABLE_INSTALLATION_CHECKS",
];

/// Files in the run's folder that are passed to the CLI by path.
const SETTINGS: &str = "settings.json";
const SYSTEM_PROMPT: &str = "system-prompt.txt";

/// A longer system prompt is passed as a file.
const LONG: usize = 64 << 10;

impl Agent {
    /// Its name in the platform's API.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Agent::Claude { .. } => "claude-code",
            Agent::Codex { .. } => "codex",
        }
    }
}

/// The program and its arguments. The prompt goes to standard input: see [`input`].
pub(crate) fn arguments(
    config: &Config,
    folder: &RunFolder,
    working_dir: &Path,
) -> Result<(OsString, Vec<OsString>)> {
    Ok(match &config.agent {
        Agent::Claude { program } => (program.clone(), claude(config, folder)?),
        Agent::Codex { model } => ("codex".into(), codex(config, model.as_deref(), working_dir)),
    })
}

fn claude(config: &Config, folder: &RunFolder) -> Result<Vec<OsString>> {
    let mut arguments: Vec<OsString> = [
        "--print",
        "--verbose",
        "--output-format",
        "stream-json",
        "--input-format",
        "stream-json",
        "--dangerously-skip-permissions",
    ]
    .map(OsString::from)
    .into();
    if let Some(id) = &config.resume {
        arguments.extend(["--resume".into(), id.into()]);
    }
    // The kernel limits an argument to 128 KiB.
    match &config.append_system_prompt {
        Some(text) if text.len() > LONG => {
            folder.write(SYSTEM_PROMPT, text.as_bytes())?;
            let path = folder.path().join(SYSTEM_PROMPT).into();
            arguments.extend(["--append-system-prompt-file".into(), path]);
        }
        Some(text) => arguments.extend(["--append-system-prompt".into(), text.into()]),
        None => {}
    }
    let lists = [("--disallowed-tools", &config.disallowed_tools), ("--tools", &config.tools)];
    for (flag, names) in lists.into_iter().filter(|(_, names)| !names.is_empty()) {
        arguments.push(flag.into());
        arguments.extend(names.iter().map(OsString::from));
    }
    if let Some(settings) = &config.settings {
        // Settings may hold tokens, and every process can read the arguments.
        folder.write(SETTINGS, settings.as_bytes())?;
        arguments.extend(["--settings".into(), folder.path().join(SETTINGS).into()]);
    }
    Ok(arguments)
}

fn codex(config: &Config, model: Option<&str>, working_dir: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = [
        "exec",
        "--json",
        "--dangerously-bypass-approvals-and-sandbox",
        "--skip-git-repo-check",
        "-C",
    ]
    .map(OsString::from)
    .into();
    arguments.push(working_dir.into());
    arguments.extend(model.iter().flat_map(|model| ["-m".into(), model.into()]));
    arguments.extend(config.resume.iter().flat_map(|id| ["resume".into(), id.into()]));
    arguments.push("-".into());
    arguments
}

/// The CLI's standard input: the prompt. Its length is not limited and it cannot be taken for a flag.
pub(crate) fn input(config: &Config) -> Vec<u8> {
    match config.agent {
        Agent::Claude { .. } => {
            let message = json!({ "role": "user", "content": config.prompt });
            format!("{}\n", json!({ "type": "user", "message": message })).into_bytes()
        }
        Agent::Codex { .. } => config.prompt.clone().into_bytes(),
    }
}

/// The CLI's whole environment. System variables override the user's; nothing else is inherited.
pub(crate) fn environment(config: &Config) -> Vec<(OsString, OsString)> {
    let user = config.user_environment.iter().filter(|(name, value)| {
        let usable = !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
        usable && !name.starts_with(env::PREFIX)
    });
    let user = user.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let system = config.system_environment.iter();
    let system = system.map(|(name, value)| (OsString::from(name), value.clone()));
    let quiet = QUIET.into_iter().map(|name| (name.into(), "1".into()));
    let system: Vec<_> = system.chain(quiet).collect();
    let is_overridden = |name: &OsString| system.iter().any(|(known, _)| known == name);
    let mut environment: Vec<_> = user.filter(|(name, _)| !is_overridden(name)).collect();
    environment.extend(system);
    environment
}

/// Folders where Claude Code may keep a session's history, in the order to look in.
pub(crate) fn history_folders(home: &Path, working_dir: &Path) -> Vec<PathBuf> {
    let projects = home.join(".claude/projects");
    let name = working_dir.to_string_lossy();
    let dashes = name.replace('/', "-");
    // Newer versions replace more than slashes.
    let strict = name.replace(|char: char| !char.is_ascii_alphanumeric(), "-");
    [dashes, strict].map(|name| projects.join(name)).into()
}
