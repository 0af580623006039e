//! Builds and stores guest images: kernel, initramfs, root file system.
