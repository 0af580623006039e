//! The places of a job's folders that are not in its user's home, made before anything goes there:
//! what fetches them runs as that user, and could not.
//!
//! INVARIANT: no link is followed on the way, whatever the image has there.

use std::path::{Path, PathBuf};

use sandbox::{Entry, EntryKind, Owner, Sandbox, WriteRequest};
use serde_json::Value;

use super::context::Context;
use super::inbox::HOME;
use super::session::step;
use crate::error::{Error, Result};
use crate::mount;

/// The user as whom agents run.
const OWNER: Owner = Owner { uid: 1000, gid: 1000 };

/// Where the manifest has one place.
const SINGLE: [&str; 2] = ["artifact", "memory"];
/// Where it has several.
const LISTS: [&str; 3] = ["storages", "storageMounts", "artifacts"];

/// Makes them: root's as far as they lead to it, the last the user's, also if it is there already.
pub(super) fn make(sandbox: &dyn Sandbox, context: &Context) -> Result<()> {
    let places = places(context)?;
    if places.is_empty() {
        return Ok(());
    }
    let request =
        WriteRequest { target: "/".into(), make_parents: true, ..WriteRequest::default() };
    let mut writer = sandbox.write(&request, step())?;
    for path in places {
        let (kind, owner) = (EntryKind::Directory, Some(OWNER));
        writer.entry(&Entry { path, kind, mode: 0o755, owner, modified: None }, step())?;
    }
    Ok(writer.finish(step())?)
}

/// Those to be made, without the slash that they begin with.
fn places(context: &Context) -> Result<Vec<PathBuf>> {
    let manifest = context.storage_manifest.as_ref().unwrap_or(&Value::Null);
    let single = SINGLE.iter().map(|name| &manifest[name]);
    let lists = LISTS.iter().filter_map(|name| manifest[name].as_array()).flatten();
    let paths = single.chain(lists).filter_map(|entry| entry["mountPath"].as_str());
    let outside =
        paths.chain([context.working_dir()]).filter(|path| !Path::new(path).starts_with(HOME));
    let place = |path: &str| {
        mount::check(path).map_err(|reason| Error::Mount { path: path.into(), reason })?;
        Ok(Path::new(path).components().skip(1).collect())
    };
    outside.map(place).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::service::context::tests::least;

    fn of(manifest: Value) -> Result<Vec<PathBuf>> {
        let mut context = least();
        context["storageManifest"] = manifest;
        places(&serde_json::from_value(context).unwrap())
    }

    #[test]
    fn what_is_in_the_home_is_left_to_the_user_and_the_rest_is_made() {
        let manifest = json!({
            "storageMounts": [{"mountPath": "/srv//repo/"}, {"mountPath": "/home/user/x"}],
            "storages": [{"mountPath": "/data"}],
            "artifact": {"mountPath": "/opt/a"},
            "memory": null,
        });
        let made: Vec<_> = ["opt/a", "data", "srv/repo"].map(PathBuf::from).into();
        assert_eq!(of(manifest).unwrap(), made);
        assert_eq!(of(Value::Null).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_platform_cannot_have_the_systems_folders_given_away() {
        let error = of(json!({"artifacts": [{"mountPath": "/etc/sudoers.d"}]})).unwrap_err();
        assert!(error.chain().starts_with("a job folder cannot be at /etc/sudoers.d: "));
        assert!(of(json!({"storages": [{"mountPath": "/srv/../etc"}]})).is_err());
    }
}
