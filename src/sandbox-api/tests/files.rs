//! The client for files: against a fake sandbox in which the real guest-files runs, and against replies
//! that it would not send.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write, pipe};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use files_proto::PROGRAM;
use sandbox::fake::{Factory, Manner, Script};
use sandbox::{
    Cancellation, DiskLimits, Image, Owner, Sandbox, SandboxConfig, SandboxFactory, SandboxId, User,
};
use sandbox_api::files::{
    Code, Error, EventKind, Files, Kind, Range, WatchItem, WatchScope, WriteOptions,
};
use tempfile::TempDir;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

const TIMEOUT: Duration = Duration::from_secs(60);

fn start(factory: &Factory) -> Box<dyn Sandbox> {
    let none = PathBuf::new;
    let image = Image { kernel: none(), initramfs: none(), rootfs: none(), disk_template: none() };
    let config = SandboxConfig {
        id: SandboxId::random().unwrap(),
        name: None,
        labels: BTreeMap::new(),
        image,
        vcpus: 1,
        memory_mib: 1,
        disk_limits: DiskLimits::default(),
        network: None,
        hostname: String::new(),
        timezone: None,
        host_authorities: Vec::new(),
    };
    factory.start(&config, &Cancellation::new(), soon()).unwrap()
}

/// A sandbox in which guest-files runs with this home.
fn with_home(home: &TempDir) -> (Factory, Box<dyn Sandbox>) {
    let text = home.path().to_str().unwrap().to_owned();
    let factory = Script::default()
        .answer(PROGRAM, move |_, request| {
            let (input, mut end) = pipe().unwrap();
            end.write_all(request).unwrap();
            drop(end);
            let mut output = Vec::new();
            let success = guest_files::run(input, &text, &mut output).unwrap();
            (output, u8::from(!success))
        })
        .factory();
    let sandbox = start(&factory);
    (factory, sandbox)
}

/// A sandbox in which guest-files sends this.
fn that_answers(output: &'static str, code: u8) -> Box<dyn Sandbox> {
    let reply = move |_: &_, _: &[u8]| (output.as_bytes().to_vec(), code);
    start(&Script::default().answer(PROGRAM, reply).factory())
}

#[test]
fn the_client_and_the_program_understand_each_other() {
    let home = tempfile::tempdir().unwrap();
    let (factory, sandbox) = with_home(&home);
    let files = Files::new(&*sandbox, Some(User::Name("user".into())));
    let text = home.path().to_str().unwrap();

    let (made, is_new) = files.make_dir("a/b", soon()).unwrap();
    assert_eq!((made.path, made.kind, is_new), (format!("{text}/a/b"), Kind::Dir, true));
    assert!(!files.make_dir("a/b", soon()).unwrap().1);
    fs::write(home.path().join("a/file"), "12345").unwrap();
    assert_eq!(files.stat("~/a/file", soon()).unwrap().size, 5);
    assert_eq!(files.move_entry("a/file", "a/b/moved", soon()).unwrap().name, "moved");
    let listing = files.list("a", 2, soon()).unwrap();
    let names: Vec<_> = listing.entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["b", "moved"]);
    files.remove("a", soon()).unwrap();
    let error = files.stat("a", soon()).unwrap_err();
    assert_eq!(error.code(), Some(Code::NotFound));
    assert_eq!(error.to_string(), format!("cannot read {text}/a: no such file or directory"));
    assert_eq!(files.account(soon()).unwrap().home, text);

    let record = factory.record();
    assert!(record.execs.iter().all(|exec| exec.user == Some(User::Name("user".into()))));
    assert!(record.execs.iter().all(|exec| exec.argv == [PROGRAM]));
}

#[test]
fn a_file_is_written_for_the_user_and_with_the_folders_above_it() {
    let home = tempfile::tempdir().unwrap();
    let (factory, sandbox) = with_home(&home);
    let files = Files::new(&*sandbox, Some(User::Name("user".into())));
    let content = vec![7; 100_000];

    let written = files.write_file("x/y", &mut &content[..], &WriteOptions::default()).unwrap();

    let path = home.path().join("x/y");
    assert_eq!((written.path.as_str(), written.size), (path.to_str().unwrap(), 100_000));
    let account = files.account(soon()).unwrap();
    let record = factory.record();
    assert!(record.files[&path] == content);
    let request = &record.writes[0];
    assert_eq!(request.owner, Some(Owner { uid: account.uid, gid: account.gid }));
    assert!(request.make_parents && request.keeps_existing);
}

#[test]
fn content_that_cannot_be_read_is_an_error_that_names_the_file() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the client went"))
        }
    }
    let home = tempfile::tempdir().unwrap();
    let (_factory, sandbox) = with_home(&home);
    let files = Files::new(&*sandbox, None);
    let error = files.write_file("/x", &mut Broken, &WriteOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "cannot read the content for /x");
    assert!(matches!(error, Error::Content { .. }));
}

#[test]
fn a_range_of_a_file_is_read() {
    let home = tempfile::tempdir().unwrap();
    let all = b"abc\0\0\0\0\0defg";
    fs::write(home.path().join("file"), all).unwrap();
    let (factory, sandbox) = with_home(&home);
    let files = Files::new(&*sandbox, Some(User::Name("user".into())));
    let read = |range: Range| {
        let mut reader = files.read_file("file", range, TIMEOUT).unwrap();
        assert_eq!(reader.entry().size, 12);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    };

    assert_eq!(read(Range::default()), all);
    for offset in 0..=13 {
        for length in 0..=13 {
            let (from, to) = (offset.min(12), (offset + length).min(12));
            let range = Range { offset: offset as u64, length: Some(length as u64) };
            assert_eq!(read(range), all[from..to], "{range:?}");
        }
    }
    let record = factory.record();
    assert!(record.execs.iter().all(|exec| exec.user == Some(User::Name("user".into()))));
}

#[test]
fn a_folder_and_what_is_not_there_are_not_read() {
    let home = tempfile::tempdir().unwrap();
    let (_factory, sandbox) = with_home(&home);
    let files = Files::new(&*sandbox, None);
    let code = |path| files.read_file(path, Range::default(), TIMEOUT).err().unwrap().code();
    assert_eq!(code("."), Some(Code::IsADirectory));
    assert_eq!(code("absent"), Some(Code::NotFound));
    assert_eq!(code("/dev/null"), Some(Code::InvalidArgument));
}

#[test]
fn content_that_is_not_complete_is_an_error() {
    const ENTRY: &str = "{\"entry\":{\"name\":\"f\",\"path\":\"/f\",\"type\":\"file\",\"size\":9,\"mode\":420,\
        \"permissions\":\"\",\"owner\":\"\",\"group\":\"\",\"modified\":\"\"}}\n{\"done\":{}}";
    let sandbox = that_answers(ENTRY, 1);
    let mut reader = Files::new(&*sandbox, None).read_file("f", Range::default(), TIMEOUT).unwrap();

    let mut content = String::new();
    let error = reader.read_to_string(&mut content).unwrap_err();

    assert_eq!(content, "{\"done\":{}}", "what follows the entry is content");
    assert_eq!(error.to_string(), "guest-files ended early with code 1: ");
}

#[test]
fn events_of_a_watch_come_in_their_order_and_its_failure_ends_it() {
    let sandbox = start(&Script::default().hold(PROGRAM, Manner::Deaf).factory());
    let files = Files::new(&*sandbox, None);
    // The fake sandbox's held command says nothing: the watch does not begin.
    let deadline = Instant::now();
    let error = files.watch("x", WatchScope::default(), deadline).err().unwrap();
    assert!(matches!(error, Error::Sandbox(sandbox::Error::TimedOut { .. })), "{error}");

    let script = Script::default().on(
        PROGRAM,
        &[
            "{\"watching\":{}}\n{\"event\":{\"na",
            "me\":\"a\",\"type\":\"create\"}}\n{\"synced\":{}}\n",
            "{\"error\":{\"code\":\"gone\",\"message\":\"it is gone\"}}\n",
        ],
        1,
    );
    let sandbox = start(&script.factory());
    let files = Files::new(&*sandbox, None);
    let mut watch = files.watch("x", WatchScope::default(), soon()).unwrap();
    let Ok(WatchItem::Event(event)) = watch.next(Some(soon())) else { panic!("no event") };
    assert_eq!((event.kind, event.name.as_str()), (EventKind::Create, "a"));
    assert_eq!(watch.next(Some(soon())).unwrap(), WatchItem::Synced);
    assert_eq!(watch.next(Some(soon())).unwrap_err().code(), Some(Code::Gone));
}

#[test]
fn a_program_that_sends_no_replies_is_an_error() {
    let stat = |output, code| {
        let sandbox = that_answers(output, code);
        Files::new(&*sandbox, None).stat("x", soon()).unwrap_err().to_string()
    };
    let malformed = "guest-files sent a malformed reply";
    assert_eq!(stat("nonsense\n", 0), malformed);
    assert_eq!(stat("{\"done\":{}}\n", 0), malformed);
    assert_eq!(stat("{\"watching\":{}}\n", 0), malformed);
    assert_eq!(stat(Box::leak("x".repeat(1 << 20).into_boxed_str()), 0), malformed);
    assert_eq!(stat("", 3), "guest-files ended early with code 3: ");
}

#[test]
fn an_image_without_the_program_is_an_error_that_says_what_to_do() {
    let sandbox = start(&Script::default().factory());
    let error = Files::new(&*sandbox, None).stat("x", soon()).unwrap_err();
    let text = "the sandbox cannot run /usr/local/bin/guest-files (not in the script): build its \
                image anew with `runner image build`";
    assert_eq!(error.to_string(), text);
}

#[test]
fn a_path_that_is_too_long_is_refused_before_it_is_sent() {
    let sandbox = start(&Script::default().factory());
    let error = Files::new(&*sandbox, None).stat(&"x".repeat(1 << 20), soon()).unwrap_err();
    assert_eq!(error.code(), Some(Code::InvalidArgument));
}

#[test]
fn a_port_of_a_fake_sandbox_is_connected_only_if_something_listens() {
    let factory = Script::default().listen(80).factory();
    let sandbox = start(&factory);
    let mut stream = sandbox.connect(80, soon()).unwrap();
    let (port, peer) = factory.record().connections.remove(0);
    (&peer).write_all(b"hello").unwrap();
    drop(peer);
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!((port, text.as_str()), (80, "hello"));
    let error = sandbox.connect(81, soon()).unwrap_err();
    assert!(matches!(error, sandbox::Error::NothingListens { port: 81 }), "{error}");
    factory.end(sandbox.id());
    let error = sandbox.connect(80, soon()).unwrap_err();
    assert!(matches!(error, sandbox::Error::Connect { port: 80, .. }), "{error}");
}
