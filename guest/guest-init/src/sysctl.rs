//! Kernel parameters: limits that Linux sizes for a machine which many users share.

use std::fs;
use std::path::Path;

const FOLDER: &str = "/proc/sys";

const PARAMETERS: [(&str, &str); 5] = [
    // Any user may listen on port 80: the machine has one user.
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    // Any user may ping, without a setuid program.
    ("net/ipv4/ping_group_range", "0 2147483647"),
    // Editors, bundlers and test runners watch whole repositories.
    ("fs/inotify/max_user_watches", "524288"),
    ("fs/inotify/max_user_instances", "1024"),
    // Databases (Elasticsearch) refuse to start with less.
    ("vm/max_map_count", "262144"),
];

/// Sets all parameters. A kernel that lacks one boots, too.
pub(crate) fn set_all() {
    for (name, value) in PARAMETERS {
        if let Err(error) = fs::write(Path::new(FOLDER).join(name), value) {
            log::warn!("cannot set a kernel parameter; name={name} value={value} error={error}");
        }
    }
}
