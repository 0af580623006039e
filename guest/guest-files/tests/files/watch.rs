//! Watches.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;

use files_proto::EventKind::{Chmod, Create, Remove, Rename, Write};
use files_proto::{Code, EventKind, Kind, Request, WatchScope};

use crate::harness::Home;

const RECURSIVE: WatchScope =
    WatchScope { recursive: true, include_entry: false, allow_network: false };

fn changes(all: &[(EventKind, &str)]) -> Vec<(EventKind, String)> {
    all.iter().map(|(kind, name)| (*kind, (*name).to_owned())).collect()
}

#[test]
fn each_kind_of_change_is_reported_by_its_relative_name() {
    let home = Home::new();
    let file = home.path().join("file");
    let mut watch = home.watch(".", WatchScope::default());

    fs::write(&file, "x").unwrap();
    assert_eq!(watch.changes(), changes(&[(Create, "file"), (Write, "file")]));
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(watch.changes(), changes(&[(Chmod, "file")]));
    fs::rename(&file, home.path().join("moved")).unwrap();
    assert_eq!(watch.changes(), changes(&[(Rename, "file"), (Create, "moved")]));
    fs::remove_file(home.path().join("moved")).unwrap();
    assert_eq!(watch.changes(), changes(&[(Remove, "moved")]));
    assert_eq!(watch.changes(), []);
}

#[test]
fn a_file_that_is_written_is_seen_three_times_from_its_begin() {
    let home = Home::new();
    let mut watch = home.watch(".", WatchScope::default());
    let request = Request::Write { path: "a".into(), attributes: None };
    let text = serde_json::to_string(&request).unwrap() + "\ncontent\n";

    home.serve_text(&text);

    assert_eq!(watch.changes(), changes(&[(Create, "a"), (Chmod, "a"), (Write, "a")]));
    assert_eq!(fs::read(home.path().join("a")).unwrap(), b"content\n");
}

#[test]
fn a_folder_below_is_watched_only_if_asked_for() {
    let home = Home::new();
    fs::create_dir(home.path().join("sub")).unwrap();
    let mut flat = home.watch(".", WatchScope::default());
    let mut deep = home.watch(".", RECURSIVE);
    fs::write(home.path().join("sub/file"), "").unwrap();
    assert_eq!(flat.changes(), []);
    assert_eq!(deep.changes(), changes(&[(Create, "sub/file")]));
}

#[test]
fn what_is_in_a_new_folder_is_reported_once() {
    let home = Home::new();
    let mut watch = home.watch(".", RECURSIVE);
    for round in 0..50 {
        let folder = home.path().join(format!("{round}"));
        fs::create_dir_all(folder.join("a/b")).unwrap();
        fs::write(folder.join("a/b/file"), "").unwrap();
        let names = ["", "/a", "/a/b", "/a/b/file"].map(|below| format!("{round}{below}"));
        assert_eq!(watch.changes(), names.map(|name| (Create, name)));
        // It is watched by now.
        let mut file = fs::File::options().append(true).open(folder.join("a/b/file")).unwrap();
        file.write_all(b"x").unwrap();
        assert_eq!(watch.changes(), [(Write, format!("{round}/a/b/file"))]);
    }
}

#[test]
fn a_moved_folder_is_watched_under_its_new_name_and_one_moved_out_no_more() {
    let (home, outside) = (Home::new(), Home::new());
    fs::create_dir_all(home.path().join("a/b")).unwrap();
    let mut watch = home.watch(".", RECURSIVE);

    fs::rename(home.path().join("a"), home.path().join("z")).unwrap();
    assert_eq!(watch.changes(), changes(&[(Rename, "a"), (Create, "z"), (Create, "z/b")]));
    fs::write(home.path().join("z/b/file"), "").unwrap();
    assert_eq!(watch.changes(), changes(&[(Create, "z/b/file")]));

    let out = outside.path().join("z");
    fs::rename(home.path().join("z"), &out).unwrap();
    assert_eq!(watch.changes(), changes(&[(Rename, "z")]));
    fs::write(out.join("b/other"), "").unwrap();
    assert_eq!(watch.changes(), []);
}

#[test]
fn a_file_that_the_host_writes_is_reported_under_its_own_name_when_it_is_complete() {
    let home = Home::new();
    let mut watch = home.watch(".", WatchScope { include_entry: true, ..RECURSIVE });
    let partial = home.path().join(".file.0123456789abcdef.partial");

    fs::write(&partial, "x").unwrap();
    fs::set_permissions(&partial, PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(watch.changes(), []);
    // The move's two halves are read together.
    fs::rename(&partial, home.path().join("file")).unwrap();
    let events = watch.events();

    let kinds: Vec<_> = events.iter().map(|event| (event.kind, event.name.as_str())).collect();
    assert_eq!(kinds, [(Create, "file"), (Chmod, "file"), (Write, "file")]);
    assert_eq!(events[2].entry.as_ref().unwrap().size, 1);
    fs::write(home.path().join(".x.partial"), "").unwrap();
    assert_eq!(watch.changes(), changes(&[(Create, ".x.partial")]));
}

#[test]
fn an_event_has_the_entry_where_there_is_one() {
    let home = Home::new();
    let mut watch = home.watch(".", WatchScope { include_entry: true, ..WatchScope::default() });
    fs::create_dir(home.path().join("sub")).unwrap();
    let entry = watch.events().remove(0).entry.unwrap();
    assert_eq!((entry.kind, entry.path), (Kind::Dir, format!("{}/sub", home.text())));
    fs::remove_dir(home.path().join("sub")).unwrap();
    assert_eq!(watch.events()[0].entry, None);
}

#[test]
fn the_removal_and_the_move_of_the_folder_end_the_watch() {
    let home = Home::new();
    for (name, what) in [("a", "removed"), ("b", "moved")] {
        let folder = home.path().join(name);
        fs::create_dir(&folder).unwrap();
        let watch = home.watch(name, RECURSIVE);
        if name == "a" {
            fs::remove_dir(&folder).unwrap();
        } else {
            fs::rename(&folder, home.path().join("c")).unwrap();
        }
        let failure = watch.failure();
        assert_eq!(failure.code, Code::Gone);
        let text = format!("the watched folder {} was {what}", folder.display());
        assert_eq!(failure.message, text);
    }
}

#[test]
fn changes_that_come_too_fast_end_the_watch() {
    let home = Home::new();
    let watch = home.watch(".", WatchScope::default());
    // The replies are not read meanwhile, and the kernel keeps a limited number of events.
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    // Two events each, of which a pipe holds some hundreds.
    for number in 0..limit / 2 + 5_000 {
        let path = home.path().join(format!("a-name-that-is-a-little-longer-{}", number % 2));
        fs::write(&path, "").unwrap();
        fs::remove_file(&path).unwrap();
    }
    let failure = watch.failure();
    assert_eq!(failure.code, Code::Overflow);
}

#[test]
fn only_a_folder_is_watched() {
    let home = Home::new();
    fs::write(home.path().join("file"), "").unwrap();
    let watch = |path: &str| Request::Watch { path: path.into(), scope: WatchScope::default() };
    assert_eq!(home.failure(&watch("file")).0, Code::NotADirectory);
    assert_eq!(home.failure(&watch("absent")).0, Code::NotFound);
}
