//! The labels that the runner gives to its VMs.

/// The label with the name of a VM's image.
pub const IMAGE: &str = "image";
/// The label with the program that a VM was started for.
pub const COMMAND: &str = "command";
