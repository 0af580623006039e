//! What is said where a VM had less memory or disk than its command wanted.

use std::path::Path;

use sandbox::Exit;

use crate::output;

/// Why processes of a command were killed, if they were for want of memory.
pub(crate) fn describe(exit: &Exit, memory_mib: u32) -> Option<String> {
    let processes = match exit.oom_kills {
        0 => return None,
        1 => "1 process".to_owned(),
        count => format!("{count} processes"),
    };
    Some(format!("the VM ran out of memory ({memory_mib} MiB) and its kernel killed {processes}"))
}

/// That a VM's disk is full, and what to do about it; its size may not be known.
pub(crate) fn of_disk(mib: Option<u64>) -> String {
    let size = mib.map_or_else(String::new, |mib| format!(" ({mib} MiB)"));
    format!("the disk is full{size}: give it more with `disk`")
}

/// That the host's disk is full, where it has this path.
pub(crate) fn of_host(path: &Path) -> String {
    format!("the host's disk is full, which VMs' disks are on: make room below {}", path.display())
}

/// Tells who ran the command, and what to do about it.
pub(crate) fn tell(exit: &Exit, memory_mib: u32) {
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
    fn killed_processes_are_counted_and_none_is_no_shortage() {
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
