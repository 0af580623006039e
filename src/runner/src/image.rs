//! The files of an image that a VM starts from.

use rootfs::Store;
use sandbox::Image;

use crate::error::Result;

/// The files of an image, with a disk of `disk_mib` MiB or the image's own.
pub(crate) fn files(store: &Store, image: &rootfs::Image, disk_mib: Option<u64>) -> Result<Image> {
    let disk_template = match disk_mib {
        Some(mib) => store.disk(mib)?,
        None => image.disk_template.clone(),
    };
    Ok(Image {
        kernel: image.kernel.clone(),
        initramfs: image.initramfs.clone(),
        rootfs: image.rootfs.clone(),
        disk_template,
    })
}
