//! Files and folders that are left out of an artifact because they could not be read.

use std::fmt::Display;
use std::path::Path;

use archive::Unreadable;

/// How many are named in warnings; the others are counted.
const MAX_NAMED: usize = 20;

/// The files and folders that are left out of an artifact.
#[derive(Debug, Default)]
pub(super) struct Omissions {
    named: Vec<String>,
    count: usize,
}

impl Omissions {
    /// Records a path below the artifact's root.
    pub(super) fn add(&mut self, path: &str, reason: impl Display) {
        self.count += 1;
        if self.named.len() < MAX_NAMED {
            self.named.push(format!("{path} was not saved: {reason}"));
        }
    }

    /// Records what a walk could not read: `*` stands for the entries of a folder.
    pub(super) fn unreadable(&mut self, path: &Path, reason: &Unreadable) {
        let path = match reason {
            Unreadable::Folder(_) | Unreadable::TooDeep => path.join("*"),
            Unreadable::Entry(_) | Unreadable::NotUtf8 => path.to_owned(),
        };
        self.add(&path.to_string_lossy(), reason);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The warnings for the job's user.
    pub(super) fn warnings(&self, artifact: &str) -> Vec<String> {
        let warning = |text: &String| format!("artifact {artifact}: {text}");
        let mut warnings: Vec<_> = self.named.iter().map(warning).collect();
        let more = self.count - self.named.len();
        if more > 0 {
            warnings.push(format!("artifact {artifact}: {more} more files were not saved"));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_name_the_first_files_and_count_the_others() {
        let mut omissions = Omissions::default();
        (0..MAX_NAMED + 3).for_each(|number| omissions.add(&format!("f{number}"), "no right"));
        let warnings = omissions.warnings("w");
        assert_eq!(warnings[0], "artifact w: f0 was not saved: no right");
        assert_eq!(warnings.last().unwrap(), "artifact w: 3 more files were not saved");
        assert_eq!(warnings.len(), MAX_NAMED + 1);
    }
}
