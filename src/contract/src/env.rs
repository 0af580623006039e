//! Names of the environment variables with which the runner configures guest-agent and guest-download.
//!
//! The value of a long or secret variable may be in the file that `<NAME>_FILE` names.

#![expect(missing_docs, reason = "the names are those of the contract")]

/// The beginning of the variables' names. The agent's CLI gets none of them.
pub const PREFIX: &str = "VM0_";

// The run.
pub const API_START_TIME: &str = "VM0_API_START_TIME";
pub const API_TOKEN: &str = "VM0_API_TOKEN";
pub const API_URL: &str = "VM0_API_URL";
/// Ours: all URLs of a platform that has several, separated by spaces.
pub const API_URLS: &str = "VM0_API_URLS";
pub const DISK_MIB: &str = "VM0_DISK_MIB";
pub const FEATURE_FLAGS: &str = "VM0_FEATURE_FLAGS";
pub const GUEST_RUNTIME_DIR: &str = "VM0_GUEST_RUNTIME_DIR";
pub const PROTECTION_BYPASS: &str = "VERCEL_PROTECTION_BYPASS";
pub const RUN_AS: &str = "VM0_RUN_AS";
pub const RUN_ID: &str = "VM0_RUN_ID";
pub const SECRET_VALUES: &str = "VM0_SECRET_VALUES";
pub const WORKING_DIR: &str = "VM0_WORKING_DIR";

// The CLI.
pub const AGENT_TYPE: &str = "CLI_AGENT_TYPE";
pub const APPEND_SYSTEM_PROMPT: &str = "VM0_APPEND_SYSTEM_PROMPT";
pub const DISALLOWED_TOOLS: &str = "VM0_DISALLOWED_TOOLS";
pub const MOCK_CLAUDE_PATH: &str = "VM0_MOCK_CLAUDE_PATH";
pub const OPENAI_MODEL: &str = "OPENAI_MODEL";
pub const PROMPT: &str = "VM0_PROMPT";
pub const RESUME_SESSION_ID: &str = "VM0_RESUME_SESSION_ID";
pub const SETTINGS: &str = "VM0_SETTINGS";
pub const TOOLS: &str = "VM0_TOOLS";
pub const USER_ENV_FILE: &str = "VM0_USER_ENV_FILE";
pub const USE_MOCK_CLAUDE: &str = "USE_MOCK_CLAUDE";

// Artifacts. The newer form is a list in `ARTIFACTS`; the older one has one artifact and one memory.
pub const ARTIFACTS: &str = "VM0_ARTIFACTS";
pub const ARTIFACT_EXCLUDE: &str = "VM0_ARTIFACT_EXCLUDE";
pub const ARTIFACT: StorageVariables = StorageVariables {
    driver: "VM0_ARTIFACT_DRIVER",
    mount_path: "VM0_ARTIFACT_MOUNT_PATH",
    storage_name: "VM0_ARTIFACT_VOLUME_NAME",
    version_id: "VM0_ARTIFACT_VERSION_ID",
};
pub const MEMORY: StorageVariables = StorageVariables {
    driver: "VM0_MEMORY_DRIVER",
    mount_path: "VM0_MEMORY_MOUNT_PATH",
    storage_name: "VM0_MEMORY_NAME",
    version_id: "VM0_MEMORY_VERSION_ID",
};

/// The names of the variables of one storage, in the older form.
#[derive(Debug, Clone, Copy)]
pub struct StorageVariables {
    pub driver: &'static str,
    pub mount_path: &'static str,
    pub storage_name: &'static str,
    pub version_id: &'static str,
}

// Time limits, in seconds.
pub const CANCEL_GRACE_SECS: &str = "VM0_CANCEL_GRACE_SECS";
pub const DOWNLOAD_OUTAGE_SECS: &str = "VM0_DOWNLOAD_OUTAGE_SECS";
pub const POST_RESULT_SIGKILL_GRACE_SECS: &str = "VM0_POST_RESULT_SIGKILL_GRACE_SECS";
pub const POST_RESULT_SIGTERM_GRACE_SECS: &str = "VM0_POST_RESULT_SIGTERM_GRACE_SECS";
pub const POST_RESULT_TOTAL_CAP_SECS: &str = "VM0_POST_RESULT_TOTAL_CAP_SECS";
pub const STUCK_TOOL_TIMEOUT_SECS: &str = "VM0_STUCK_TOOL_TIMEOUT_SECS";
