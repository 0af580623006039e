//! `fleet-host STATE CONFIG`: a runner host for tests. The service is the real one, and so are the programs
//! in its guests; a guest is a process in namespaces of its own instead of a VM.
//!
//! SIGTERM drains it, as it does a runner. Killing it kills its guests if it is the first process of its
//! PID namespace.

#![allow(clippy::unwrap_used, reason = "a test's host that cannot start has failed")]

mod guest;

use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::unbounded;
use egress::ProxyPool;
use nix::sys::signal::{SigSet, Signal};
use sandbox::Image;
use service::{Config, Dependencies, JobSource, Service, ServiceLock};

use self::guest::Guests;

fn main() {
    env_logger::init();
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (state, config) = (arguments.next().unwrap(), arguments.next().unwrap());
    let handled = SigSet::from_iter([Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2]);
    handled.thread_block().unwrap();
    let (tell, signals) = unbounded();
    let listen = move || {
        while let Ok(signal) = handled.wait() {
            if tell.send(signal).is_err() {
                return;
            }
        }
    };
    base::thread::spawn("signals", listen).unwrap();
    let config = Config::read(&config).unwrap();
    let _lock = ServiceLock::take(&state).unwrap();
    let guests = Arc::new(Guests::open(&state));
    let dependencies = Dependencies {
        source: JobSource::remote(&state, &config).unwrap(),
        kill_vm: {
            let guests = Arc::clone(&guests);
            Arc::new(move |vm| guests.kill(vm))
        },
        factory: guests,
        images: Arc::new(|_| Ok(image())),
        proxies: ProxyPool::open(&state, &state).unwrap(),
        state_dir: state,
    };
    let service = Service::new(&config, dependencies, signals).unwrap();
    println!("ready");
    service.run().unwrap();
}

fn image() -> Image {
    let none = PathBuf::new;
    Image { kernel: none(), initramfs: none(), rootfs: none(), disk_template: none() }
}
