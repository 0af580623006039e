//! Names of users and groups, from `/etc/passwd` and `/etc/group`.
//!
//! Parsed here rather than by libc, whose lookups load modules of the image and ask the network.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc::O_NONBLOCK;

/// How much of a file is read; ids behind it have no name.
const LIMIT: u64 = 4 << 20;

#[derive(Debug, Default)]
pub(crate) struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    pub(crate) fn load() -> Self {
        Self { users: read(Path::new("/etc/passwd")), groups: read(Path::new("/etc/group")) }
    }

    /// The user's name, or the id.
    pub(crate) fn user(&self, id: u32) -> String {
        name(&self.users, id)
    }

    /// The group's name, or the id.
    pub(crate) fn group(&self, id: u32) -> String {
        name(&self.groups, id)
    }
}

fn name(names: &HashMap<u32, String>, id: u32) -> String {
    names.get(&id).cloned().unwrap_or_else(|| id.to_string())
}

/// The names by id; none of a file that cannot be read.
fn read(path: &Path) -> HashMap<u32, String> {
    let mut bytes = Vec::new();
    // Non-blocking, since the path may be a FIFO.
    let opened = File::options().read(true).custom_flags(O_NONBLOCK).open(path);
    let _ = opened.and_then(|file| file.take(LIMIT).read_to_end(&mut bytes));
    parse(&String::from_utf8_lossy(&bytes))
}

/// Of several names of an id the first counts.
fn parse(text: &str) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(_), Some(id)) = (fields.next(), fields.next(), fields.next())
            && let Ok(id) = id.parse()
        {
            names.entry(id).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_of_an_id_counts_and_broken_lines_do_not() {
        let names = parse("root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\nbroken\na:x:b:c\n");
        assert_eq!(names, HashMap::from([(0, "root".to_owned())]));
    }

    #[test]
    fn an_id_without_a_name_is_shown_as_a_number() {
        assert_eq!(Names::default().user(7), "7");
        assert_eq!(Names::default().group(8), "8");
    }
}
