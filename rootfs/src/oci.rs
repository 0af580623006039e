//! Container images: OCI layouts, and Docker archives of `docker save`, crane, ko, kaniko and jib;
//! as an archive or a folder.
//!
//! ```text
//! index.json ─> (nested index) ─> manifest ─> config
//!                                    └──────> layers, lowest first
//! ```
//!
//! INVARIANT: a blob is part of an image only if its digest and size match its reference. Layers
//! are hashed while they are read; a mismatch fails the build, so its tree is not used.

mod blob;
mod document;

use std::collections::HashSet;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::compress;
use crate::context::Context;
use crate::digest::Key;
use crate::error::{Error, Result};
use crate::layer::{self, Whiteouts};
use crate::members::Archive;
use crate::oci::blob::{Blobs, Hashed, Reference};
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
///
/// If there are several images, `tag` selects one by its tag or its full name.
pub(crate) fn open(path: &Path, tag: Option<&str>, context: &Context<'_>) -> Result<Opened> {
    let blobs = Blobs::open(path, &context.stage.path("layout.tar"))?;
    let opened = if blobs.has("index.json") {
        open_layout(blobs, tag, context.arch.oci())?
    } else {
        open_docker(blobs, tag)?
    };
    let arch = &opened.config.architecture;
    if arch != context.arch.oci() {
        return Err(opened.blobs.bad(format!("is for {arch}, not {}", context.arch.oci())));
    }
    Ok(opened)
}

impl Opened {
    /// The identity of all files: the digests of the layers in order.
    pub(crate) fn key(&self) -> String {
        self.layers.iter().fold(Key::new("oci"), |key, layer| key.part(&layer.digest)).finish()
    }

    /// The defaults for commands from the image's configuration.
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

fn open_layout(blobs: Blobs, tag: Option<&str>, arch: &str) -> Result<Opened> {
    let index: Index = parse(&blobs, "index.json", &blobs.document("index.json")?)?;
    let manifest = find_manifest(&blobs, index, tag, arch)?;
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

/// Follows nested indexes to the only matching manifest.
fn find_manifest(
    blobs: &Blobs,
    mut index: Index,
    mut tag: Option<&str>,
    arch: &str,
) -> Result<Manifest> {
    const MAX_DEPTH: usize = 4;
    for _ in 0..MAX_DEPTH {
        let fitting = index.manifests.into_iter().filter(|found| found.fits(arch));
        let fitting: Vec<Descriptor> = fitting.collect();
        if fitting.is_empty() {
            return Err(blobs.bad(format!("has no image for linux/{arch}")));
        }
        let named = fitting.into_iter().map(|one| (one.names(), one.digest.clone(), one));
        // The outermost index has the names.
        let descriptor = choose(blobs, named.collect(), tag.take())?;
        if !descriptor.is_index() {
            return load(blobs, &descriptor);
        }
        index = load(blobs, &descriptor)?;
    }
    Err(blobs.bad(format!("has indexes nested more than {MAX_DEPTH} deep")))
}

/// Opens a Docker archive. It names its layers by path, and has their digests in the configuration,
/// which has no digest itself.
fn open_docker(blobs: Blobs, tag: Option<&str>) -> Result<Opened> {
    let manifests: Vec<DockerManifest> =
        parse(&blobs, "manifest.json", &blobs.document("manifest.json")?)?;
    let named = manifests
        .into_iter()
        .map(|mut one| (one.repo_tags.take().unwrap_or_default(), one.config.clone(), one));
    let manifest = choose(&blobs, named.collect(), tag)?;
    let config: Config = parse(&blobs, &manifest.config, &blobs.document(&manifest.config)?)?;
    if manifest.layers.len() != config.rootfs.diff_ids.len() {
        return Err(blobs.bad("states a digest for not every layer".to_owned()));
    }
    let mut layers = Vec::new();
    for (name, digest) in manifest.layers.into_iter().zip(&config.rootfs.diff_ids) {
        let digest = blobs.sha256(digest)?.to_owned();
        layers.push(Reference { name, digest, size: None, hashed: Hashed::Unpacked });
    }
    Ok(Opened { blobs, config, layers })
}

/// Selects the image with the tag, or the only image without one. Several names of one image count
/// as one.
fn choose<T>(blobs: &Blobs, images: Vec<(Vec<String>, String, T)>, tag: Option<&str>) -> Result<T> {
    let names = images.iter().map(|(names, ..)| match names.first() {
        Some(name) => name.clone(),
        None => "one without a tag".to_owned(),
    });
    let names = names.collect::<Vec<_>>().join(", ");
    let is_meant =
        |names: &[String]| tag.is_none_or(|tag| names.iter().any(|name| fits(name, tag)));
    let found: Vec<_> = images.into_iter().filter(|(names, ..)| is_meant(names)).collect();
    let count = found.iter().map(|(_, identity, _)| identity).collect::<HashSet<_>>().len();
    if count > 1 {
        return Err(blobs.bad(format!("has {count} images, choose one with --tag: {names}")));
    }
    let image = found.into_iter().next().map(|(.., image)| image);
    image.ok_or_else(|| {
        blobs.bad(match tag {
            Some(tag) => format!("has no image with the tag {tag}: it has {names}"),
            None => "has no image".to_owned(),
        })
    })
}

/// Whether `tag` matches the image name `name`.
fn fits(name: &str, tag: &str) -> bool {
    name == tag || name.rsplit_once(':').is_some_and(|(_, end)| end == tag)
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
    Ok(Reference { name, digest, size: Some(descriptor.size), hashed: Hashed::Stored })
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
