//! A guest whose card is a network's tap.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::index;
use crate::namespace::Namespace;
use crate::netlink::Socket;
use crate::{Lease, guest, link, sys, tap};

const CARD: &str = "eth0";

/// A guest whose card is a network's tap.
#[derive(Debug)]
pub struct Guest {
    namespace: Namespace,
    stop: Arc<EventFd>,
    pump: Option<JoinHandle<()>>,
}

impl Guest {
    /// A guest behind a leased network.
    pub fn behind(lease: &Lease) -> Self {
        Self::serve(lease.open_tap().unwrap(), guest::ADDRESS, guest::PREFIX, Some(guest::GATEWAY))
    }

    /// A guest behind a bare tap in this thread's namespace, without a network; returns the address of this
    /// end.
    pub fn bare() -> (Self, Ipv4Addr) {
        let (near, far) = (Ipv4Addr::new(100, 0, 1, 1), Ipv4Addr::new(100, 0, 1, 2));
        tap::make("bare").unwrap();
        let device = tap::open("bare").unwrap().unwrap();
        let index = index("bare");
        let up = [link::assign(index, near, 24), link::set_up_without_ipv6(index)];
        Socket::route().unwrap().request(&up).unwrap();
        (Self::serve(device, far, 24, None), near)
    }

    fn serve(outer: File, address: Ipv4Addr, prefix: u8, gateway: Option<Ipv4Addr>) -> Self {
        let (namespace, inner) = Namespace::make(|| {
            // Older kernels lack the file in a new namespace.
            let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
            tap::make(CARD)?;
            let card = tap::open(CARD)?.unwrap();
            let index = index(CARD);
            let mut up = vec![
                link::set_up(1),
                link::assign(index, address, prefix),
                link::set_up_as(index, guest::MAC),
            ];
            up.extend(gateway.map(|gateway| link::default_route(gateway, index)));
            Socket::route().unwrap().request(&up).unwrap();
            Ok(card)
        })
        .unwrap();
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
        let stop = Arc::new(stop);
        let pump = {
            let stop = Arc::clone(&stop);
            Builder::new().name("pump".into()).spawn(move || pump(outer, inner, &stop)).unwrap()
        };
        Self { namespace, stop, pump: Some(pump) }
    }

    /// Stops the guest: frames pass in neither direction any more.
    pub fn stop(&self) {
        self.stop.write(1).unwrap();
    }

    /// Runs `work` in the guest. Sockets that it returns stay there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.within(|| Ok(work())).unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop();
        if let Some(pump) = self.pump.take() {
            let _ = pump.join();
        }
    }
}

/// Copies frames between two taps until `stop` is set.
fn pump(outer: File, inner: File, stop: &EventFd) {
    for tap in [&outer, &inner] {
        sys::offload_tap(tap).unwrap();
        fcntl(tap, FcntlArg::F_SETFL(OFlag::O_NONBLOCK | OFlag::O_RDWR)).unwrap();
    }
    let mut frame = vec![0; 70 << 10];
    loop {
        let mut fds = [
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(outer.as_fd(), PollFlags::POLLIN),
            PollFd::new(inner.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut fds, PollTimeout::NONE).unwrap();
        if fds[0].any().unwrap_or(true) {
            return;
        }
        carry(&outer, &inner, &mut frame);
        carry(&inner, &outer, &mut frame);
    }
}

fn carry(mut from: &File, mut to: &File, frame: &mut [u8]) {
    for _ in 0..64 {
        match from.read(frame) {
            // A frame that the other tap does not accept is lost.
            Ok(count) => drop(to.write(&frame[..count])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("{error}"),
        }
    }
}
