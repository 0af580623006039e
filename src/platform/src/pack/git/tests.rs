use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, os::unix::fs::symlink};

use flate2::read::GzDecoder;

use super::super::pack;
use super::*;

/// Runs git, and returns what it prints.
fn git(folder: &Path, words: &[&str]) -> String {
    let settings = ["user.name=t", "user.email=t@example.com", "protocol.file.allow=always"];
    let output = Command::new("git")
        .current_dir(folder)
        .args(settings.iter().flat_map(|setting| ["-c", setting]))
        .args(words)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .output()
        .unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A repository with one commit.
fn repository(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    git(folder, &["init", "--quiet", "--initial-branch=main"]);
    fs::write(folder.join("file"), "one\n").unwrap();
    git(folder, &["add", "."]);
    git(folder, &["commit", "--quiet", "--message=first"]);
}

/// What the job has: the folder packed and unpacked elsewhere, while all that it came from is gone.
fn as_the_job_has_it(home: &Path, folder: &Path) -> PathBuf {
    let packed = pack(folder).unwrap();
    fs::rename(home, home.with_extension("gone")).unwrap();
    let there = home.with_extension("there");
    tar::Archive::new(GzDecoder::new(packed.archive)).unpack(&there).unwrap();
    there
}

fn home() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().canonicalize().unwrap().join("home");
    fs::create_dir(&home).unwrap();
    (dir, home)
}

fn commits(folder: &Path) -> String {
    git(folder, &["log", "--format=%s"])
}

#[test]
fn a_linked_worktree_becomes_a_plain_repository_on_its_own_branch() {
    let (_dir, home) = home();
    repository(&home.join("main"));
    git(&home.join("main"), &["worktree", "add", "--quiet", "-b", "topic", "../tree"]);
    fs::write(home.join("tree/new"), "two\n").unwrap();
    git(&home.join("tree"), &["add", "new"]);

    let there = as_the_job_has_it(&home, &home.join("tree"));

    assert_eq!(git(&there, &["branch", "--show-current"]), "topic\n");
    assert_eq!(git(&there, &["status", "--porcelain"]), "A  new\n");
    git(&there, &["commit", "--quiet", "--message=second"]);
    assert_eq!(commits(&there), "second\nfirst\n");
    assert_eq!(git(&there, &["worktree", "list"]).lines().count(), 1);
    git(&there, &["fsck", "--strict"]);
}

#[test]
fn a_worktree_of_a_bare_repository_is_packed_with_its_files() {
    let (_dir, home) = home();
    repository(&home.join("main"));
    git(&home, &["clone", "--quiet", "--bare", "main", "bare.git"]);
    git(&home.join("bare.git"), &["worktree", "add", "--quiet", "../tree", "main"]);

    let there = as_the_job_has_it(&home, &home.join("tree"));

    assert_eq!(git(&there, &["status", "--porcelain"]), "");
    assert_eq!(commits(&there), "first\n");
}

#[test]
fn a_packed_submodule_has_its_repository() {
    let (_dir, home) = home();
    repository(&home.join("lib"));
    repository(&home.join("app"));
    git(&home.join("app"), &["submodule", "--quiet", "add", "../lib", "lib"]);

    let there = as_the_job_has_it(&home, &home.join("app/lib"));

    assert_eq!(git(&there, &["status", "--porcelain"]), "");
    assert_eq!(commits(&there), "first\n");
    assert_eq!(git(&there, &["rev-parse", "--show-toplevel"]).trim(), there.to_str().unwrap());
}

#[test]
fn a_worktree_inside_of_the_folder_is_found_by_a_relative_path() {
    let (_dir, home) = home();
    repository(&home.join("main"));
    git(&home.join("main"), &["worktree", "add", "--quiet", "-b", "topic", "trees/topic"]);

    let there = as_the_job_has_it(&home, &home.join("main"));

    let file = fs::read_to_string(there.join("trees/topic/.git")).unwrap();
    assert_eq!(file, "gitdir: ../../.git/worktrees/topic\n");
    assert_eq!(git(&there.join("trees/topic"), &["branch", "--show-current"]), "topic\n");
    assert_eq!(git(&there.join("trees/topic"), &["status", "--porcelain"]), "");
}

#[test]
fn objects_of_alternates_come_with_the_repository() {
    let (_dir, home) = home();
    repository(&home.join("main"));
    git(&home.join("main"), &["gc", "--quiet"]);
    git(&home, &["clone", "--quiet", "--shared", "main", "second"]);
    git(&home, &["clone", "--quiet", "--shared", "second", "third"]);

    let there = as_the_job_has_it(&home, &home.join("third"));

    assert!(!there.join(".git/objects/info/alternates").exists());
    assert_eq!(commits(&there), "first\n");
    git(&there, &["fsck", "--strict"]);
}

#[test]
fn a_link_in_place_of_a_repository_is_followed_out_of_the_folder() {
    let (_dir, home) = home();
    repository(&home.join("main"));
    fs::create_dir(home.join("tree")).unwrap();
    fs::write(home.join("tree/file"), "one\n").unwrap();
    symlink(home.join("main/.git"), home.join("tree/.git")).unwrap();

    let there = as_the_job_has_it(&home, &home.join("tree"));

    assert!(there.join(".git").symlink_metadata().unwrap().is_dir());
    assert_eq!(git(&there, &["status", "--porcelain"]), "");
}

#[test]
fn a_dangling_git_file_is_packed_unchanged() {
    let (_dir, home) = home();
    fs::create_dir(home.join("tree")).unwrap();
    fs::write(home.join("tree/.git"), "gitdir: /nowhere/at/all\n").unwrap();

    let there = as_the_job_has_it(&home, &home.join("tree"));

    assert_eq!(fs::read_to_string(there.join(".git")).unwrap(), "gitdir: /nowhere/at/all\n");
}

#[test]
fn git_lfs_pointers_are_counted_and_files_that_mention_them_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut notes = Notes::default();
    let mut look = |name: &str, text: &str| {
        fs::write(dir.path().join(name), text).unwrap();
        let open = fs::File::open(dir.path().join(name)).unwrap();
        notes.look(name, &open, text.len() as u64);
    };
    look("readme", &format!("see {}", String::from_utf8_lossy(LFS)));
    look("a.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n");
    look("b.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n");
    assert_eq!((notes.pointers, notes.pointer.as_deref()), (2, Some("a.bin")));
}

#[test]
fn a_relative_path_goes_up_and_down() {
    let way = |to: &str, from: &str| relative(Path::new(to), Path::new(from));
    assert_eq!(way("/a/.git/worktrees/x", "/a/trees/x"), Path::new("../../.git/worktrees/x"));
    assert_eq!(way("/a/b", "/a"), Path::new("b"));
}
