//! Whether the process that owns a VM lives.
//!
//! The lock in the VM's folder is not enough: a child that the owner was just forking holds a copy of the
//! lock's descriptor until its exec, and may outlive the owner that long.

use std::fs;

use serde::{Deserialize, Serialize};

/// A process, identified by pid and start time, since pids are reused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pid: u32,
    /// In clock ticks since the host's boot.
    started: Option<u64>,
    /// The namespace of the pid.
    pid_namespace: Option<String>,
}

impl Owner {
    /// This process.
    pub fn this() -> Self {
        let pid = std::process::id();
        Self { pid, started: started(pid), pid_namespace: pid_namespace() }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it is certainly dead. A process of another pid namespace may live.
    pub(crate) fn is_dead(&self) -> bool {
        self.pid_namespace.is_some()
            && self.pid_namespace == pid_namespace()
            && self.started.is_some()
            && self.started != started(self.pid)
    }
}

/// When a process started; `None` if it does not exist or is a zombie.
fn started(pid: u32) -> Option<u64> {
    const STATE: usize = 0;
    const START_TIME: usize = 19;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything; fields are counted after it.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    match *fields.get(STATE)? {
        "Z" | "X" => None,
        _ => fields.get(START_TIME)?.parse().ok(),
    }
}

fn pid_namespace() -> Option<String> {
    let link = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(link.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_reported_as_alive() {
        assert!(!Owner::this().is_dead());
    }

    #[test]
    fn an_ended_process_is_dead_even_as_a_zombie() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let owner = Owner { pid: child.id(), started: started(child.id()), ..Owner::this() };
        assert!(!owner.is_dead());
        child.kill().unwrap();
        while started(child.id()).is_some() {
            std::thread::yield_now();
        }
        assert!(owner.is_dead());
        child.wait().unwrap();
        assert!(owner.is_dead());
    }

    #[test]
    fn a_later_process_with_the_same_pid_is_not_the_owner() {
        let mut owner = Owner::this();
        owner.started = owner.started.map(|started| started + 1);
        assert!(owner.is_dead());
    }

    #[test]
    fn an_owner_of_another_pid_namespace_may_live() {
        let mut owner = Owner { pid: u32::MAX, ..Owner::this() };
        owner.pid_namespace = Some("pid:[1]".into());
        assert!(!owner.is_dead());
    }
}
