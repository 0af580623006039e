//! The configuration of a run, read from environment variables once, before any thread starts.

mod variable;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use contract::env;
use platform_client::{PlatformAddresses, PlatformCredentials};
use serde::Deserialize;

use self::variable::Variables;
use crate::limit::Limits;
use crate::{Error, Result};

/// The environment variables that make a CLI trust the system's certificates.
const CERTIFICATES: [&str; 7] = [
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "CODEX_CA_CERTIFICATE",
];

/// The configuration of a run.
pub struct Config {
    pub(crate) run_id: String,
    /// `None` in local mode, which makes no HTTP request.
    pub(crate) platform: Option<PlatformCredentials>,
    pub(crate) agent: Agent,
    pub(crate) prompt: String,
    pub(crate) append_system_prompt: Option<String>,
    pub(crate) resume: Option<String>,
    pub(crate) tools: Vec<String>,
    pub(crate) disallowed_tools: Vec<String>,
    pub(crate) settings: Option<String>,
    pub(crate) working_dir: PathBuf,
    pub(crate) home: PathBuf,
    /// The run's folder, if it is not below the home.
    pub(crate) runtime_dir: Option<PathBuf>,
    /// The user's variables for the CLI's environment.
    pub(crate) user_environment: BTreeMap<String, String>,
    /// Variables that override the user's.
    pub(crate) system_environment: Vec<(&'static str, OsString)>,
    pub(crate) secrets: Vec<Vec<u8>>,
    pub(crate) artifacts: Vec<Artifact>,
    /// Names of files and folders that are left out of artifacts.
    pub(crate) excluded: Vec<String>,
    pub(crate) limits: Limits,
    /// The size of the VM's disk as the user requested it.
    pub(crate) disk_mib: Option<u64>,
    /// When the platform received the request for the run, in milliseconds since 1970.
    pub(crate) api_start: Option<u64>,
}

/// Which CLI to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Agent {
    Claude { program: OsString },
    Codex { model: Option<String> },
}

/// A folder that is saved at the end of the run.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Artifact {
    #[serde(alias = "vasStorageName")]
    pub(crate) name: String,
    pub(crate) mount_path: PathBuf,
    /// Only in the newer form; the older one identifies the storage by name and type.
    pub(crate) storage_id: Option<String>,
    #[serde(skip)]
    pub(crate) kind: StorageType,
    #[serde(alias = "vasVersionId")]
    pub(crate) version_id: Option<String>,
    #[serde(default)]
    pub(crate) missing_root_policy: MissingRoot,
}

/// The type of a storage in the older form.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum StorageType {
    #[default]
    Artifact,
    Memory,
}

/// What to save if the folder does not exist at the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum MissingRoot {
    #[default]
    Fail,
    PreserveParentVersion,
}

/// The platform's addresses: several, or the one that each platform has.
fn addresses(variables: &Variables) -> Result<PlatformAddresses> {
    let first = variables.required(env::API_URL)?;
    let all = variables.text(env::API_URLS)?.unwrap_or(first);
    Ok(PlatformAddresses::new(&all.split_whitespace().map(str::to_owned).collect::<Vec<_>>()))
}

impl Config {
    /// Reads this process's environment and the files that it names. Removes files with secrets, since
    /// the CLI runs as the same user.
    pub fn from_env() -> Result<Self> {
        Self::read(&Variables::of_process())
    }

    fn read(variables: &Variables) -> Result<Self> {
        let token = variables.text(env::API_TOKEN)?;
        let run_id = variables.text(env::RUN_ID)?;
        let bypass = variables.text(env::PROTECTION_BYPASS)?;
        let mut secrets = secrets(variables)?;
        secrets
            .extend([&token, &bypass].into_iter().flatten().map(|text| text.clone().into_bytes()));
        let platform = match token {
            None => None,
            Some(token) => Some(PlatformCredentials {
                addresses: addresses(variables)?,
                client_session: run_id.clone().ok_or(Error::Missing { name: env::RUN_ID })?,
                token,
                bypass,
            }),
        };
        Ok(Self {
            run_id: run_id.unwrap_or_else(|| "local".to_owned()),
            platform,
            agent: agent(variables)?,
            prompt: variables.required(env::PROMPT)?,
            append_system_prompt: variables.text(env::APPEND_SYSTEM_PROMPT)?,
            resume: variables.text(env::RESUME_SESSION_ID)?,
            tools: variables.list(env::TOOLS)?,
            disallowed_tools: variables.list(env::DISALLOWED_TOOLS)?,
            settings: variables.text(env::SETTINGS)?,
            working_dir: variables
                .path(env::WORKING_DIR)?
                .unwrap_or(contract::guest::WORKSPACE.into()),
            home: variables.path("HOME")?.ok_or(Error::Missing { name: "HOME" })?,
            runtime_dir: variables.path(env::GUEST_RUNTIME_DIR)?,
            user_environment: variables.json_file(env::USER_ENV_FILE)?.unwrap_or_default(),
            system_environment: system_environment(variables),
            secrets,
            artifacts: artifacts(variables)?,
            excluded: excluded(variables)?,
            limits: limits(variables)?,
            disk_mib: variables.number(env::DISK_MIB)?,
            api_start: variables.number(env::API_START_TIME)?,
        })
    }
}

fn agent(variables: &Variables) -> Result<Agent> {
    match variables.text(env::AGENT_TYPE)?.as_deref() {
        None | Some("claude-code") => {
            let mock = variables.text(env::USE_MOCK_CLAUDE)?.as_deref() == Some("true");
            let named = variables.raw(env::MOCK_CLAUDE_PATH).filter(|path| !path.is_empty());
            let program = if mock {
                named.unwrap_or_else(|| "guest-mock-claude".into())
            } else {
                "claude".into()
            };
            Ok(Agent::Claude { program })
        }
        Some("codex") => Ok(Agent::Codex { model: variables.text(env::OPENAI_MODEL)? }),
        Some(_) => Err(Error::AgentType),
    }
}

fn secrets(variables: &Variables) -> Result<Vec<Vec<u8>>> {
    const NAME: &str = env::SECRET_VALUES;
    let text = variables.secret(NAME)?.unwrap_or_default();
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let wrong = |_| Error::Variable { name: NAME, expected: "a list of base64 values" };
    parts.map(|part| STANDARD.decode(part).map_err(wrong)).collect()
}

fn artifacts(variables: &Variables) -> Result<Vec<Artifact>> {
    const NAME: &str = env::ARTIFACTS;
    let mut artifacts: Vec<Artifact> = match variables.text(NAME)? {
        Some(json) => serde_json::from_str(&json)
            .map_err(|_| Error::Variable { name: NAME, expected: "a JSON list of artifacts" })?,
        None => Vec::new(),
    };
    for (kind, names) in
        [(StorageType::Artifact, env::ARTIFACT), (StorageType::Memory, env::MEMORY)]
    {
        let mount_path = variables.path(names.mount_path)?;
        let (Some(mount_path), Some(name)) = (mount_path, variables.text(names.storage_name)?)
        else {
            continue;
        };
        let version_id = variables.text(names.version_id)?;
        let missing_root_policy = MissingRoot::default();
        artifacts.push(Artifact {
            name,
            mount_path,
            storage_id: None,
            kind,
            version_id,
            missing_root_policy,
        });
    }
    Ok(artifacts)
}

fn excluded(variables: &Variables) -> Result<Vec<String>> {
    let names = variables.list(env::ARTIFACT_EXCLUDE)?;
    Ok(if names.is_empty() { vec![".vm0".to_owned()] } else { names })
}

fn system_environment(variables: &Variables) -> Vec<(&'static str, OsString)> {
    let copied = ["HOME", "PATH", "LANG", "TZ"].into_iter().chain(CERTIFICATES);
    let copied = copied.filter_map(|name| Some((name, variables.raw(name)?)));
    let mut environment: Vec<_> = copied.collect();
    if !environment.iter().any(|(name, _)| *name == "PATH") {
        environment.push(("PATH", "/usr/local/bin:/usr/bin:/bin".into()));
    }
    environment
}

fn limits(variables: &Variables) -> Result<Limits> {
    let seconds = |name, default| {
        variables.number(name).map(|value| Duration::from_secs(value.unwrap_or(default)))
    };
    Ok(Limits {
        tool: seconds(env::STUCK_TOOL_TIMEOUT_SECS, 300)?,
        silence: seconds(env::POST_RESULT_SIGTERM_GRACE_SECS, 10)?,
        exit: seconds(env::POST_RESULT_TOTAL_CAP_SECS, 120)?,
        kill: seconds(env::POST_RESULT_SIGKILL_GRACE_SECS, 5)?,
        cancel: seconds(env::CANCEL_GRACE_SECS, 90)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config> {
        let always = [("HOME", "/home/user"), ("VM0_PROMPT", "do it")];
        Config::read(&Variables::of(always.iter().chain(pairs)))
    }

    #[test]
    fn without_a_token_the_run_is_local() {
        let config = read(&[("VM0_API_TOKEN", ""), ("VM0_API_URL", "http://x")]).unwrap();
        assert!(config.platform.is_none());
        assert_eq!(config.working_dir, PathBuf::from("/home/user/workspace"));
    }

    #[test]
    fn a_token_requires_the_url_and_the_run_id() {
        let error = read(&[("VM0_API_TOKEN", "t")]).err().unwrap();
        assert_eq!(error.to_string(), "VM0_API_URL is not set");
        let error = read(&[("VM0_API_TOKEN", "t"), ("VM0_API_URL", "u")]).err().unwrap();
        assert_eq!(error.to_string(), "VM0_RUN_ID is not set");
    }

    #[test]
    fn the_token_and_the_bypass_are_secrets_too() {
        let pairs = [
            ("VM0_API_TOKEN", "the-token"),
            ("VM0_API_URL", "u"),
            ("VM0_RUN_ID", "r"),
            ("VERCEL_PROTECTION_BYPASS", "the-bypass"),
            ("VM0_SECRET_VALUES", "c2VjcmV0LTE=, c2VjcmV0LTI="),
        ];
        let secrets = read(&pairs).unwrap().secrets;
        let texts: Vec<_> = secrets.iter().map(|secret| String::from_utf8_lossy(secret)).collect();
        assert_eq!(texts, ["secret-1", "secret-2", "the-token", "the-bypass"]);
        let error = read(&[("VM0_SECRET_VALUES", "no base64!")]).err().unwrap();
        assert_eq!(error.to_string(), "VM0_SECRET_VALUES is not a list of base64 values");
    }

    #[test]
    fn both_forms_of_artifacts_are_read() {
        let list = r#"[{"name":"w","mountPath":"/w","storageId":"i","versionId":"v",
            "missingRootPolicy":"preserveParentVersion"}]"#;
        let pairs = [
            ("VM0_ARTIFACTS", list),
            ("VM0_MEMORY_MOUNT_PATH", "/m"),
            ("VM0_MEMORY_NAME", "memory"),
        ];
        let artifacts = read(&pairs).unwrap().artifacts;
        assert_eq!(artifacts[0].storage_id.as_deref(), Some("i"));
        assert_eq!(artifacts[0].missing_root_policy, MissingRoot::PreserveParentVersion);
        assert_eq!(
            (artifacts[1].kind, artifacts[1].name.as_str()),
            (StorageType::Memory, "memory")
        );
    }

    #[test]
    fn an_unknown_agent_is_an_error() {
        assert!(matches!(read(&[("CLI_AGENT_TYPE", "other")]), Err(Error::AgentType)));
        let config = read(&[("CLI_AGENT_TYPE", "codex"), ("OPENAI_MODEL", "o9")]).unwrap();
        assert_eq!(config.agent, Agent::Codex { model: Some("o9".into()) });
    }

    #[test]
    fn the_mock_replaces_claude_only_if_it_is_enabled() {
        let config = read(&[("USE_MOCK_CLAUDE", "true")]).unwrap();
        assert_eq!(config.agent, Agent::Claude { program: "guest-mock-claude".into() });
        let config = read(&[("VM0_MOCK_CLAUDE_PATH", "/m")]).unwrap();
        assert_eq!(config.agent, Agent::Claude { program: "claude".into() });
    }
}
