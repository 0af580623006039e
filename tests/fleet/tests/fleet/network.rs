//! Network namespaces on a bridge, each with an address of its own. They have no names and end with the
//! descriptors that are open here, however this process ends.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};

/// A namespace with a bridge, to which all nodes are connected.
pub(crate) struct Network {
    hub: File,
    nodes: u8,
}

/// A namespace with an address.
pub(crate) struct Node {
    namespace: File,
    hub: File,
    link: String,
    pub(crate) address: Ipv4Addr,
}

impl Network {
    pub(crate) fn new() -> Self {
        let hub = namespace();
        within(&hub, || {
            ip(&["link", "add", "hub", "type", "bridge"]);
            ip(&["link", "set", "hub", "up"]);
        });
        Self { hub, nodes: 0 }
    }

    pub(crate) fn node(&mut self) -> Node {
        self.nodes += 1;
        let address = Ipv4Addr::new(10, 77, 0, self.nodes);
        let (namespace, link) = (namespace(), format!("node{}", self.nodes));
        let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        within(&self.hub, || {
            let there = ["peer", "name", "eth0", "netns", &path];
            ip(&[&["link", "add", &link, "type", "veth"], &there[..]].concat());
            ip(&["link", "set", &link, "master", "hub", "up"]);
        });
        within(&namespace, || {
            ip(&["address", "add", &format!("{address}/24"), "dev", "eth0"]);
            ip(&["link", "set", "eth0", "up"]);
            ip(&["link", "set", "lo", "up"]);
        });
        Node { namespace, hub: self.hub.try_clone().unwrap(), link, address }
    }
}

impl Node {
    /// Runs `work` in the namespace; processes that it starts stay there.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        within(&self.namespace, work)
    }

    /// Separates the node from all others.
    pub(crate) fn cut(&self) {
        within(&self.hub, || ip(&["link", "set", &self.link, "down"]));
    }

    pub(crate) fn heal(&self) {
        within(&self.hub, || ip(&["link", "set", &self.link, "up"]));
    }
}

fn namespace() -> File {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    };
    std::thread::scope(|scope| scope.spawn(make).join().unwrap())
}

fn within<T: Send>(namespace: &File, work: impl FnOnce() -> T + Send) -> T {
    let enter = || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(enter).join().unwrap())
}

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ip {}: {said}", arguments.join(" "));
}
