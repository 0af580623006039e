//! What is on the host: taken before and after, so that a test sees what was left behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// All that a VM could leave, outside of its state folder.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Host {
    mounts: BTreeSet<String>,
    network: Vec<String>,
    cgroups: BTreeSet<String>,
    processes: BTreeSet<String>,
}

impl Host {
    /// What is here and was not before. Mounts that the namespace copied from the machine disappear with their
    /// folders there, so only new ones count.
    pub(crate) fn since(mut self, before: &Self) -> Self {
        self.mounts.extend(before.mounts.iter().cloned());
        self
    }

    /// What concerns the VMs under `state`: tests, and runners that are not theirs, run side by side.
    /// Mounts and networks are those of the calling thread's namespaces.
    pub(crate) fn look(state: &Path) -> Self {
        let ids = names(&state.join("vms"));
        let cgroups = process::mount_point().unwrap().join("sandbox-runner");
        Self {
            mounts: host_test::mounts(),
            network: netns::testing::inventory(),
            cgroups: names(&cgroups).intersection(&ids).cloned().collect(),
            processes: processes(&state.to_string_lossy()),
        }
    }
}

/// The names in a folder; none if it is not there.
pub(crate) fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Processes that have `text` in their command line, working folder or open files' names.
fn processes(text: &str) -> BTreeSet<String> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse::<u32>().ok()?;
        let proc = entry.path();
        let command = fs::read(proc.join("cmdline")).ok()?;
        let cwd = fs::read_link(proc.join("cwd")).ok()?;
        let named = String::from_utf8_lossy(&command).contains(text)
            || cwd.to_string_lossy().contains(text);
        (named && pid != std::process::id())
            .then(|| format!("{pid} {}", String::from_utf8_lossy(&command).replace('\0', " ")))
    })
    .collect()
}
