use super::*;
use crate::testing::{listing, tree};

fn add_file(tree: &mut Tree, path: &str, text: &str) -> Result<()> {
    tree.add(path.as_bytes(), Meta::with_mode(0o644), Content::File(&mut text.as_bytes()))
}

fn add_link(tree: &mut Tree, path: &str, target: &str) -> Result<()> {
    tree.add(path.as_bytes(), Meta::with_mode(0o777), Content::Symlink(target.as_bytes()))
}

fn add_hard_link(tree: &mut Tree, path: &str, target: &str) -> Result<()> {
    tree.add(path.as_bytes(), Meta::default(), Content::HardLink(target.as_bytes()))
}

#[test]
fn absolute_and_dotted_paths_are_resolved_in_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = tree(dir.path());

    add_file(&mut tree, "/etc/a", "1").unwrap();
    add_file(&mut tree, "./etc//b", "2").unwrap();

    assert_eq!(listing(&tree), ["etc/", "etc/a=1", "etc/b=2"]);
}

#[test]
fn a_path_that_leaves_the_tree_is_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = tree(dir.path());

    let error = add_file(&mut tree, "a/../../etc/passwd", "x").unwrap_err();

    assert_eq!(error.to_string(), "unsafe path a/../../etc/passwd in the source");
}

#[test]
fn link_to_the_hosts_root_leads_to_the_root_of_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = tree(dir.path());
    add_link(&mut tree, "out", "/").unwrap();
    add_link(&mut tree, "up", "../../../..").unwrap();

    add_file(&mut tree, "out/etc/a", "1").unwrap();
    add_file(&mut tree, "up/etc/b", "2").unwrap();

    assert_eq!(listing(&tree), ["etc/", "etc/a=1", "etc/b=2", "out->/", "up->../../../.."]);
}

#[test]
fn file_replaces_a_link_instead_of_writing_through_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = tree(dir.path());
    add_file(&mut tree, "target", "old").unwrap();
    add_link(&mut tree, "link", "target").unwrap();

    add_file(&mut tree, "link", "new").unwrap();

    assert_eq!(listing(&tree), ["link=new", "target=old"]);
}

#[test]
fn a_folder_over_a_folder_keeps_its_files_and_gets_the_new_attributes() {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = tree(dir.path());
    add_file(&mut tree, "d/a", "1").unwrap();

    tree.add(b"d/", Meta::with_mode(0o700), Content::Directory).unwrap();

    assert_eq!(listing(&tree), ["d/", "d/a=1"]);
    assert_eq!(tree.get(b"d").unwrap().unwrap().meta.mode, 0o700);
}

#[test]
fn link_loop_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = tree(dir.path());
    add_link(&mut tree, "a", "b").unwrap();
    add_link(&mut tree, "b", "a").unwrap();

    assert!(matches!(add_file(&mut tree, "a/x", ""), Err(Error::LinkLoop { .. })));
}

#[test]
fn file_as_a_parent_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = tree(dir.path());
    add_file(&mut tree, "a", "").unwrap();

    assert!(matches!(add_file(&mut tree, "a/x", ""), Err(Error::NotADirectory { .. })));
}

#[test]
fn hard_links_share_one_inode() {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = tree(dir.path());
    add_file(&mut tree, "a", "1").unwrap();

    add_hard_link(&mut tree, "b", "/a").unwrap();

    let mut inodes = Vec::new();
    tree.walk(&mut |_, inode, _| {
        inodes.push(inode);
        Ok(())
    })
    .unwrap();
    assert_eq!(inodes[0], inodes[1]);
}

#[test]
fn hard_link_to_something_absent_or_a_folder_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = tree(dir.path());
    add_file(&mut tree, "d/a", "1").unwrap();

    assert!(matches!(add_hard_link(&mut tree, "b", "absent"), Err(Error::BadLink { .. })));
    assert!(matches!(add_hard_link(&mut tree, "d/b", "d"), Err(Error::BadLink { .. })));
    assert!(matches!(add_hard_link(&mut tree, "b", "../d/a"), Err(Error::UnsafePath { .. })));
}

#[test]
fn more_bytes_than_the_limit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { bytes: 10, ..Limits::default() };
    let mut tree = Tree::create(&dir.path().join("spool"), limits).unwrap();
    add_file(&mut tree, "a", "12345").unwrap();

    let error = tree.add(b"bomb", Meta::default(), Content::File(&mut io::repeat(0))).unwrap_err();

    assert!(matches!(error, Error::TooLarge { limit: 10, .. }));
}

#[test]
fn more_files_than_the_limit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { entries: 3, ..Limits::default() };
    let mut tree = Tree::create(&dir.path().join("spool"), limits).unwrap();
    add_file(&mut tree, "a/b", "").unwrap();

    assert!(matches!(add_file(&mut tree, "c", ""), Err(Error::TooLarge { limit: 3, .. })));
}

#[test]
fn too_many_hard_links_of_a_file_are_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { metadata: 100, ..Limits::default() };
    let mut tree = Tree::create(&dir.path().join("spool"), limits).unwrap();
    add_file(&mut tree, "a", "").unwrap();

    assert!(matches!(add_hard_link(&mut tree, "b", "a"), Err(Error::TooLarge { .. })));
}

#[test]
fn extended_attributes_of_a_repeated_folder_count_towards_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { metadata: 300, ..Limits::default() };
    let mut tree = Tree::create(&dir.path().join("spool"), limits).unwrap();
    let large = || Meta { xattrs: vec![("user.a".into(), vec![0; 200])], ..Meta::default() };
    tree.add(b"d", large(), Content::Directory).unwrap();

    let again = tree.add(b"d", large(), Content::Directory);

    assert!(matches!(again, Err(Error::TooLarge { .. })));
}

#[test]
fn depth_that_grows_through_links_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = tree(dir.path());
    let deep = "d/".repeat(300);
    add_file(&mut tree, &format!("{deep}x"), "").unwrap();
    add_link(&mut tree, "link", &deep).unwrap();

    assert!(matches!(
        add_file(&mut tree, &format!("link/{deep}x"), ""),
        Err(Error::TooLarge { .. })
    ));
}

#[test]
fn an_error_of_the_source_is_distinguished_from_one_of_the_disk() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::InvalidData.into())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let mut tree = tree(dir.path());

    let error = tree.add(b"a", Meta::default(), Content::File(&mut Broken)).unwrap_err();

    assert!(matches!(error, Error::ReadMember { .. }));
}

#[test]
fn whiteout_hides_a_lower_layers_file_and_folder() {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = tree(dir.path());
    add_file(&mut tree, "a", "").unwrap();
    add_file(&mut tree, "d/e/f", "").unwrap();
    add_file(&mut tree, "kept", "").unwrap();
    tree.next_layer();

    tree.hide(b"a").unwrap();
    tree.hide(b"d").unwrap();
    tree.hide(b"absent/x").unwrap();

    assert_eq!(listing(&tree), ["kept="]);
}

#[test]
fn an_opaque_mark_keeps_earlier_files_of_its_own_layer() {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = tree(dir.path());
    add_file(&mut tree, "d/old", "").unwrap();
    add_file(&mut tree, "d/sub/old", "").unwrap();
    tree.next_layer();
    add_file(&mut tree, "d/sub/new", "").unwrap();

    tree.hide_children(b"d").unwrap();

    assert_eq!(listing(&tree), ["d/", "d/sub/", "d/sub/new="]);
}

#[test]
fn a_whiteout_does_not_hide_files_of_its_own_layer() {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = tree(dir.path());
    add_file(&mut tree, "a", "old").unwrap();
    tree.next_layer();
    add_file(&mut tree, "a", "new").unwrap();

    tree.hide(b"a").unwrap();

    assert_eq!(listing(&tree), ["a=new"]);
}
