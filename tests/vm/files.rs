//! Files into VMs and out of them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use crate::runner::{Runner, text};

#[test]
#[ignore = "needs root and QEMU"]
fn a_tree_is_copied_in_and_out_unchanged() {
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
fn a_missing_source_of_a_copy_is_named_and_fails() {
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

#[test]
#[ignore = "needs root and QEMU"]
fn a_copy_belongs_to_its_folders_owner_and_replaces_no_device() {
    let runner = Runner::new();
    let here = tempfile::tempdir().unwrap();
    let (tree, file) = (here.path().join("tree"), here.path().join("file"));
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("a"), "1").unwrap();
    fs::write(&file, "new").unwrap();
    let file = file.to_str().unwrap();
    runner.succeed(&["run", "-d", "--name", "owners"]);
    let shell = |script: &str| runner.succeed(&["exec", "owners", "--", "sh", "-c", script]);
    shell(
        "install -d -o 1234 -g 567 /srv/own && echo old > /srv/own/file && chmod 751 /srv/own/file",
    );

    runner.succeed(&["cp", tree.to_str().unwrap(), "owners:/srv/own"]);
    runner.succeed(&["cp", file, "owners:/srv/own/file"]);
    runner.succeed(&["cp", "--owner", "7:8", file, "owners:/srv/own/given"]);
    let absent = runner.run(&["cp", file, "owners:/absent/"]);
    let device = runner.run(&["cp", file, "owners:/dev/null"]);

    let owners = "stat -c '%n %u:%g %a' /srv/own/tree/a /srv/own/file /srv/own/given";
    let expected = "/srv/own/tree/a 1234:567 644\n/srv/own/file 0:0 751\n/srv/own/given 7:8 644\n";
    assert_eq!(shell(owners), expected);
    assert_eq!(shell("cat /srv/own/file"), "new");
    assert!(text(&absent.stderr).contains("/absent/"), "{}", text(&absent.stderr));
    assert!(text(&device.stderr).contains("it is a device"), "{}", text(&device.stderr));
    assert_eq!((absent.status.code(), device.status.code()), (Some(1), Some(1)));
    shell("test -c /dev/null && test ! -e /absent");
    runner.succeed(&["stop", "owners"]);
}

#[test]
#[ignore = "needs root and QEMU"]
fn hard_links_and_holes_are_copied_out_and_special_files_skipped() {
    let runner = Runner::new();
    let here = tempfile::tempdir().unwrap();
    let (out, missing) = (here.path().join("out"), here.path().join("missing"));
    let script = "mkdir /srv/x && cd /srv/x && truncate -s 8G disk && ln disk second && \
                  mkfifo fifo && echo end >> disk && exit 3";
    let [lost, kept] = [("/none", &missing), ("/srv/x", &out)]
        .map(|(guest, local)| format!("{guest}:{}", local.display()));

    let command = ["run", "--copy-out", &lost, "--copy-out", &kept, "--", "sh", "-c", script];
    let output = runner.run(&command);

    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("/srv/x/fifo is a FIFO"), "{stderr}");
    assert!(stderr.contains("1 of 2 --copy-out failed; the command's exit code is 3"), "{stderr}");
    let disk = fs::metadata(out.join("disk")).unwrap();
    assert_eq!((disk.len(), disk.nlink()), ((8 << 30) + 4, 2));
    assert!(disk.blocks() * 512 < 1 << 20);
    assert!(!missing.exists() && !out.join("fifo").exists());
}
