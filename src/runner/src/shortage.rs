//! Messages for a VM that ran out of memory.

use sandbox::Exit;

use crate::output;

/// Prints which processes the OOM killer ended, if any, with the remedy, to standard error.
pub(crate) fn print(exit: &Exit, memory_mib: u32) {
    if let Some(text) = exit.memory_shortage(memory_mib) {
        output::remark(format_args!("runner: {text}: give it more with --memory"));
    }
}
