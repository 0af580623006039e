//! Confines a process to a root folder (`pivot_root`): it sees no other file.
//!
//! The process has its own mount namespace, which ends with it. So only the folder must be removed.
//!
//! ```text
//!   <folder>/        the root, without programs that run or devices that open
//!       dev/         a file system of its own, in memory, with the devices that are named
//! ```

pub(crate) mod sys;

use std::ffi::CString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::c_string;
use crate::{Error, Result};

/// A folder that becomes the root of a process.
#[derive(Debug, Clone)]
pub struct Jail {
    folder: PathBuf,
    devices: Vec<PathBuf>,
}

/// What [`sys::enter`] needs, made before the fork. All paths but the folder's are relative to it.
pub(crate) struct Plan {
    folder: CString,
    /// Within `dev`, each after those above it.
    folders: Vec<CString>,
    devices: Vec<(CString, u64)>,
}

impl Jail {
    /// Makes `folder`, an absolute path, the root. No other program may change it before.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), devices: Vec::new() }
    }

    /// Adds a device of the host's `/dev` under the same path, owned by the process's user.
    #[must_use]
    pub fn device(mut self, path: impl Into<PathBuf>) -> Self {
        self.devices.push(path.into());
        self
    }

    pub(crate) fn prepare(&self) -> Result<Plan> {
        let dev = self.folder.join("dev");
        match fs::create_dir(&dev) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(failed(&dev)(error));
            }
            _ => {}
        }
        let mut plan = Plan {
            folder: c_string(self.folder.as_os_str().as_bytes())?,
            folders: Vec::new(),
            devices: Vec::new(),
        };
        for device in &self.devices {
            let number = fs::metadata(device).map_err(failed(device))?.rdev();
            let path = device.strip_prefix("/").unwrap_or(device);
            let above: Vec<_> = path.ancestors().skip(1).collect();
            for folder in above.into_iter().rev().filter(|folder| folder.components().count() > 1) {
                plan.folders.push(c_string(folder.as_os_str().as_bytes())?);
            }
            plan.devices.push((c_string(path.as_os_str().as_bytes())?, number));
        }
        Ok(plan)
    }
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Jail { path, source }
}
