//! OCI images: a layout folder, an archive of one, or what `docker save` writes.
//!
//! ```text
//! index.json ─> (nested index) ─> manifest ─> config
//!                                    └──────> layers, lowest first
//! ```
//!
//! INVARIANT: no byte of a blob reaches an image unless the blob's digest and size
//! are those that its reference states. Layers are hashed while they are read; a
//! wrong one fails the build, and with it the tree that it went into.

mod blob;
mod document;

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::archive::Archive;
use crate::build::Context;
use crate::compress;
use crate::digest::Key;
use crate::error::{Error, Result};
use crate::layer::{self, Whiteouts};
use crate::oci::blob::{Blobs, Reference};
use crate::oci::document::{Config, Descriptor, DockerManifest, Index, Manifest};
use crate::progress::Meter;
use crate::store::Defaults;
use crate::tree::Tree;

/// An image whose manifest and configuration have been read and checked.
pub(crate) struct Opened {
    blobs: Blobs,
    config: Config,
    layers: Vec<Reference>,
}

/// Opens the image and finds the manifest for this architecture.
pub(crate) fn open(path: &Path, context: &Context<'_>) -> Result<Opened> {
    let blobs = Blobs::open(path, &context.stage.path("layout.tar"))?;
    let opened = if blobs.has("index.json") {
        open_layout(blobs, context.arch.oci())?
    } else {
        open_docker(blobs)?
    };
    let arch = &opened.config.architecture;
    if arch != context.arch.oci() {
        return Err(opened.blobs.bad(format!("is for {arch}, not {}", context.arch.oci())));
    }
    Ok(opened)
}

impl Opened {
    /// Identity of all files: the digests of the layers in their order.
    pub(crate) fn key(&self) -> String {
        self.layers.iter().fold(Key::new("oci"), |key, layer| key.part(&layer.digest)).finish()
    }

    /// What the image says of how commands run in it.
    pub(crate) fn defaults(&self) -> Defaults {
        let config = self.config.config.clone().unwrap_or_default();
        Defaults {
            env: config.env.unwrap_or_default(),
            workdir: config.working_dir.filter(|dir| !dir.is_empty()),
            user: config.user.filter(|user| !user.is_empty()),
            entrypoint: config.entrypoint.unwrap_or_default(),
            command: config.cmd.unwrap_or_default(),
        }
    }

    /// Applies all layers to the tree.
    pub(crate) fn read(&self, tree: &mut Tree, meter: &mut Meter<'_>) -> Result<()> {
        for layer in &self.layers {
            let mut blob = self.blobs.reader(layer)?;
            let name = layer.name.as_str();
            let mut archive = Archive::new(compress::reader(&mut blob, name)?, name);
            layer::apply(tree, &mut archive, Whiteouts::Honoured, meter)?;
            drop(archive);
            blob.verify()?;
        }
        Ok(())
    }
}

fn open_layout(blobs: Blobs, arch: &str) -> Result<Opened> {
    let index: Index = parse(&blobs, "index.json", &blobs.document("index.json")?)?;
    let manifest = find_manifest(&blobs, index, arch)?;
    let config: Config = load(&blobs, &manifest.config)?;
    let mut layers = Vec::new();
    for descriptor in &manifest.layers {
        if !descriptor.is_layer() {
            let kind = &descriptor.media_type;
            return Err(blobs.bad(format!("has a layer of the unknown type {kind}")));
        }
        layers.push(reference(&blobs, descriptor)?);
    }
    Ok(Opened { blobs, config, layers })
}

/// Follows indexes down to the one manifest that fits.
fn find_manifest(blobs: &Blobs, mut index: Index, arch: &str) -> Result<Manifest> {
    const DEPTH: usize = 4;
    for _ in 0..DEPTH {
        let mut fitting: Vec<Descriptor> =
            index.manifests.into_iter().filter(|found| found.fits(arch)).collect();
        // Several names of one image are one image.
        fitting.dedup_by(|one, other| one.digest == other.digest);
        let Some(descriptor) = fitting.pop() else {
            return Err(blobs.bad(format!("has no image for linux/{arch}")));
        };
        if !fitting.is_empty() {
            let count = fitting.len() + 1;
            return Err(blobs.bad(format!("has {count} images for linux/{arch}, not one")));
        }
        if !descriptor.is_index() {
            return load(blobs, &descriptor);
        }
        index = load(blobs, &descriptor)?;
    }
    Err(blobs.bad(format!("has indexes nested more than {DEPTH} deep")))
}

/// `docker save` names its layers by path, and states their digests in the
/// configuration, whose own digest nothing states.
fn open_docker(blobs: Blobs) -> Result<Opened> {
    let mut manifests: Vec<DockerManifest> =
        parse(&blobs, "manifest.json", &blobs.document("manifest.json")?)?;
    let (Some(manifest), true) = (manifests.pop(), manifests.is_empty()) else {
        return Err(blobs.bad("has not exactly one image".to_owned()));
    };
    let config: Config = parse(&blobs, &manifest.config, &blobs.document(&manifest.config)?)?;
    if manifest.layers.len() != config.rootfs.diff_ids.len() {
        return Err(blobs.bad("states a digest for not every layer".to_owned()));
    }
    let mut layers = Vec::new();
    for (name, digest) in manifest.layers.into_iter().zip(&config.rootfs.diff_ids) {
        let digest = blobs.sha256(digest)?.to_owned();
        layers.push(Reference { name, digest, size: None });
    }
    Ok(Opened { blobs, config, layers })
}

fn load<T: DeserializeOwned>(blobs: &Blobs, descriptor: &Descriptor) -> Result<T> {
    let reference = reference(blobs, descriptor)?;
    let mut blob = blobs.reader(&reference)?;
    let bytes = blob.read_document()?;
    blob.verify()?;
    parse(blobs, &reference.name, &bytes)
}

fn reference(blobs: &Blobs, descriptor: &Descriptor) -> Result<Reference> {
    let digest = blobs.sha256(&descriptor.digest)?.to_owned();
    let name = format!("blobs/sha256/{digest}");
    Ok(Reference { name, digest, size: Some(descriptor.size) })
}

fn parse<T: DeserializeOwned>(blobs: &Blobs, name: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|source| Error::BadDocument {
        path: blobs.path().to_owned(),
        name: name.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
