//! Errors of builds and of the store.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use crate::arch::Arch;
use crate::compress::Format;

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// The operation that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Error {
    // Invalid requests.
    #[error("invalid image name {name:?}: expected [a-z0-9][a-z0-9._-]*, at most 64 characters")]
    BadName { name: String },
    #[error("no image named {name}")]
    NoImage { name: String },
    #[error("source {text:?} is not debian:SUITE, recipe:NAME, a folder or an archive")]
    BadSource { text: String },
    #[error(
        "{text} is not a file or folder, and registries are not supported: save the image to a file with \
         `skopeo copy docker://{text} oci-archive:image.tar`, or `docker save -o image.tar {text}`, \
         and use that with --from image.tar"
    )]
    NotAFile { text: String },
    #[error(
        "{path} is not a container image (no `manifest.json` or `oci-layout`) and not a root file \
         system (no `bin`, `etc`, `usr` or similar): use an archive of `docker save`, crane, ko, \
         kaniko, jib, buildah or skopeo, or a tar archive of a root file system"
    )]
    UnknownArchive { path: PathBuf },
    #[error("a tag selects an image of an archive, and {source_text} contains no images")]
    TagWithoutImage { source_text: String },
    #[error("packages can only be added to debian:SUITE and recipes, not to {source_text}")]
    PackagesWithoutDebian { source_text: String },
    #[error("sudo can only be left out of debian:SUITE and recipes, not of {source_text}")]
    SudoWithoutDebian { source_text: String },
    #[error("no recipe named {name}: the recipes are {known}")]
    NoRecipe { name: String, known: String },
    #[error("invalid package name {name:?}")]
    BadPackage { name: String },
    #[error("the disk size {mib} MiB is not between {least} and {most} MiB")]
    BadDiskSize { mib: u64, least: u64, most: u64 },
    #[error("images cannot be built on {name}, only on x86_64 and aarch64")]
    UnknownArch { name: &'static str },
    #[error("{path} is not a program for {arch:?}")]
    NotAProgram { path: PathBuf, arch: Arch },
    #[error("{path} needs a dynamic loader: guest programs must be static")]
    DynamicProgram { path: PathBuf },

    // Files of the host.
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Durable(#[from] base::durable::Error),
    #[error("cannot rename {from} to {to}")]
    Rename { from: PathBuf, to: PathBuf, source: io::Error },
    #[error("cannot link {from} to {to}")]
    Link { from: PathBuf, to: PathBuf, source: io::Error },
    #[error("cannot lock {path}")]
    Lock { path: PathBuf, source: io::Error },
    #[error(
        "not enough disk space in {path}: {needed_mib} MiB needed, {available_mib} MiB available"
    )]
    NoSpace { path: PathBuf, needed_mib: u64, available_mib: u64 },
    #[error("{path} is malformed")]
    BadRecord { path: PathBuf, source: serde_json::Error },

    // Programs of the host.
    #[error("cannot find {tool}: install package {package}")]
    MissingTool { tool: &'static str, package: &'static str },
    #[error("cannot start {tool}")]
    StartTool { tool: &'static str, source: io::Error },
    #[error("cannot read from {tool}")]
    ReadTool { tool: &'static str, source: io::Error },
    #[error("cannot write to {tool}")]
    WriteTool { tool: &'static str, source: io::Error },
    #[error("{tool} failed ({status}): {output}")]
    ToolFailed { tool: &'static str, status: ExitStatus, output: String },

    // The npm registry.
    #[error("cannot fetch npm package {package}")]
    FetchPackage { package: String, source: Box<Error> },
    #[error("npm left no archive in {folder}")]
    NothingFetched { folder: PathBuf },
    #[error("npm package {package} has the integrity {found}, not {wanted}")]
    WrongPackage { package: String, wanted: &'static str, found: String },
    #[error("npm package {package} has {member}, which is not a file in its folder")]
    UnexpectedMember { package: String, member: String },
    #[error("npm package {package} has no program {file}")]
    NoProgram { package: String, file: &'static str },

    // The kernel.
    #[error("apt has no kernel package {name}")]
    NoKernelPackage { name: &'static str },
    #[error("{path} does not match its digest")]
    WrongDigest { path: PathBuf },
    #[error("{path} changed while the image was built")]
    SourceChanged { path: PathBuf },
    #[error("kernel {release} has no module {module}")]
    MissingModule { module: &'static str, release: String },
    #[error("cannot extract the kernel")]
    BadKernel { source: PayloadFault },

    // What the source holds.
    #[error("cannot read {archive}")]
    ReadArchive { archive: String, source: io::Error },
    #[error("cannot read {archive}: {format:?} compression is not supported")]
    UnknownCompression { archive: String, format: Format },
    #[error("{archive} is not a valid archive")]
    BadArchive { archive: String, source: archive::Error },
    #[error("cannot read {member} in the source")]
    ReadMember { member: String, source: io::Error },
    #[error("unsafe path {member} in the source")]
    UnsafePath { member: String },
    #[error("path too long in the source: {member}…")]
    PathTooLong { member: String },
    #[error("a parent of {member} in the source is not a folder")]
    NotADirectory { member: String },
    #[error("{member} in the source cannot be a link to {target}")]
    BadLink { member: String, target: String },
    #[error("too many symbolic links in the path of {member} in the source")]
    LinkLoop { member: String },
    #[error("the source is too large: more than {limit} {what}")]
    TooLarge { what: &'static str, limit: u64 },
    #[error("image {path} {what}")]
    BadImage { path: PathBuf, what: String },
    #[error("{name} of image {path} is malformed")]
    BadDocument { path: PathBuf, name: String, source: serde_json::Error },
}

/// What is wrong with a kernel file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the texts say it")]
pub enum PayloadFault {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("neither a bzImage nor an uncompressed kernel")]
    Unknown,
    #[error("{format:?} compression is not supported")]
    Compression { format: Format },
    #[error("truncated compressed block")]
    Truncated,
    #[error("malformed lz4 block")]
    Lz4 { source: lz4_flex::block::DecompressError },
    #[error("{length} bytes exceed the size of a kernel")]
    TooLarge { length: usize },
    #[error("expected {stated} bytes, found {found}")]
    Length { stated: usize, found: usize },
    #[error("the decompressed file is not a kernel")]
    NotAKernel,
}
