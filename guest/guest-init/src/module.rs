//! The kernel modules that the boot needs; [`modprobe`](crate::modprobe) loads others later.
//!
//! The initramfs names them in `/modules/order`, one file of `/modules` a line, each after those
//! that it needs. An initramfs for a kernel without modules has no such file.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use crate::{Error, Result};

const FOLDER: &str = "/modules";

/// Loads all modules that the initramfs brings.
pub(crate) fn load_all() -> Result<()> {
    let path = Path::new(FOLDER).join("order");
    let order = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|source| Error::Read { path, source })?,
    };
    let names = order.lines().filter(|name| !name.is_empty());
    names.map(|name| Path::new(FOLDER).join(name)).try_for_each(|path| load(&path))
}

/// Loads one module.
pub(crate) fn load(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    match finit_module(&file, NO_PARAMETERS, ModuleInitFlags::empty()) {
        // The module is built in or already loaded.
        Err(Errno::EEXIST) => Ok(()),
        other => other.map_err(|source| Error::LoadModule { path: path.to_owned(), source }),
    }
}

const NO_PARAMETERS: &CStr = c"";
