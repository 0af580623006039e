//! Errors of servers and networks.

use std::sync::atomic::{AtomicUsize, Ordering};

use guest_test::archive::{Entry, tar_gz, tar_zst};
use guest_test::{Ending, Reply, Request, Server};
use serde_json::json;

use crate::harness::Fixture;

fn archive() -> Vec<u8> {
    // Incompressible, so that it can be truncated in the middle.
    let noise: Vec<u8> =
        (0..400_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    tar_gz(&[Entry::File("noise", &noise, 0o644), Entry::File("last", b"1", 0o644)])
}

/// Answers requests with the replies in order, then always with the last one.
fn in_sequence(replies: Vec<Reply>) -> Server {
    let turn = AtomicUsize::new(0);
    Server::start(move |_| {
        let turn = turn.fetch_add(1, Ordering::SeqCst);
        replies[turn.min(replies.len() - 1)].clone()
    })
}

#[test]
fn a_server_error_is_retried() {
    let server = in_sequence(vec![Reply::status(500), Reply::status(503), Reply::bytes(archive())]);
    let fixture = Fixture::new();
    assert!(fixture.fetch_from(&server));
    assert_eq!(fixture.text("x/last"), "1");
}

#[test]
fn a_task_fails_after_three_attempts_and_leaves_no_files() {
    let server = in_sequence(vec![Reply::status(500)]);
    let fixture = Fixture::new();
    assert!(!fixture.fetch_from(&server));
    assert_eq!(server.requests().len(), 3);
    assert!(fixture.files().is_empty());
}

#[test]
fn a_download_survives_an_outage_of_many_attempts() {
    let down = Reply::status(500).with("retry-after", "0");
    let mut replies = vec![down; 20];
    replies.push(Reply::bytes(archive()));
    let server = in_sequence(replies);
    let fixture = Fixture::new();
    let manifest = json!({ "storages": [fixture.entry("x", &server.url())] });
    assert!(fixture.run_through_outage(&manifest));
    assert_eq!(server.requests().len(), 21);
    assert_eq!(fixture.text("x/last"), "1");
}

#[test]
fn a_client_error_is_not_retried() {
    let server = in_sequence(vec![Reply::status(403)]);
    assert!(!Fixture::new().fetch_from(&server));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_missing_artifact_is_no_error_and_a_missing_storage_is_one() {
    let server = in_sequence(vec![Reply::status(404)]);
    let fixture = Fixture::new();
    assert!(fixture.run(&json!({ "artifact": fixture.entry("x", &server.url()) })));
    assert_eq!(fixture.files(), ["x"]);
    assert!(!fixture.run(&json!({ "storages": [fixture.entry("y", &server.url())] })));
}

#[test]
fn a_failed_task_does_not_stop_the_others() {
    let server = Server::start(|request| match request.path.as_str() {
        "/bad" => Reply::status(403),
        _ => Reply::bytes(archive()),
    });
    let fixture = Fixture::new();
    let url = |name| format!("{}/{name}", server.url());
    let entries = [fixture.entry("x", &url("bad")), fixture.entry("y", &url("good"))];
    assert!(!fixture.run(&json!({ "storages": entries })));
    assert_eq!(fixture.files(), ["y", "y/last", "y/noise"]);
}

#[test]
fn a_truncated_body_leaves_no_files_and_is_fetched_again() {
    let cut = Reply::bytes(archive()).ending(Ending::CutAfter(700_000));
    let fixture = Fixture::new();
    assert!(!fixture.fetch_from(&in_sequence(vec![cut.clone()])));
    assert!(fixture.files().is_empty());
    let server = in_sequence(vec![cut, Reply::bytes(archive())]);
    assert!(fixture.fetch_from(&server));
    assert_eq!(fixture.files(), ["x", "x/last", "x/noise"]);
    assert_eq!(server.requests()[1].header("range"), None);
}

#[test]
fn a_dropped_connection_is_retried() {
    let server = in_sequence(vec![Reply::dropped(), Reply::bytes(archive())]);
    let fixture = Fixture::new();
    assert!(fixture.fetch_from(&server));
}

#[test]
fn a_silent_server_is_given_up_after_the_stall_limit() {
    let silent = Reply::bytes(archive()).ending(Ending::SilentAfter(100_000));
    let server = in_sequence(vec![silent, Reply::bytes(archive())]);
    let fixture = Fixture::new();
    assert!(
        fixture
            .run_with_short_timeouts(&json!({ "storages": [fixture.entry("x", &server.url())] }))
    );
    assert_eq!(fixture.text("x/last"), "1");
}

/// Answers ranges of a version, each truncated after `piece` bytes.
fn in_pieces(request: &Request, archive: &[u8], piece: usize) -> Reply {
    let range = request.header("range").and_then(|range| range.strip_prefix("bytes="));
    let start: usize = range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap());
    let rest = Reply::bytes(&archive[start..]).with("etag", "\"v1\"");
    let rest = if rest_is_long(archive, start, piece) {
        rest.ending(Ending::CutAfter(piece))
    } else {
        rest
    };
    if start == 0 {
        return rest;
    }
    let last = archive.len() - 1;
    rest.with_status(206).with("content-range", &format!("bytes {start}-{last}/{}", archive.len()))
}

fn rest_is_long(archive: &[u8], start: usize, piece: usize) -> bool {
    archive.len() - start > piece
}

#[test]
fn a_broken_download_is_resumed_at_its_offset() {
    let server = Server::start(|request| in_pieces(request, &archive(), 700_000));
    let fixture = Fixture::new();
    assert!(fixture.fetch_from(&server));
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(requests[1].header("range"), Some("bytes=700000-"));
    assert_eq!(requests[1].header("if-range"), Some("\"v1\""));
    assert_eq!(fixture.files(), ["x", "x/last", "x/noise"]);
}

#[test]
fn progress_resets_the_number_of_attempts() {
    let noise: Vec<u8> =
        (0..3_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let archive = tar_zst(&[Entry::File("noise", &noise, 0o644)]);
    let pieces = archive.len() / (1 << 20);
    assert!(pieces > 5);
    let server = Server::start(move |request| in_pieces(request, &archive, 1 << 20));
    assert!(Fixture::new().fetch_from(&server));
    assert!(server.requests().len() > 5);
}

#[test]
fn an_archive_that_changed_is_fetched_from_its_start() {
    let turn = AtomicUsize::new(0);
    let server = Server::start(move |_| match turn.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::bytes(archive()).with("etag", "\"v1\"").ending(Ending::CutAfter(700_000)),
        _ => Reply::bytes(tar_gz(&[Entry::File("new", b"2", 0o644)])).with("etag", "\"v2\""),
    });
    let fixture = Fixture::new();
    assert!(fixture.fetch_from(&server));
    assert_eq!(fixture.files(), ["x", "x/new"]);
}

#[test]
fn an_answer_with_another_range_is_not_used() {
    let turn = AtomicUsize::new(0);
    let server = Server::start(move |_| match turn.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::bytes(archive()).with("etag", "\"v1\"").ending(Ending::CutAfter(700_000)),
        1 => Reply::bytes(archive()).with_status(206).with("content-range", "bytes 0-9/10"),
        _ => Reply::bytes(archive()),
    });
    let fixture = Fixture::new();
    assert!(fixture.fetch_from(&server));
    assert_eq!(fixture.text("x/last"), "1");
}

#[test]
fn redirects_are_followed_up_to_a_limit() {
    let turn = AtomicUsize::new(0);
    let server = Server::start(move |_| match turn.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::status(302).with("location", "/elsewhere"),
        _ => Reply::bytes(archive()),
    });
    assert!(Fixture::new().fetch_from(&server));
    let circle = in_sequence(vec![Reply::status(302).with("location", "/again")]);
    assert!(!Fixture::new().fetch_from(&circle));
}
