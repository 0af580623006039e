//! Creates the mount points of a job's folders outside of the home. The download runs as the agent's user, who may
//! not create them.
//!
//! INVARIANT: no symbolic link of the image is followed.

use std::path::{Path, PathBuf};

use contract::guest::{HOME, USER_ID};
use sandbox::{Entry, EntryKind, Owner, Sandbox, WriteRequest};
use serde_json::Value;

use super::context::ExecutionContext;
use super::session::step_deadline;
use crate::error::{Error, Result};
use crate::mount_path;

/// The user that agents run as.
const OWNER: Owner = Owner { uid: USER_ID, gid: USER_ID };

/// The manifest's members with one mount path.
const SINGLE: [&str; 2] = ["artifact", "memory"];
/// The manifest's members with a list of mount paths.
const LISTS: [&str; 3] = ["storages", "storageMounts", "artifacts"];

/// Creates the mount points, owned by the user even if they exist. Missing parents belong to root.
pub(super) fn create(sandbox: &dyn Sandbox, context: &ExecutionContext) -> Result<()> {
    let paths = mount_points(context)?;
    if paths.is_empty() {
        return Ok(());
    }
    let request =
        WriteRequest { target: "/".into(), make_parents: true, ..WriteRequest::default() };
    let mut writer = sandbox.write(&request, step_deadline())?;
    for path in paths {
        let (kind, owner) = (EntryKind::Directory, Some(OWNER));
        writer.entry(&Entry { path, kind, mode: 0o755, owner, modified: None }, step_deadline())?;
    }
    Ok(writer.finish(step_deadline())?)
}

/// The mount points outside of the home, relative to the root.
fn mount_points(context: &ExecutionContext) -> Result<Vec<PathBuf>> {
    let manifest = context.storage_manifest.as_ref().unwrap_or(&Value::Null);
    let single = SINGLE.iter().map(|name| &manifest[name]);
    let lists = LISTS.iter().filter_map(|name| manifest[name].as_array()).flatten();
    let paths = single.chain(lists).filter_map(|entry| entry["mountPath"].as_str());
    let outside =
        paths.chain([context.working_dir()]).filter(|path| !Path::new(path).starts_with(HOME));
    let relative = |path: &str| {
        mount_path::check(path).map_err(|reason| Error::Mount { path: path.into(), reason })?;
        Ok(Path::new(path).components().skip(1).collect())
    };
    outside.map(relative).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::context::tests::minimal_context;

    fn mount_points_of(manifest: Value) -> Result<Vec<PathBuf>> {
        let mut context = minimal_context();
        context["storageManifest"] = manifest;
        mount_points(&serde_json::from_value(context).unwrap())
    }

    #[test]
    fn mount_points_outside_of_the_home_are_created() {
        let manifest = json!({
            "storageMounts": [{"mountPath": "/srv//repo/"}, {"mountPath": "/home/user/x"}],
            "storages": [{"mountPath": "/data"}],
            "artifact": {"mountPath": "/opt/a"},
            "memory": null,
        });
        let expected: Vec<_> = ["opt/a", "data", "srv/repo"].map(PathBuf::from).into();
        assert_eq!(mount_points_of(manifest).unwrap(), expected);
        assert_eq!(mount_points_of(Value::Null).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_platform_cannot_mount_over_system_folders() {
        let error =
            mount_points_of(json!({"artifacts": [{"mountPath": "/etc/sudoers.d"}]})).unwrap_err();
        assert!(error.chain().starts_with("a job folder cannot be at /etc/sudoers.d: "));
        assert!(mount_points_of(json!({"storages": [{"mountPath": "/srv/../etc"}]})).is_err());
    }
}
