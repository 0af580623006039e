//! Property tests: an unprivileged user unpacks any tree that a checkpoint can hold into any existing
//! tree.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use nix::unistd::geteuid;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::json;
use tar::{Builder, EntryType, Header};

use crate::harness::Fixture;

/// The user who unpacks if the tests run as root, since modes do not restrict root.
const USER: u32 = 65534;

type Tree = BTreeMap<String, Node>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    File { mode: u32, content: Vec<u8> },
    Link { target: String },
    Folder { mode: u32, tree: Tree },
}

fn name() -> impl Strategy<Value = String> {
    // Checkpoints exclude this name.
    let name = prop_oneof![
        4 => "[abc]",
        2 => "[ -.0-~]{1,12}",
        1 => "\\PC{1,20}",
        1 => "x{255}",
        1 => Just("-rf\n".to_owned()),
    ];
    name.prop_filter("a name", |name| {
        !name.contains('/') && !matches!(name.as_str(), "." | ".." | ".vm0")
    })
}

fn node() -> impl Strategy<Value = Node> {
    let file = (0..=0o777_u32, vec(any::<u8>(), 0..2000));
    let leaf = prop_oneof![
        3 => file.prop_map(|(mode, content)| Node::File { mode, content }),
        1 => "[a-z./]{0,20}x".prop_map(|target| Node::Link { target }),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        (folder_mode(), btree_map(name(), inner, 0..4))
            .prop_map(|(mode, tree)| Node::Folder { mode, tree })
    })
}

fn folder_mode() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0o755), Just(0o555), Just(0o000), 0..=0o777_u32]
}

fn tree() -> impl Strategy<Value = Tree> {
    btree_map(name(), node(), 0..5)
}

/// The target before the run.
#[derive(Debug, Clone)]
enum Before {
    Nothing,
    Folder { mode: u32, tree: Tree },
}

fn before() -> impl Strategy<Value = Before> {
    prop_oneof![
        Just(Before::Nothing),
        folder_mode().prop_map(|mode| Before::Folder { mode, tree: Tree::new() }),
        (folder_mode(), tree()).prop_map(|(mode, tree)| Before::Folder { mode, tree }),
    ]
}

/// Packs an archive like a checkpoint.
fn pack(tree: &Tree) -> Vec<u8> {
    let mut builder = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    add(&mut builder, "", tree);
    builder.into_inner().unwrap().finish().unwrap()
}

fn add(builder: &mut Builder<GzEncoder<Vec<u8>>>, above: &str, tree: &Tree) {
    for (name, node) in tree {
        let path = format!("{above}{name}");
        match node {
            Node::File { mode, content } => {
                let mut header = header(EntryType::Regular, *mode);
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, &path, &content[..]).unwrap();
            }
            Node::Link { target } => {
                let mut header = header(EntryType::Symlink, 0o777);
                header.set_link_name_literal(target).unwrap();
                builder.append_data(&mut header, &path, &b""[..]).unwrap();
            }
            Node::Folder { mode, tree } => {
                let path = format!("{path}/");
                let mut header = header(EntryType::Directory, *mode);
                builder.append_data(&mut header, &path, &b""[..]).unwrap();
                add(builder, &path, tree);
            }
        }
    }
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(0);
    header
}

/// Creates a tree, owned by the user who unpacks.
fn make(folder: &Path, tree: &Tree) {
    for (name, node) in tree {
        let path = folder.join(name);
        match node {
            Node::File { content, .. } => fs::write(&path, content).unwrap(),
            Node::Link { target } => symlink(target, &path).unwrap(),
            Node::Folder { tree, .. } => {
                fs::create_dir(&path).unwrap();
                make(&path, tree);
            }
        }
        give(&path);
        if let Node::File { mode, .. } | Node::Folder { mode, .. } = node {
            fs::set_permissions(&path, PermissionsExt::from_mode(*mode)).unwrap();
        }
    }
}

fn give(path: &Path) {
    if geteuid().is_root() {
        std::os::unix::fs::lchown(path, Some(USER), Some(USER)).unwrap();
    }
}

/// Reads the tree in a folder, and makes it removable.
fn found(folder: &Path) -> Tree {
    let mut tree = Tree::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let mode = metadata.permissions().mode() & 0o7777;
        let node = if metadata.is_symlink() {
            Node::Link { target: fs::read_link(&path).unwrap().to_str().unwrap().to_owned() }
        } else {
            fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
            if metadata.is_dir() {
                Node::Folder { mode, tree: found(&path) }
            } else {
                Node::File { mode, content: fs::read(&path).unwrap() }
            }
        };
        tree.insert(name, node);
    }
    tree
}

/// The expected result: folders are merged, all other entries are replaced.
fn merged(old: &Tree, new: &Tree) -> Tree {
    let mut all = old.clone();
    for (name, node) in new {
        let node = match (old.get(name), node) {
            (Some(Node::Folder { tree: old, .. }), Node::Folder { mode, tree }) => {
                Node::Folder { mode: *mode, tree: merged(old, tree) }
            }
            _ => node.clone(),
        };
        all.insert(name.clone(), node);
    }
    all
}

/// Unpacks into `x`. The error is the program's standard error.
fn unpack(fixture: &Fixture, archive: &[u8]) -> Result<(), String> {
    fs::write(fixture.path("archive"), archive).unwrap();
    let url = format!("file://{}", fixture.path("archive").display());
    let manifest = json!({ "artifacts": [fixture.entry("x", &url)] }).to_string();
    fs::write(fixture.path("manifest"), manifest).unwrap();
    give(&fixture.path(""));
    let mut command = Command::new(env!("CARGO_BIN_EXE_guest-download"));
    command.arg(fixture.path("manifest")).env_remove("RUST_LOG");
    if geteuid().is_root() {
        command.uid(USER).gid(USER);
    }
    let output = command.output().unwrap();
    let stderr_text = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(stderr_text) }
}

fn names(fixture: &Fixture) -> Vec<String> {
    let entries = fs::read_dir(fixture.path("")).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_packed_tree_is_unpacked_into_any_existing_tree(
        before in before(),
        after in tree(),
    ) {
        let fixture = Fixture::new();
        let x = fixture.path("x");
        let mut old = Tree::new();
        if let Before::Folder { mode, tree } = &before {
            fs::create_dir(&x).unwrap();
            make(&x, tree);
            give(&x);
            fs::set_permissions(&x, PermissionsExt::from_mode(*mode)).unwrap();
            old = tree.clone();
        }

        let unpacked = unpack(&fixture, &pack(&after));

        prop_assert_eq!(unpacked, Ok(()));
        prop_assert_eq!(names(&fixture), ["archive", "manifest", "x"]);
        if let Before::Folder { mode: expected, .. } = before {
            prop_assert_eq!(mode(&x), expected);
        }
        fs::set_permissions(&x, PermissionsExt::from_mode(0o700)).unwrap();
        prop_assert_eq!(found(&x), merged(&old, &after));
    }
}

#[test]
#[ignore = "needs root"]
fn a_failed_merge_leaves_the_target_unchanged() {
    let fixture = Fixture::new();
    let x = fixture.path("x");
    let file = |content: &[u8]| Node::File { mode: 0o644, content: content.to_vec() };
    let folder = |mode, tree| Node::Folder { mode, tree };
    let old: Tree = [
        ("0".into(), file(b"old")),
        ("locked".into(), folder(0o555, [("f".into(), file(b"old"))].into())),
        ("roots".into(), folder(0o755, [("f".into(), file(b"old"))].into())),
        ("was-a-folder".into(), folder(0o500, [("f".into(), file(b"old"))].into())),
    ]
    .into();
    let mut new: Tree = (0..20).map(|number| (number.to_string(), file(b"new"))).collect();
    let both: Tree = [("f".into(), file(b"new")), ("g".into(), file(b"new"))].into();
    new.insert("locked".into(), folder(0o755, both.clone()));
    new.insert("roots".into(), folder(0o755, both));
    new.insert("was-a-folder".into(), file(b"new"));
    new.insert("z-folder".into(), folder(0o555, Tree::new()));
    fs::create_dir(&x).unwrap();
    make(&x, &old);
    give(&x);
    chown(x.join("roots"), Some(0), Some(0)).unwrap();

    let stderr_text = unpack(&fixture, &pack(&new)).unwrap_err();

    assert!(stderr_text.contains("Permission denied"), "{stderr_text}");
    assert_eq!(names(&fixture), ["archive", "manifest", "x"]);
    assert_eq!(found(&x), old);
}
