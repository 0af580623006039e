//! The agent's input: environment variables, and files for long or secret values.
//!
//! Variables are part of the request that starts the agent. Values over 64 KiB, and the environment of the
//! agent's CLI, are files in `/home/user/.vm0/inbox`, which the agent removes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use contract::env;
use contract::guest::{HOME, INBOX, WORKSPACE};
use mask::Masker;
use serde_json::{Value, json};

use super::context::ExecutionContext;
use super::source::PlatformAccess;

/// The longest value of a variable, in bytes.
const MAX_VALUE: usize = 64 << 10;

/// An agent's environment, and its files by name.
#[derive(Default)]
pub(crate) struct Inbox {
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

impl Inbox {
    /// The input according to `context`. `mock`: the profile runs the mock CLI unless the job forbids it.
    pub(crate) fn of(context: &ExecutionContext, access: &PlatformAccess, mock: bool) -> Self {
        let mut inbox = Self::default();
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        inbox.put("HOME", HOME.to_owned());
        inbox.put("LANG", "C.UTF-8".to_owned());
        inbox.put("TZ", text(&context.timezone()));
        inbox.put(env::RUN_ID, context.run_id.to_string());
        inbox.put(env::API_URL, access.guest_urls.first().cloned().unwrap_or_default());
        if access.guest_urls.len() > 1 {
            inbox.put(env::API_URLS, access.guest_urls.join(" "));
        }
        inbox.put(env::API_TOKEN, context.sandbox_token.clone());
        inbox.put(env::PROMPT, context.prompt.clone());
        inbox.put(env::APPEND_SYSTEM_PROMPT, text(&context.append_system_prompt));
        inbox.put(env::WORKING_DIR, context.working_dir().to_owned());
        let resumed = context.resume_session.as_ref();
        inbox.put(env::RESUME_SESSION_ID, text(&resumed.map(|one| one.session_id.clone())));
        let started = context.api_start_time.map(|time| time.to_string());
        inbox.put(env::API_START_TIME, text(&started));
        inbox.put(env::SECRET_VALUES, secrets(context));
        inbox.put(env::TOOLS, list(&context.tools));
        inbox.put(env::DISALLOWED_TOOLS, list(&context.disallowed_tools));
        inbox.put(env::SETTINGS, text(&context.settings));
        let flags = context.feature_flags.as_ref().map(Value::to_string);
        inbox.put(env::FEATURE_FLAGS, text(&flags));
        inbox.put(env::AGENT_TYPE, context.cli_agent_type.clone());
        inbox.put(env::PROTECTION_BYPASS, text(&access.bypass));
        inbox.put(env::OPENAI_MODEL, text(&context.environment.get(env::OPENAI_MODEL).cloned()));
        if context.wants_mock(mock) {
            inbox.put(env::USE_MOCK_CLAUDE, "true".to_owned());
        }
        inbox.put_artifacts(context.storage_manifest.as_ref());
        if !context.environment.is_empty() {
            let json = json!(context.environment).to_string();
            inbox.put_file(env::USER_ENV_FILE, "environment.json".to_owned(), json);
        }
        inbox
    }

    /// Tells the agent its grace period after SIGTERM and the size of its disk.
    pub(super) fn set_limits(&mut self, cancel_grace: Duration, disk_mib: Option<u64>) {
        // At least one second, so that the agent has time for a checkpoint.
        self.put(env::CANCEL_GRACE_SECS, cancel_grace.as_secs().max(1).to_string());
        self.put(env::DISK_MIB, disk_mib.map(|mib| mib.to_string()).unwrap_or_default());
    }

    /// Sets the variables for artifacts to save at the end, from both forms of the manifest.
    fn put_artifacts(&mut self, manifest: Option<&Value>) {
        let Some(manifest) = manifest else { return };
        let mounts = manifest["storageMounts"].as_array().map(Vec::as_slice).unwrap_or_default();
        let artifacts = mounts.iter().filter(|mount| mount["writeback"] == true);
        let artifacts: Vec<_> = artifacts.map(artifact).collect();
        if !artifacts.is_empty() {
            self.put(env::ARTIFACTS, Value::from(artifacts).to_string());
        }
        for (member, names) in [("artifact", env::ARTIFACT), ("memory", env::MEMORY)] {
            let one = &manifest[member];
            let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
            if one.is_object() {
                self.put(names.driver, "vas".to_owned());
                self.put(names.mount_path, text("mountPath"));
                self.put(names.storage_name, text("vasStorageName"));
                self.put(names.version_id, text("vasVersionId"));
            }
        }
    }

    /// Sets a variable, or writes a file if the value is too long for one. Ignores an empty value.
    fn put(&mut self, name: &str, value: String) {
        // A variable cannot contain NUL; a file can.
        if value.len() > MAX_VALUE || value.contains('\0') {
            self.put_file(&format!("{name}_FILE"), name.to_lowercase(), value);
        } else if !value.is_empty() {
            self.environment.push((name.into(), value.into()));
        }
    }

    fn put_file(&mut self, variable: &str, file: String, content: String) {
        self.environment.push((variable.into(), format!("{HOME}/{INBOX}/{file}").into()));
        self.files.insert(file, content.into_bytes());
    }
}

impl ExecutionContext {
    /// The agent's working directory.
    pub(crate) fn working_dir(&self) -> &str {
        self.working_dir.as_deref().filter(|path| path.starts_with('/')).unwrap_or(WORKSPACE)
    }

    /// The user's time zone, if it is valid.
    pub(crate) fn timezone(&self) -> Option<String> {
        base::time_zone::parse(self.user_timezone.as_deref()?).ok()
    }

    fn wants_mock(&self, profile: bool) -> bool {
        let is_requested =
            self.feature_flags.as_ref().is_some_and(|flags| flags["mockClaude"] == true);
        is_requested || (profile && !self.debug_no_mock_claude)
    }

    /// Whether the job has storages to download.
    pub(crate) fn has_storages(&self) -> bool {
        let Some(manifest) = &self.storage_manifest else { return false };
        let has = |list: &str| manifest[list].as_array().is_some_and(|list| !list.is_empty());
        has("storageMounts")
            || has("storages")
            || manifest["artifact"].is_object()
            || manifest["memory"].is_object()
    }

    /// Replaces the job's secrets in a text by `***`.
    pub(crate) fn masked(&self, text: String) -> String {
        match Masker::new(self.secret_values.iter().chain([&self.sandbox_token])) {
            Ok(masker) => masker.mask(&text).into_owned(),
            Err(error) => format!("the text cannot be masked and is not shown: {error}"),
        }
    }
}

fn secrets(context: &ExecutionContext) -> String {
    let all = [&context.sandbox_token].into_iter().chain(&context.secret_values);
    all.map(|secret| STANDARD.encode(secret)).collect::<Vec<_>>().join(",")
}

fn list(words: &[String]) -> String {
    if words.is_empty() { String::new() } else { json!(words).to_string() }
}

fn artifact(mount: &Value) -> Value {
    let members = ["name", "mountPath", "storageId", "versionId", "missingRootPolicy"];
    let known = members.into_iter().filter(|name| !mount[*name].is_null());
    known
        .map(|name| (name.to_owned(), mount[name].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::tests::minimal_context;

    fn inbox(change: impl FnOnce(&mut Value), mock: bool) -> Inbox {
        let mut value = minimal_context();
        change(&mut value);
        let context: ExecutionContext = serde_json::from_value(value).unwrap();
        let access = PlatformAccess::at("http://platform", "http://here");
        Inbox::of(&context, &access, mock)
    }

    fn variable(inbox: &Inbox, name: &str) -> Option<String> {
        let found = inbox.environment.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.to_string_lossy().into_owned())
    }

    #[test]
    fn all_addresses_of_a_platform_with_several_are_in_a_variable_of_their_own() {
        let context: ExecutionContext = serde_json::from_value(minimal_context()).unwrap();
        let mut access = PlatformAccess::at("https://a", "https://a");
        access.guest_urls.push("https://b:8480".into());

        let inbox = Inbox::of(&context, &access, false);

        assert_eq!(variable(&inbox, "VM0_API_URL").unwrap(), "https://a");
        assert_eq!(variable(&inbox, "VM0_API_URLS").unwrap(), "https://a https://b:8480");
    }

    #[test]
    fn a_minimal_context_yields_the_required_variables() {
        let inbox = inbox(|_| {}, false);
        assert_eq!(variable(&inbox, "VM0_API_URLS"), None);
        assert_eq!(variable(&inbox, "VM0_API_URL").unwrap(), "http://platform");
        assert_eq!(variable(&inbox, "VM0_WORKING_DIR").unwrap(), "/home/user/workspace");
        assert_eq!(variable(&inbox, "VM0_PROMPT").unwrap(), "do it");
        assert_eq!(
            variable(&inbox, "VM0_SECRET_VALUES").unwrap(),
            STANDARD.encode("token-of-the-run")
        );
        assert_eq!(variable(&inbox, "VM0_USER_ENV_FILE"), None);
        assert!(inbox.files.is_empty());
    }

    #[test]
    fn long_values_and_the_users_environment_are_files() {
        let long = "x".repeat(MAX_VALUE + 1);
        let prompt = long.clone();
        let inbox = inbox(
            |context| {
                context["prompt"] = prompt.into();
                context["environment"] = json!({"TOKEN": "user's secret"});
            },
            false,
        );
        assert_eq!(variable(&inbox, "VM0_PROMPT"), None);
        let file = variable(&inbox, "VM0_PROMPT_FILE").unwrap();
        assert_eq!(file, "/home/user/.vm0/inbox/vm0_prompt");
        assert_eq!(inbox.files["vm0_prompt"], long.into_bytes());
        assert_eq!(inbox.files["environment.json"], br#"{"TOKEN":"user's secret"}"#);
    }

    #[test]
    fn artifacts_of_both_forms_are_passed_on_without_urls() {
        let inbox = inbox(
            |context| {
                context["storageManifest"] = json!({
                    "storageMounts": [
                        {"name": "w", "storageId": "i", "versionId": "v", "mountPath": "/w",
                         "archiveUrl": "http://secret", "writeback": true},
                        {"name": "r", "storageId": "j", "versionId": "v", "mountPath": "/r"},
                    ],
                    "memory": {"mountPath": "/m", "vasStorageName": "n", "archiveUrl": "x"},
                });
            },
            false,
        );
        let artifacts: Value =
            serde_json::from_str(&variable(&inbox, "VM0_ARTIFACTS").unwrap()).unwrap();
        let expected =
            json!([{"name": "w", "storageId": "i", "versionId": "v", "mountPath": "/w"}]);
        assert_eq!(artifacts, expected);
        assert_eq!(variable(&inbox, "VM0_MEMORY_NAME").unwrap(), "n");
        assert_eq!(variable(&inbox, "VM0_MEMORY_DRIVER").unwrap(), "vas");
    }

    #[test]
    fn the_mock_cli_runs_if_the_profile_or_the_job_enables_it() {
        let name = "USE_MOCK_CLAUDE";
        assert!(variable(&inbox(|_| {}, true), name).is_some());
        assert!(variable(&inbox(|_| {}, false), name).is_none());
        let against = |context: &mut Value| context["debugNoMockClaude"] = true.into();
        assert!(variable(&inbox(against, true), name).is_none());
        let for_it = |context: &mut Value| context["featureFlags"] = json!({"mockClaude": true});
        assert!(variable(&inbox(for_it, false), name).is_some());
    }

    #[test]
    fn overlapping_secrets_are_masked_longest_first() {
        let mut value = minimal_context();
        value["secretValues"] = json!(["secret", "secret-longer", "abc"]);
        let context: ExecutionContext = serde_json::from_value(value).unwrap();
        let text = "a secret-longer b secret c abc d token-of-the-run".to_owned();
        assert_eq!(context.masked(text), "a *** b *** c abc d ***");
    }
}
