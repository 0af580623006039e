//! The storage manifest of a job: which storages are mounted where. The platform writes it, the runner passes it on, and
//! guest-download reads it.
//!
//! The newer form has `storageMounts`. The older one has `storages`, `artifact`, `artifacts` and `memory`.

use serde::{Deserialize, Serialize};

/// The storages of a job, in the newer or the older form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageManifest {
    /// The newer form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_mounts: Option<Vec<StorageMount>>,
    /// The older form: storages that are not saved at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storages: Option<Vec<StorageMount>>,
    /// The older form: storages that are saved at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<Vec<StorageMount>>,
    /// The older form: a storage that is saved at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact: Option<StorageMount>,
    /// The older form: the memory, which is saved at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<StorageMount>,
    /// Paths that are removed first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cleanup_paths: Option<Vec<String>>,
    /// Instruction files that are removed first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instruction_cleanups: Option<Vec<InstructionCleanup>>,
}

/// A storage at a place in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageMount {
    /// Its name in the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_id: Option<String>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// Where it is mounted: an absolute path.
    pub mount_path: String,
    /// A presigned URL of its archive, which is a secret. Absent, null and `"null"`: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive_url: Option<String>,
    /// The archive's size in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive_size: Option<u64>,
    /// Whether it is saved at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writeback: Option<bool>,
    /// Whether the guest has it already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached: Option<bool>,
    /// The folder into which the archive is unpacked, if it is not the mount path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extract_path: Option<String>,
    /// The name that the storage's instruction file gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions_target_filename: Option<String>,
}

/// An instruction file that an earlier job left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstructionCleanup {
    /// Its folder.
    pub mount_path: String,
    /// Its name; any that an instruction file may have, without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_filename: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_has_only_the_members_that_are_set() {
        let mount = StorageMount {
            name: Some("w".into()),
            mount_path: "/w".into(),
            archive_size: Some(3),
            writeback: Some(true),
            ..StorageMount::default()
        };
        let manifest =
            StorageManifest { storage_mounts: Some(vec![mount]), ..StorageManifest::default() };
        let json =
            r#"{"storageMounts":[{"name":"w","mountPath":"/w","archiveSize":3,"writeback":true}]}"#;
        assert_eq!(serde_json::to_string(&manifest).unwrap(), json);
        assert_eq!(serde_json::from_str::<StorageManifest>(json).unwrap(), manifest);
    }

    #[test]
    fn null_members_are_absent_and_unknown_ones_are_ignored() {
        let json = r#"{"storages":[{"mountPath":"/a","archiveUrl":null,"later":{}}],"memory":null,"later":1}"#;
        let manifest: StorageManifest = serde_json::from_str(json).unwrap();
        assert_eq!(manifest.memory, None);
        assert_eq!(manifest.storages.unwrap()[0].archive_url, None);
    }
}
