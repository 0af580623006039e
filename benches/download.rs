//! guest-download against `curl | tar`: see README.md beside this file.
//!
//! Both fetch the same archives from the same server in this process, in turns, into folders beside
//! each other. The program is the built one. Needs curl, tar, gzip and zstd.

#![allow(clippy::unwrap_used, reason = "a benchmark that fails has no result")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use guest_test::archive::{Entry, gzip, tar};
use guest_test::{Reply, Server};
use serde_json::json;

/// How large the one archive is when it is unpacked, and each of the many.
const LARGE: usize = 500_000_000;
const SMALL: usize = 50_000;
const COUNT: usize = 200;

const ROUNDS: usize = 5;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let small = archive(SMALL, 10_000);
    compare("200 archives of 50 KB, gzip", folder.path(), "-xz", COUNT, gzip(&small));
    compare(
        "200 archives of 50 KB, zstd",
        folder.path(),
        "--zstd",
        COUNT,
        zstd::encode_all(&small[..], 3).unwrap(),
    );
    let large = archive(LARGE, 1 << 20);
    compare("one archive of 500 MB, gzip", folder.path(), "-xz", 1, gzip(&large));
    compare(
        "one archive of 500 MB, zstd",
        folder.path(),
        "--zstd",
        1,
        zstd::encode_all(&large[..], 3).unwrap(),
    );
}

/// A tar archive of text that compresses as sources do.
fn archive(size: usize, file: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut text = Vec::with_capacity(size);
    while text.len() < size {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let word = state >> 52;
        text.extend_from_slice(format!("{:x} ", word * word).as_bytes());
    }
    let names: Vec<_> =
        (0..size.div_ceil(file)).map(|number| format!("d{}/f{number}", number % 50)).collect();
    let entries = names.iter().zip(text.chunks(file));
    let entries: Vec<_> = entries.map(|(name, text)| Entry::File(name, text, 0o644)).collect();
    tar(&entries)
}

/// Prints the medians of both and their ratio.
fn compare(what: &str, folder: &Path, flag: &str, count: usize, archive: Vec<u8>) {
    let compressed = archive.len();
    let server = Server::start(move |_| Reply::bytes(archive.clone()));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(timed(folder, |target| run(&server.url(), target, count)));
        theirs.push(timed(folder, |target| pipe(&server.url(), target, count, flag)));
    }
    let (ours, theirs) = (median(ours), median(theirs));
    println!(
        "{what} ({compressed} bytes each): {ours:.3} s, curl | tar {theirs:.3} s, {:.2} times as fast",
        theirs / ours
    );
}

fn timed(folder: &Path, work: impl FnOnce(&Path)) -> f64 {
    let target = folder.join("target");
    fs::create_dir(&target).unwrap();
    let began = Instant::now();
    work(&target);
    let elapsed = began.elapsed().as_secs_f64();
    fs::remove_dir_all(&target).unwrap();
    elapsed
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn run(url: &str, target: &Path, count: usize) {
    let entry =
        |number: usize| json!({ "mountPath": target.join(number.to_string()), "archiveUrl": url });
    let manifest = json!({ "storages": (0..count).map(entry).collect::<Vec<_>>() });
    let path = target.join("manifest");
    fs::write(&path, manifest.to_string()).unwrap();
    let program =
        std::env::var_os("GUEST_DOWNLOAD").unwrap_or(env!("CARGO_BIN_EXE_guest-download").into());
    assert!(Command::new(program).arg(path).status().unwrap().success());
}

fn pipe(url: &str, target: &Path, count: usize, flag: &str) {
    for number in 0..count {
        let place = target.join(number.to_string());
        fs::create_dir(&place).unwrap();
        let mut curl =
            Command::new("curl").args(["-sf", url]).stdout(Stdio::piped()).spawn().unwrap();
        let flags = if flag == "--zstd" { vec!["-x", "--zstd"] } else { vec![flag] };
        let mut tar = Command::new("tar");
        tar.args(flags).args(["-f", "-", "-C"]).arg(place).stdin(curl.stdout.take().unwrap());
        assert!(tar.status().unwrap().success() && curl.wait().unwrap().success());
    }
}
