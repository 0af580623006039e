//! The operations that end by themselves.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use files_proto::{Attributes, Code, Kind, MAX_ENTRIES, Reply, Request};

use crate::harness::Home;

fn list(path: &str, depth: u32) -> Request {
    Request::List { path: path.into(), depth }
}

fn remove(path: &str) -> Request {
    Request::Remove { path: path.into() }
}

fn rename(source: &str, destination: &str) -> Request {
    Request::Move { source: source.into(), destination: destination.into() }
}

fn make_dir(path: &str) -> Request {
    Request::MakeDir { path: path.into() }
}

#[test]
fn a_file_has_all_its_properties() {
    let home = Home::new();
    let path = home.path().join("é b");
    fs::write(&path, "hello").unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
    let time = UNIX_EPOCH + Duration::new(951_868_799, 123);
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();

    let entry = home.stat("é b");

    assert_eq!((entry.name.as_str(), entry.path.as_str()), ("é b", path.to_str().unwrap()));
    assert_eq!((entry.kind, entry.size, entry.mode), (Kind::File, 5, 0o640));
    assert_eq!(entry.permissions, "-rw-r-----");
    assert_eq!(entry.modified, "2000-02-29T23:59:59.000000123Z");
    assert!(!entry.owner.is_empty() && !entry.group.is_empty());
    assert_eq!(entry.link, None);
}

#[test]
fn a_link_says_what_it_leads_to() {
    let home = Home::new();
    fs::create_dir(home.path().join("folder")).unwrap();
    fs::set_permissions(home.path().join("folder"), PermissionsExt::from_mode(0o711)).unwrap();
    symlink("folder", home.path().join("first")).unwrap();
    symlink("first", home.path().join("second")).unwrap();
    symlink("nowhere", home.path().join("dangling")).unwrap();

    let entry = home.stat("second");
    assert_eq!(entry.kind, Kind::Symlink);
    assert!(entry.permissions.starts_with('l'));
    let link = entry.link.unwrap();
    let resolved = link.resolved.unwrap();
    let folder = home.path().canonicalize().unwrap().join("folder");
    assert_eq!(link.target, "first");
    assert_eq!((resolved.kind, resolved.mode), (Kind::Dir, 0o711));
    assert_eq!(Path::new(&resolved.path), folder);

    let followed = Request::Stat { path: "second".into(), follow: true };
    assert_eq!(home.entries(&followed).0[0].kind, Kind::Dir);
    assert_eq!(home.stat("dangling").link.unwrap().resolved, None);
}

#[test]
fn attributes_with_a_prefix_are_replaced_and_others_stay() {
    // Not every file system that tests run on has attributes.
    let home = Home::new();
    let path = home.path().join("file");
    fs::write(&path, "").unwrap();
    let set = |attributes: &[(&str, &str)]| {
        let attributes: BTreeMap<String, String> =
            attributes.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        home.serve(&Request::SetAttributes { path: "file".into(), prefix: "a.".into(), attributes })
    };

    let replies = set(&[("one", "1"), ("two", "2")]);

    if let Some(Reply::Error(failure)) = replies.last() {
        assert_eq!(failure.code, Code::Unsupported);
        return;
    }
    let other = Request::SetAttributes {
        path: "file".into(),
        prefix: "b.".into(),
        attributes: BTreeMap::from([("x".into(), "y".into())]),
    };
    home.serve(&other);
    set(&[("two", "3")]);
    let expected = [("a.two", "3"), ("b.x", "y")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(home.stat("file").attributes, BTreeMap::from(expected));
}

#[test]
fn a_list_goes_as_deep_as_it_is_told_in_the_order_of_names_and_through_no_link() {
    let home = Home::new();
    fs::create_dir_all(home.path().join("b/c/d")).unwrap();
    fs::write(home.path().join("a"), "").unwrap();
    symlink("b", home.path().join("link")).unwrap();
    let names = |depth| {
        let (entries, _) = home.entries(&list(".", depth));
        let below = |path: String| path.strip_prefix(&home.text()).unwrap().to_owned();
        entries.into_iter().map(|entry| below(entry.path)).collect::<Vec<_>>()
    };

    assert_eq!(names(1), ["/a", "/b", "/link"]);
    assert_eq!(names(2), ["/a", "/b", "/b/c", "/link"]);
    assert_eq!(names(u32::MAX), ["/a", "/b", "/b/c", "/b/c/d", "/link"]);
    // The top itself may be a link: its entries have the path that was asked for.
    let (entries, _) = home.entries(&list("link", 1));
    assert_eq!(entries[0].path, format!("{}/link/c", home.text()));
}

#[test]
fn a_name_that_is_not_text_is_shown_lossily_and_counted() {
    let home = Home::new();
    fs::write(home.path().join(OsStr::from_bytes(b"a\xff")), "").unwrap();
    let (entries, summary) = home.entries(&list(".", 1));
    assert_eq!(entries[0].name, "a\u{fffd}");
    assert_eq!(summary.lossy_names, 1);
}

#[test]
fn a_list_of_too_many_entries_is_an_error_that_says_so() {
    let home = Home::new();
    // Two folders, so that neither alone is over the limit.
    for folder in ["a", "b"] {
        fs::create_dir(home.path().join(folder)).unwrap();
        let first = home.path().join(folder).join("0");
        fs::write(&first, "").unwrap();
        // A file has at most 65,000 names.
        for number in 1..=MAX_ENTRIES / 2 {
            fs::hard_link(&first, home.path().join(folder).join(number.to_string())).unwrap();
        }
    }
    let (code, message) = home.failure(&list(".", 2));
    assert_eq!(code, Code::TooMany);
    assert!(message.contains("more than 100000 entries"), "{message}");
    assert_eq!(home.entries(&list("a", 1)).0.len(), MAX_ENTRIES / 2 + 1);
}

#[test]
fn only_a_folder_can_be_listed() {
    let home = Home::new();
    fs::write(home.path().join("file"), "").unwrap();
    assert_eq!(home.failure(&list("file", 1)).0, Code::NotADirectory);
    assert_eq!(home.failure(&list("absent", 1)).0, Code::NotFound);
    assert_eq!(home.failure(&list(".", 0)).0, Code::InvalidArgument);
}

#[test]
fn a_folder_is_made_with_those_above_it_and_says_if_it_was_there() {
    let home = Home::new();
    let (entries, summary) = home.entries(&make_dir("a/b"));
    assert_eq!(entries[0].path, format!("{}/a/b", home.text()));
    assert!(!summary.existed);
    assert!(home.entries(&make_dir("a")).1.existed);
    fs::write(home.path().join("file"), "").unwrap();
    assert_eq!(home.failure(&make_dir("file")).0, Code::NotADirectory);
    assert_eq!(home.failure(&make_dir("file/below")).0, Code::NotADirectory);
}

#[test]
fn a_move_makes_the_folders_above_and_replaces_a_file() {
    let home = Home::new();
    fs::write(home.path().join("file"), "new").unwrap();
    let (entries, _) = home.entries(&rename("file", "x/y/moved"));
    assert_eq!(entries[0].path, format!("{}/x/y/moved", home.text()));
    fs::write(home.path().join("old"), "old").unwrap();
    home.entries(&rename("x/y/moved", "old"));
    assert_eq!(fs::read_to_string(home.path().join("old")).unwrap(), "new");
}

#[test]
fn a_move_of_nothing_makes_no_folder() {
    let home = Home::new();
    let (code, message) = home.failure(&rename("absent", "x/y"));
    assert_eq!(code, Code::NotFound);
    assert_eq!(message, format!("cannot move {}/absent: no such file or directory", home.text()));
    assert!(!home.path().join("x").exists());
}

#[test]
fn a_removal_takes_a_folder_with_its_content_and_follows_no_link() {
    let home = Home::new();
    fs::create_dir_all(home.path().join("folder/below")).unwrap();
    fs::create_dir(home.path().join("outside")).unwrap();
    fs::write(home.path().join("outside/file"), "kept").unwrap();
    symlink(home.path().join("outside"), home.path().join("folder/below/link")).unwrap();
    symlink("outside", home.path().join("link")).unwrap();

    home.entries(&remove("folder"));
    home.entries(&remove("link"));

    assert!(!home.path().join("folder").exists());
    assert!(home.path().join("link").symlink_metadata().is_err());
    assert!(home.path().join("outside/file").exists());
    assert_eq!(home.failure(&remove("folder")).0, Code::NotFound);
}

#[test]
fn a_removal_of_a_tree_deeper_than_the_limit_of_descriptors_succeeds() {
    let home = Home::new();
    let mut path = home.path().join("deep");
    fs::create_dir(&path).unwrap();
    for _ in 0..1500 {
        path.push("d");
        fs::create_dir(&path).unwrap();
    }
    home.entries(&remove("deep"));
    assert!(!home.path().join("deep").exists());
}

#[test]
fn the_root_is_not_removed() {
    let home = Home::new();
    for path in ["/", "/usr/..", "//"] {
        let (code, message) = home.failure(&remove(path));
        assert_eq!(code, Code::InvalidArgument);
        assert!(message.ends_with("it is the root folder"), "{message}");
    }
}

#[test]
fn a_malformed_request_is_an_error_that_says_why() {
    let home = Home::new();
    let long = "x".repeat(files_proto::MAX_REQUEST);
    for request in ["", "{}", "{\"stat\":{}}", "{\"fly\":{}}", long.as_str()] {
        let replies = home.serve_text(request);
        let [Reply::Error(failure)] = replies.as_slice() else { panic!("{replies:?}") };
        assert_eq!(failure.code, Code::InvalidArgument, "{failure:?}");
    }
    for path in ["", "a\0b"] {
        assert_eq!(home.failure(&remove(path)).0, Code::InvalidArgument);
    }
}

#[test]
fn a_write_empties_a_file_and_replaces_the_attributes_with_the_prefix() {
    let home = Home::new();
    let write = |path: &str, color: Option<&str>, content: &str| {
        let values = color.map(|color| ("color".to_owned(), color.to_owned())).into_iter();
        let attributes = Attributes { prefix: "e2b.".into(), values: values.collect() };
        let request = Request::Write { path: path.into(), attributes: Some(attributes) };
        home.serve_text(&(serde_json::to_string(&request).unwrap() + "\n" + content))
    };
    let Some(Reply::Entry(entry)) = write("d/a", Some("red"), "long content").into_iter().next()
    else {
        panic!("no entry")
    };
    assert_eq!((entry.size, entry.mode), (12, 0o644));
    assert_eq!(entry.attributes["e2b.color"], "red");
    write("d/a", None, "short");
    let entry = home.stat("d/a");
    assert_eq!((entry.size, entry.attributes.is_empty()), (5, true));

    let refused = |path: &str| match write(path, None, "").pop() {
        Some(Reply::Error(failure)) => failure.code,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused("d"), Code::IsADirectory);
    assert_eq!(refused("d/a/b"), Code::AlreadyExists);
    nix::unistd::mkfifo(&home.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(refused("fifo"), Code::InvalidArgument);
}
