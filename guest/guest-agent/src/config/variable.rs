//! Reads environment variables. The file that `<NAME>_FILE` names stands in for a long or secret value.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The longest value: a prompt or a list of secrets.
const MAX_LENGTH: u64 = 64 << 20;

/// A copy of an environment.
pub(super) struct Variables {
    values: HashMap<OsString, OsString>,
}

impl Variables {
    pub(super) fn of_process() -> Self {
        Self { values: std::env::vars_os().collect() }
    }

    #[cfg(test)]
    pub(super) fn of<'a>(pairs: impl Iterator<Item = &'a (&'a str, &'a str)>) -> Self {
        Self { values: pairs.map(|(name, value)| (name.into(), value.into())).collect() }
    }

    /// The variable's own value, without the file.
    pub(super) fn raw(&self, name: &str) -> Option<OsString> {
        self.values.get(std::ffi::OsStr::new(name)).cloned()
    }

    /// The value, or the content of the file that `<NAME>_FILE` names. `None` if it is empty.
    pub(super) fn text(&self, name: &'static str) -> Result<Option<String>> {
        let value = match self.raw(name).filter(|value| !value.is_empty()) {
            Some(value) => value,
            None => match self.raw(&format!("{name}_FILE")).filter(|path| !path.is_empty()) {
                Some(path) => {
                    return self.file(&format!("{name}_FILE"), Path::new(&path)).map(non_empty);
                }
                None => return Ok(None),
            },
        };
        let text = value.into_string();
        text.map(Some).map_err(|_| Error::Variable { name, expected: "text in UTF-8" })
    }

    /// As [`Self::text`], and removes the file.
    pub(super) fn secret(&self, name: &'static str) -> Result<Option<String>> {
        let text = self.text(name)?;
        self.remove(&format!("{name}_FILE"));
        Ok(text)
    }

    /// As [`Self::text`]; an error if there is no value.
    pub(super) fn required(&self, name: &'static str) -> Result<String> {
        self.text(name)?.ok_or(Error::Missing { name })
    }

    pub(super) fn path(&self, name: &'static str) -> Result<Option<PathBuf>> {
        let path = self.raw(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        match path {
            Some(path) if !path.is_absolute() => {
                Err(Error::Variable { name, expected: "an absolute path" })
            }
            path => Ok(path),
        }
    }

    pub(super) fn number(&self, name: &'static str) -> Result<Option<u64>> {
        let text = self.text(name)?;
        let wrong = |_| Error::Variable { name, expected: "a whole number" };
        text.map(|text| text.trim().parse().map_err(wrong)).transpose()
    }

    /// A list of words, as JSON or separated by commas. A word that looks like a flag is an error.
    pub(super) fn list(&self, name: &'static str) -> Result<Vec<String>> {
        let Some(text) = self.text(name)? else { return Ok(Vec::new()) };
        let wrong = |expected| Error::Variable { name, expected };
        let words: Vec<String> = if text.trim_start().starts_with('[') {
            serde_json::from_str(&text).map_err(|_| wrong("a list of names"))?
        } else {
            text.split(',').map(|word| word.trim().to_owned()).collect()
        };
        if words.iter().any(|word| word.starts_with('-')) {
            return Err(wrong("a list of names: one of them looks like a flag"));
        }
        Ok(words.into_iter().filter(|word| !word.is_empty()).collect())
    }

    /// The JSON map in the file that the variable names. Removes the file.
    pub(super) fn json_file(&self, name: &'static str) -> Result<Option<BTreeMap<String, String>>> {
        let Some(path) = self.raw(name).filter(|path| !path.is_empty()) else { return Ok(None) };
        let text = self.file(name, Path::new(&path))?;
        self.remove(name);
        let wrong = |_| Error::Variable { name, expected: "the path of a JSON map of texts" };
        serde_json::from_str(&text).map(Some).map_err(wrong)
    }

    fn file(&self, name: &str, path: &Path) -> Result<String> {
        let read = || -> io::Result<String> {
            let mut text = String::new();
            let length = File::open(path)?.take(MAX_LENGTH + 1).read_to_string(&mut text)? as u64;
            if length > MAX_LENGTH { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
        };
        read().map_err(|source| Error::VariableFile { name: name.to_owned(), source })
    }

    fn remove(&self, name: &str) {
        let Some(path) = self.raw(name).filter(|path| !path.is_empty()) else { return };
        if let Err(error) = fs::remove_file(path) {
            log::warn!("cannot remove a file with secrets; variable={name} error={error}");
        }
    }
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_read_from_its_file_and_a_secret_file_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("value");
        fs::write(&path, "long").unwrap();
        let pairs = [("NAME_FILE", path.to_str().unwrap())];
        let variables = Variables::of(pairs.iter());
        assert_eq!(variables.text("NAME").unwrap().as_deref(), Some("long"));
        assert_eq!(variables.secret("NAME").unwrap().as_deref(), Some("long"));
        assert!(!path.exists());
        assert!(matches!(variables.text("NAME"), Err(Error::VariableFile { .. })));
    }

    #[test]
    fn a_list_is_json_or_separated_by_commas_and_holds_no_flag() {
        let pairs =
            [("A", r#"["Bash(a, b)","Edit"]"#), ("B", "Bash, Edit,"), ("C", "x,--settings")];
        let variables = Variables::of(pairs.iter());
        assert_eq!(variables.list("A").unwrap(), ["Bash(a, b)", "Edit"]);
        assert_eq!(variables.list("B").unwrap(), ["Bash", "Edit"]);
        variables.list("C").unwrap_err();
    }

    #[test]
    fn an_error_names_the_variable_and_not_its_value() {
        let pairs = [("N", "secret"), ("P", "secret")];
        let variables = Variables::of(pairs.iter());
        assert_eq!(variables.number("N").unwrap_err().to_string(), "N is not a whole number");
        assert_eq!(variables.path("P").unwrap_err().to_string(), "P is not an absolute path");
    }
}
