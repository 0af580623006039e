use std::fs;
use std::io::Read as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::context::with_context;
use crate::digest;
use crate::progress::{Origin, Step};
use crate::testing::{TarBuilder, listing, tree};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A layout folder that is being written.
struct Layout {
    dir: tempfile::TempDir,
}

impl Layout {
    fn new() -> Layout {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("layout/blobs/sha256")).unwrap();
        fs::write(dir.path().join("layout/oci-layout"), "{}").unwrap();
        Layout { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("layout")
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest::of_bytes(bytes);
        fs::write(self.path().join("blobs/sha256").join(&digest), bytes).unwrap();
        json!({
            "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len(),
        })
    }

    fn manifest(&self, layers: &[Value]) -> Value {
        let config = json!({
            "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []},
            "config": {"Env": ["A=1"], "WorkingDir": "/srv", "User": "", "Cmd": ["sh"]},
        });
        let config = self.blob("application/vnd.oci.image.config.v1+json", &bytes(&config));
        self.blob(MANIFEST, &bytes(&json!({"config": config, "layers": layers})))
    }

    fn index(&self, manifests: &[Value]) {
        fs::write(self.path().join("index.json"), bytes(&json!({"manifests": manifests}))).unwrap();
    }

    fn image(&self, layers: &[Value]) {
        self.index(&[self.manifest(layers)]);
    }
}

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

/// Opens and reads an image: its defaults and the listing of its files.
fn load_image(path: &Path) -> Result<(Defaults, Vec<String>)> {
    load_tagged(path, None)
}

fn load_tagged(path: &Path, tag: Option<&str>) -> Result<(Defaults, Vec<String>)> {
    let state = tempfile::tempdir().unwrap();
    with_context(state.path(), &mut Vec::new(), |context, reporter| {
        let mut tree = tree(state.path());
        let result = open(path, tag, context).and_then(|opened| {
            reporter.step(Step::Read, |meter| {
                opened.read(&mut tree, meter)?;
                Ok(((), Origin::Made))
            })?;
            Ok((opened.defaults(), listing(&tree)))
        });
        Ok(result)
    })
}

fn fault(path: &Path) -> String {
    let text = load_image(path).unwrap_err().to_string();
    text.split_once("layout").map_or(text.clone(), |(_, rest)| rest.trim().to_owned())
}

#[test]
fn layers_are_applied_in_order_with_their_whiteouts() {
    let layout = Layout::new();
    let lower = TarBuilder::new().file("a", "1").file("b", "2").finish();
    let upper = TarBuilder::new().file("b", "3").file(".wh.a", "").finish();
    let upper = zstd::encode_all(&upper[..], 1).unwrap();
    layout.image(&[
        layout.blob(LAYER, &lower),
        layout.blob("application/vnd.oci.image.layer.v1.tar+zstd", &upper),
    ]);

    let (defaults, files) = load_image(&layout.path()).unwrap();

    assert_eq!(files, ["b=3"]);
    assert_eq!(defaults.env, ["A=1"]);
    assert_eq!(defaults.workdir.as_deref(), Some("/srv"));
    assert_eq!(defaults.user, None);
    assert_eq!(defaults.command, ["sh"]);
}

#[test]
fn nested_index_leads_to_the_manifest_of_this_architecture() {
    let layout = Layout::new();
    let layer = layout.blob(LAYER, &TarBuilder::new().file("a", "1").finish());
    let mut ours = layout.manifest(&[layer]);
    let mut other = layout.manifest(&[]);
    ours["platform"] = json!({"architecture": "amd64", "os": "linux"});
    other["platform"] = json!({"architecture": "s390x", "os": "linux"});
    let nested = bytes(&json!({"manifests": [other, ours]}));
    layout.index(&[layout.blob(INDEX, &nested)]);

    assert_eq!(load_image(&layout.path()).unwrap().1, ["a=1"]);
}

#[test]
fn archive_of_a_layout_is_read_like_the_layout() {
    let layout = Layout::new();
    layout.image(&[layout.blob(LAYER, &TarBuilder::new().file("a", "1").finish())]);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_dir_all(".", layout.path()).unwrap();
    let compressed = zstd::encode_all(&builder.into_inner().unwrap()[..], 1).unwrap();
    let path = layout.dir.path().join("image.tar.zst");
    fs::write(&path, compressed).unwrap();

    assert_eq!(load_image(&path).unwrap().1, ["a=1"]);
}

#[test]
fn archive_of_docker_save_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let layer = TarBuilder::new().file("a", "1").finish();
    let config = json!({
        "architecture": "amd64",
        "rootfs": {"diff_ids": [format!("sha256:{}", digest::of_bytes(&layer))]},
    });
    let manifest = json!([{"Config": "c.json", "RepoTags": [], "Layers": ["l/layer.tar"]}]);
    let archive = TarBuilder::new()
        .bytes("c.json", &bytes(&config))
        .bytes("l/layer.tar", &layer)
        .bytes("manifest.json", &bytes(&manifest));
    let path = dir.path().join("docker.tar");
    fs::write(&path, archive.finish()).unwrap();

    assert_eq!(load_image(&path).unwrap().1, ["a=1"]);
}

#[test]
fn layer_that_was_changed_is_refused() {
    let layout = Layout::new();
    let layer = layout.blob(LAYER, &TarBuilder::new().file("a", "1").finish());
    layout.image(std::slice::from_ref(&layer));
    let hex = layer["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let changed = TarBuilder::new().file("a", "2").finish();
    fs::write(layout.path().join("blobs/sha256").join(hex), changed).unwrap();

    let expected = format!("is damaged: blobs/sha256/{hex} is not what its digest says");
    assert_eq!(fault(&layout.path()), expected);
}

#[test]
fn bytes_after_the_end_of_a_layers_archive_are_hashed_too() {
    let layout = Layout::new();
    let mut layer = TarBuilder::new().file("a", "1").finish();
    layer.extend_from_slice(b"trailing");
    layout.image(&[layout.blob(LAYER, &layer)]);

    assert_eq!(load_image(&layout.path()).unwrap().1, ["a=1"]);
}

#[test]
fn digest_that_is_a_path_is_refused() {
    let layout = Layout::new();
    layout.index(&[json!({
        "mediaType": MANIFEST, "digest": "sha256:../../../../etc/passwd", "size": 1,
    })]);

    assert_eq!(
        fault(&layout.path()),
        "has a digest that is no sha256: sha256:../../../../etc/passwd"
    );
}

#[test]
fn blob_that_is_a_link_out_of_the_layout_is_not_followed() {
    let layout = Layout::new();
    let text = b"{\"manifests\":[]}";
    let outside = layout.dir.path().join("outside");
    fs::write(&outside, text).unwrap();
    let descriptor = layout.blob(INDEX, text);
    let hex = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
    let blob = layout.path().join("blobs/sha256").join(hex);
    fs::remove_file(&blob).unwrap();
    std::os::unix::fs::symlink(&outside, &blob).unwrap();
    layout.index(&[descriptor]);

    assert!(matches!(load_image(&layout.path()), Err(Error::ReadMember { .. })));
}

#[test]
fn deeply_nested_indexes_are_an_error() {
    let layout = Layout::new();
    let innermost = layout.blob(INDEX, &bytes(&json!({"manifests": []})));
    let nest = |inner: Value| layout.blob(INDEX, &bytes(&json!({"manifests": [inner]})));
    layout.index(&[nest(nest(nest(nest(innermost))))]);

    assert_eq!(fault(&layout.path()), "has indexes nested more than 4 deep");
}

#[test]
fn two_images_for_this_architecture_are_an_error() {
    let layout = Layout::new();
    let one = layout.manifest(&[]);
    let other = layout.manifest(&[layout.blob(LAYER, &TarBuilder::new().finish())]);
    layout.index(&[one, other]);

    let expected = "has 2 images, choose one with --tag: one without a tag, one without a tag";
    assert_eq!(fault(&layout.path()), expected);
}

#[test]
fn tag_chooses_among_the_images_of_a_layout() {
    let layout = Layout::new();
    let image = |name: &str, tags: [&str; 2]| {
        let layer = layout.blob(LAYER, &TarBuilder::new().file(name, "1").finish());
        let mut manifest = layout.manifest(&[layer]);
        manifest["annotations"] = json!({
            "org.opencontainers.image.ref.name": tags[0], "io.containerd.image.name": tags[1],
        });
        manifest
    };
    let one = image("one", ["v1", "docker.io/library/app:v1"]);
    let two = image("two", ["v2", "docker.io/library/app:v2"]);
    let mut latest = two.clone();
    latest["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
    layout.index(&[one, two, latest]);
    let files = |tag| load_tagged(&layout.path(), Some(tag)).map(|(_, files)| files);

    assert_eq!(files("v1").unwrap(), ["one=1"]);
    assert_eq!(files("docker.io/library/app:v2").unwrap(), ["two=1"]);
    assert_eq!(files("latest").unwrap(), ["two=1"]);
    let names = "docker.io/library/app:v1, docker.io/library/app:v2, latest";
    let error = files("v3").unwrap_err().to_string();
    assert!(error.ends_with(&format!("no image with the tag v3: it has {names}")), "{error}");
    let error = fault(&layout.path());
    assert_eq!(error, format!("has 2 images, choose one with --tag: {names}"));
}

/// Writes a docker-archive of images, each with a tag and a layer, whose files are called as the
/// writer likes.
fn docker_archive(images: &[(&str, &str, &[u8])], config_name: &dyn Fn(&str) -> String) -> Vec<u8> {
    let mut archive = TarBuilder::new();
    let mut manifests = Vec::new();
    for (tag, layer_name, layer) in images {
        let mut plain = Vec::new();
        compress::reader(*layer, "layer").unwrap().read_to_end(&mut plain).unwrap();
        let diff_id = format!("sha256:{}", digest::of_bytes(&plain));
        let config = json!({"architecture": "amd64", "rootfs": {"diff_ids": [diff_id]}});
        let config = bytes(&config);
        let name = config_name(&digest::of_bytes(&config));
        archive = archive.bytes(&name, &config).bytes(layer_name, layer);
        manifests.push(json!({"Config": name, "RepoTags": [tag], "Layers": [layer_name]}));
    }
    archive.bytes("manifest.json", &bytes(&json!(manifests))).finish()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn archives_of_crane_ko_kaniko_and_jib_have_compressed_layers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layout.tar");
    let layer = gzip(&TarBuilder::new().file("a", "1").finish());
    let name = format!("{}.tar.gz", digest::of_bytes(&layer));
    let by_digest = |digest: &str| format!("sha256:{digest}");
    for config_name in [&by_digest as &dyn Fn(&str) -> String, &|_| "config.json".to_owned()] {
        fs::write(&path, docker_archive(&[("app:1", &name, &layer)], config_name)).unwrap();
        assert_eq!(load_image(&path).unwrap().1, ["a=1"]);
    }

    let images: [(&str, &str, &[u8]); 1] = [("app:1", &name, &layer)];
    let archive = docker_archive(&images, &by_digest);
    let at = archive.windows(layer.len()).position(|bytes| bytes == layer).unwrap();
    let mut changed = archive.clone();
    let other = gzip(&TarBuilder::new().file("a", "2").finish());
    changed[at..at + other.len()].copy_from_slice(&other);
    fs::write(&path, changed).unwrap();
    assert!(fault(&path).contains("is damaged"), "{}", fault(&path));
}

#[test]
fn unpacked_docker_archive_is_read_like_the_archive() {
    let dir = tempfile::tempdir().unwrap();
    let layer = gzip(&TarBuilder::new().file("a", "1").finish());
    let archive = docker_archive(&[("app:1", "l.tar.gz", &layer)], &|hex| format!("sha256:{hex}"));
    tar::Archive::new(&archive[..]).unpack(dir.path()).unwrap();

    assert_eq!(load_image(dir.path()).unwrap().1, ["a=1"]);
}

#[test]
fn tag_chooses_among_the_images_of_a_docker_archive() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layout.tar");
    let layer = |name: &str| TarBuilder::new().file(name, "1").finish();
    let (one, two) = (layer("one"), layer("two"));
    let images: [(&str, &str, &[u8]); 2] = [("app:v1", "1.tar", &one), ("app:v2", "2.tar", &two)];
    fs::write(&path, docker_archive(&images, &|hex| format!("{hex}.json"))).unwrap();

    assert_eq!(load_tagged(&path, Some("v2")).unwrap().1, ["two=1"]);
    assert_eq!(load_tagged(&path, Some("app:v1")).unwrap().1, ["one=1"]);
    let error = fault(&path);
    assert!(error.ends_with("has 2 images, choose one with --tag: app:v1, app:v2"), "{error}");
}

#[test]
fn layer_that_is_a_link_to_an_equal_one_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("docker.tar");
    let layer = TarBuilder::new().file("a", "1").finish();
    let diff_id = format!("sha256:{}", digest::of_bytes(&layer));
    let config = json!({"architecture": "amd64", "rootfs": {"diff_ids": [diff_id, diff_id]}});
    let manifest = json!([{"Config": "c", "RepoTags": null, "Layers": ["x/l.tar", "y/l.tar"]}]);
    let archive = TarBuilder::new()
        .bytes("c", &bytes(&config))
        .symlink("x/l.tar", "../y/l.tar")
        .bytes("y/l.tar", &layer)
        .bytes("manifest.json", &bytes(&manifest));
    fs::write(&path, archive.finish()).unwrap();

    assert_eq!(load_image(&path).unwrap().1, ["a=1"]);
}

#[test]
fn layer_of_an_unknown_type_is_an_error() {
    let layout = Layout::new();
    layout.image(&[layout.blob("application/x-encrypted", b"")]);

    assert_eq!(fault(&layout.path()), "has a layer of the unknown type application/x-encrypted");
}

#[test]
fn a_wrong_size_of_a_blob_is_rejected() {
    let layout = Layout::new();
    let mut layer = layout.blob(LAYER, &TarBuilder::new().file("a", "1").finish());
    layer["size"] = json!(7);
    layout.image(&[layer]);

    assert!(fault(&layout.path()).starts_with("is damaged"));
}
