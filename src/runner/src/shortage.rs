//! Messages for a VM that ran out of memory or disk.

use std::path::Path;

use sandbox::Exit;

use crate::output;

/// Says how many processes of a command the OOM killer ended; `None` if it ended none.
pub(crate) fn describe(exit: &Exit, memory_mib: u32) -> Option<String> {
    let processes = match exit.oom_kills {
        0 => return None,
        1 => "1 process".to_owned(),
        count => format!("{count} processes"),
    };
    Some(format!("the VM ran out of memory ({memory_mib} MiB) and its kernel killed {processes}"))
}

/// Says that a VM's disk is full, with its size if known, and the remedy.
pub(crate) fn disk_full(mib: Option<u64>) -> String {
    let size = mib.map_or_else(String::new, |mib| format!(" ({mib} MiB)"));
    format!("the disk is full{size}: give it more with `disk`")
}

/// Says that the host's disk which holds `path` is full.
pub(crate) fn host_disk_full(path: &Path) -> String {
    format!(
        "the host's disk, which holds the VMs' disks, is full: free space below {}",
        path.display()
    )
}

/// Prints what [`describe`] says to standard error, with the remedy.
pub(crate) fn print(exit: &Exit, memory_mib: u32) {
    if let Some(text) = describe(exit, memory_mib) {
        output::remark(format_args!("runner: {text}: give it more with --memory"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sandbox::Outcome;

    use super::*;

    #[test]
    fn processes_killed_for_memory_are_counted_and_none_is_no_shortage() {
        let exit = |oom_kills| Exit {
            outcome: Outcome::Exited(0),
            dropped: 0,
            duration: Duration::ZERO,
            oom_kills,
        };
        let text = describe(&exit(1), 256).unwrap();
        assert_eq!(text, "the VM ran out of memory (256 MiB) and its kernel killed 1 process");
        assert!(describe(&exit(2), 256).unwrap().ends_with("killed 2 processes"));
        assert_eq!(describe(&exit(0), 256), None);
    }
}
