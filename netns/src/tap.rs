//! Taps: links whose other end is a file descriptor, which a monitor serves as a VM's network card.

use std::fs::File;
use std::io;

use nix::errno::Errno;

use crate::error::file;
use crate::{Result, sys};

const DEVICE: &str = "/dev/net/tun";

/// Makes a persistent tap in this thread's namespace.
pub(crate) fn make(name: &str) -> Result<()> {
    let device = open_device()?;
    sys::attach_tap(&device, name).map_err(file("make a tap with", DEVICE))?;
    sys::persist_tap(&device).map_err(file("keep the tap of", DEVICE))
}

/// Opens a tap of this thread's namespace; `None` if it is open elsewhere.
pub(crate) fn open(name: &str) -> Result<Option<File>> {
    let device = open_device()?;
    match sys::attach_tap(&device, name) {
        Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => Ok(None),
        Err(error) => Err(file("open the tap of", DEVICE)(error)),
        Ok(()) => Ok(Some(device)),
    }
}

/// Makes a user the owner of the tap, who may open it by its name.
pub(crate) fn give(tap: &File, uid: u32) -> Result<()> {
    sys::give_tap(tap, uid).map_err(file("give away the tap of", DEVICE))
}

fn open_device() -> Result<File> {
    let opened = File::options().read(true).write(true).open(DEVICE);
    opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            crate::Error::NoFeature { feature: "taps (/dev/net/tun)", remedy: "modprobe tun" }
        }
        _ => file("open", DEVICE)(error),
    })
}
