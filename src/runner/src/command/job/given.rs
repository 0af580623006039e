//! The folders, variables and secrets that the flags of `runner job submit` name.
//!
//! INVARIANT: no error has the value of a secret or of a variable.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use platform::Artifact;
use service::mount_path;

use crate::error::{Result, file};
use crate::operator::Error;
use crate::value::{self, Refused, Variable};

/// `[NAME=]DIR:MOUNT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Folder {
    name: Option<String>,
    folder: PathBuf,
    mount_path: String,
}

/// `NAME=FILE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SecretFile {
    name: OsString,
    path: PathBuf,
}

/// Parses `[NAME=]DIR:MOUNT`. A `/` before the `=` belongs to a path: `./a=b:/x` has no name.
pub(super) fn folder(text: &[u8]) -> std::result::Result<Folder, Refused> {
    let refused = "expected DIR:MOUNT or NAME=DIR:MOUNT, with an absolute path in the VM as MOUNT";
    let colon = text.windows(2).rposition(|pair| pair == b":/").ok_or(refused)?;
    let (given, mount) = (&text[..colon], &text[colon + 1..]);
    let mount_path = std::str::from_utf8(mount).map_err(|_| refused)?.to_owned();
    let named = given.iter().position(|byte| *byte == b'=').and_then(|at| {
        let name = value::name(std::str::from_utf8(&given[..at]).ok()?).ok()?;
        Some((name, &given[at + 1..]))
    });
    let (name, folder) = match named {
        Some((name, folder)) => (Some(name), folder),
        None => (None, given),
    };
    if folder.is_empty() {
        return Err(refused);
    }
    mount_path::check(&mount_path)?;
    Ok(Folder { name, folder: OsStr::from_bytes(folder).into(), mount_path })
}

pub(super) fn secret_file(text: &[u8]) -> std::result::Result<SecretFile, Refused> {
    let Variable { name, value } = value::variable(text);
    match value {
        Some(path) if !name.is_empty() && !path.is_empty() => {
            Ok(SecretFile { name, path: path.into() })
        }
        _ => Err("expected NAME=FILE"),
    }
}

/// The variables for the job. Later ones override earlier ones. A variable without a value that this
/// process does not have is left out, as by `runner run`.
pub(super) fn environment(variables: &[Variable]) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for variable in variables {
        let variable = variable.clone().named().ok_or(crate::error::Usage::NamelessVariable)?;
        let name = name_of(&variable.name)?;
        if let Some(value) = variable.value.or_else(|| env::var_os(&variable.name)) {
            let value = text(value, || format!("the value of variable {name}"))?;
            all.insert(name, value);
        }
    }
    Ok(all)
}

/// The secrets for the job. A secret without a value that this process does not have is an error: the
/// job would fail late.
pub(super) fn secrets(
    variables: &[Variable],
    files: &[SecretFile],
) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for secret in files {
        let name = name_of(&secret.name)?;
        let bytes = fs::read(&secret.path).map_err(file("read", &secret.path))?;
        // The end of the last line belongs to the file, not to the secret.
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let value = OsStr::from_bytes(bytes).to_owned();
        let value = text(value, || format!("secret {name}"))?;
        all.insert(name, value);
    }
    for secret in variables {
        let secret = secret.clone().named().ok_or(Error::NamelessSecret)?;
        let name = name_of(&secret.name)?;
        let missing = || Error::NoSuchVariable { name: name.clone() };
        let value = secret.value.or_else(|| env::var_os(&secret.name)).ok_or_else(missing)?;
        let value = text(value, || format!("secret {name}"))?;
        all.insert(name, value);
    }
    Ok(all)
}

/// The folders, each with its given name or else its own.
pub(super) fn artifacts(folders: &[Folder]) -> Result<Vec<Artifact>> {
    let mut all: Vec<Artifact> = Vec::new();
    for given in folders {
        let name = match &given.name {
            Some(name) => name.clone(),
            None => own_name(&given.folder)?,
        };
        if all.iter().any(|other| other.name == name) {
            return Err(Error::SameName { name }.into());
        }
        let (folder, mount_path) = (given.folder.clone(), given.mount_path.clone());
        all.push(Artifact { name, folder, mount_path });
    }
    Ok(all)
}

/// The name of a folder's canonical path, so that `.` has one, too.
fn own_name(folder: &Path) -> Result<String> {
    let whole = fs::canonicalize(folder).map_err(file("open", folder))?;
    let name = whole.file_name().and_then(OsStr::to_str).map(str::to_owned);
    Ok(name.ok_or_else(|| Error::NamelessArtifact { path: folder.to_owned() })?)
}

fn name_of(name: &OsStr) -> Result<String> {
    text(name.to_owned(), || "the name of a variable".to_owned())
}

fn text(text: OsString, what: impl Fn() -> String) -> Result<String> {
    Ok(text.into_string().map_err(|_| Error::NotText { what: what() })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(text: &str) -> Variable {
        value::variable(text.as_bytes())
    }

    #[test]
    fn an_artifact_may_be_named_and_its_folder_may_have_any_characters() {
        let given = folder(b"src=./a:b:/w").unwrap();
        assert_eq!(given.name.as_deref(), Some("src"));
        assert_eq!((given.folder, given.mount_path), ("./a:b".into(), "/w".into()));
        let given = folder(b"./a=b:/w/x").unwrap();
        assert_eq!((given.name, given.folder), (None, "./a=b".into()));
    }

    #[test]
    fn an_artifact_needs_a_folder_and_an_absolute_mount_path() {
        for text in ["a", "a:b", ":/w", "a=:/w", ""] {
            assert!(folder(text.as_bytes()).is_err(), "{text}");
        }
        assert!(folder(b"a:/\xff").is_err());
    }

    #[test]
    fn an_artifact_without_a_name_gets_its_folders_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("app")).unwrap();
        let path = dir.path().join("app/../app/.");
        let given = |name: Option<&str>| Folder {
            name: name.map(str::to_owned),
            folder: path.clone(),
            mount_path: "/w".into(),
        };

        assert_eq!(artifacts(&[given(None)]).unwrap()[0].name, "app");
        assert_eq!(artifacts(&[given(None), given(Some("b"))]).unwrap()[1].name, "b");
        let error = artifacts(&[given(None), given(None)]).unwrap_err();
        assert_eq!(error.exit_code(), Some(2));
        assert!(error.chain().contains("two artifacts are named app"), "{}", error.chain());
    }

    #[test]
    fn a_secret_is_read_from_a_file_without_its_final_newline() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("key"), "hunter2\r\n").unwrap();
        let given = format!("KEY={}", dir.path().join("key").display());

        let secrets = secrets(&[], &[secret_file(given.as_bytes()).unwrap()]).unwrap();

        assert_eq!(secrets["KEY"], "hunter2");
        assert!(secret_file(b"KEY").is_err());
        assert!(secret_file(b"=f").is_err());
    }

    #[test]
    fn the_error_of_a_missing_secret_names_it() {
        let error = secrets(&[variable("NOT_SET_HERE")], &[]).unwrap_err();
        assert_eq!(error.exit_code(), Some(2));
        assert!(error.chain().contains("NOT_SET_HERE"), "{}", error.chain());
    }

    #[test]
    fn no_error_repeats_a_secret() {
        let nameless = secrets(&[variable("=hunter2")], &[]).unwrap_err();
        let binary = secrets(&[value::variable(b"KEY=hunter2\xff")], &[]).unwrap_err();
        for error in [nameless, binary] {
            assert_eq!(error.exit_code(), Some(2));
            assert!(!error.chain().contains("hunter2"), "{}", error.chain());
        }
    }

    #[test]
    fn the_last_value_of_a_variable_wins_and_unset_ones_are_left_out() {
        let given = ["A=1", "A=2", "NOT_SET_HERE"].map(variable);
        let all = environment(&given).unwrap();
        assert_eq!(all, BTreeMap::from([("A".to_owned(), "2".to_owned())]));
    }
}
