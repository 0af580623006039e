//! Files into VMs and out of them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::runner::{Runner, text};

#[test]
#[ignore = "needs root and QEMU"]
fn a_tree_goes_in_and_comes_back_as_it_was() {
    let runner = Runner::new();
    let here = tempfile::tempdir().unwrap();
    let (source, back) = (here.path().join("source"), here.path().join("back"));
    fs::create_dir_all(source.join("empty")).unwrap();
    fs::create_dir_all(source.join("a/b")).unwrap();
    fs::write(source.join("a/b/script"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(source.join("a/b/script"), PermissionsExt::from_mode(0o750)).unwrap();
    fs::write(source.join("large"), vec![7; 3_000_000]).unwrap();
    symlink("a/b/script", source.join("link")).unwrap();
    let copy_in = format!("{}:/srv/tree", source.display());
    let copy_out = format!("/srv/tree:{}", back.display());
    runner.succeed(&["run", "--copy-in", &copy_in, "--copy-out", &copy_out, "--", "true"]);
    assert!(back.join("empty").is_dir());
    assert_eq!(fs::read(back.join("large")).unwrap(), vec![7; 3_000_000]);
    assert_eq!(fs::read_link(back.join("link")).unwrap().to_str(), Some("a/b/script"));
    let mode = fs::metadata(back.join("a/b/script")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o750);
}

#[test]
#[ignore = "needs root and QEMU"]
fn what_is_not_there_is_named_and_the_exit_code_tells() {
    let runner = Runner::new();
    let output = runner.run(&["run", "--copy-in", "/no/such/file:/x", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("/no/such/file"), "{}", text(&output.stderr));
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_full_disk_in_the_guest_is_a_clear_error() {
    let runner = Runner::new();
    let here = tempfile::tempdir().unwrap();
    let file = here.path().join("file");
    fs::write(&file, vec![1; 8 << 20]).unwrap();
    runner.succeed(&["run", "-d", "--name", "full"]);
    let mount = "mkdir /small && mount -t tmpfs -o size=4m none /small";
    runner.succeed(&["exec", "full", "--", "sh", "-c", mount]);
    let output = runner.run(&["cp", file.to_str().unwrap(), "full:/small/file"]);
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("no space left"), "{}", text(&output.stderr));
    assert_eq!(runner.succeed(&["exec", "full", "--", "ls", "-A", "/small"]), "");
    runner.succeed(&["stop", "full"]);
}
