//! A root folder of its own for a process: whatever it is made to do, it sees no other file.
//!
//! It is entered in a mount namespace that nobody else has, which the kernel takes down with the
//! process. So a jail needs no clearing up but for its folder.
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
    /// `folder`, an absolute path, is to be the root. A program in it must not change it before.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), devices: Vec::new() }
    }

    /// With a device of the host's `/dev`, by the same path, for the process's user alone.
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
