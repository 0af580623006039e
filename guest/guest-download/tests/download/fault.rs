//! Servers and networks that fail.

use std::sync::atomic::{AtomicUsize, Ordering};

use guest_test::archive::{Entry, tar_gz, tar_zst};
use guest_test::{Ending, Reply, Request, Server};
use serde_json::json;

use crate::harness::Place;

fn archive() -> Vec<u8> {
    // What does not compress, so that it can be cut in the middle.
    let noise: Vec<u8> =
        (0..400_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    tar_gz(&[Entry::File("noise", &noise, 0o644), Entry::File("last", b"1", 0o644)])
}

/// Answers the requests by turns, then always as the last time.
fn by_turns(replies: Vec<Reply>) -> Server {
    let turn = AtomicUsize::new(0);
    Server::start(move |_| {
        let turn = turn.fetch_add(1, Ordering::SeqCst);
        replies[turn.min(replies.len() - 1)].clone()
    })
}

#[test]
fn an_error_of_the_server_is_tried_again() {
    let server = by_turns(vec![Reply::status(500), Reply::status(503), Reply::bytes(archive())]);
    let place = Place::new();
    assert!(place.fetch_from(&server));
    assert_eq!(place.text("x/last"), "1");
}

#[test]
fn three_failures_are_enough_and_leave_nothing() {
    let server = by_turns(vec![Reply::status(500)]);
    let place = Place::new();
    assert!(!place.fetch_from(&server));
    assert_eq!(server.requests().len(), 3);
    assert!(place.files().is_empty());
}

#[test]
fn an_outage_of_many_attempts_costs_no_archive() {
    let down = Reply::status(500).with("retry-after", "0");
    let mut replies = vec![down; 20];
    replies.push(Reply::bytes(archive()));
    let server = by_turns(replies);
    let place = Place::new();
    let manifest = json!({ "storages": [place.entry("x", &server.url())] });
    assert!(place.run_through_outage(&manifest));
    assert_eq!(server.requests().len(), 21);
    assert_eq!(place.text("x/last"), "1");
}

#[test]
fn a_refusal_is_not_tried_again() {
    let server = by_turns(vec![Reply::status(403)]);
    assert!(!Place::new().fetch_from(&server));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_missing_artifact_is_the_first_run_and_a_missing_storage_a_failure() {
    let server = by_turns(vec![Reply::status(404)]);
    let place = Place::new();
    assert!(place.run(&json!({ "artifact": place.entry("x", &server.url()) })));
    assert_eq!(place.files(), ["x"]);
    assert!(!place.run(&json!({ "storages": [place.entry("y", &server.url())] })));
}

#[test]
fn one_failure_keeps_no_other_from_being_tried() {
    let server = Server::start(|request| match request.path.as_str() {
        "/bad" => Reply::status(403),
        _ => Reply::bytes(archive()),
    });
    let place = Place::new();
    let url = |name| format!("{}/{name}", server.url());
    let entries = [place.entry("x", &url("bad")), place.entry("y", &url("good"))];
    assert!(!place.run(&json!({ "storages": entries })));
    assert_eq!(place.files(), ["y", "y/last", "y/noise"]);
}

#[test]
fn a_cut_body_leaves_nothing_and_is_fetched_anew() {
    let cut = Reply::bytes(archive()).ending(Ending::CutAfter(700_000));
    let place = Place::new();
    assert!(!place.fetch_from(&by_turns(vec![cut.clone()])));
    assert!(place.files().is_empty());
    let server = by_turns(vec![cut, Reply::bytes(archive())]);
    assert!(place.fetch_from(&server));
    assert_eq!(place.files(), ["x", "x/last", "x/noise"]);
    assert_eq!(server.requests()[1].header("range"), None);
}

#[test]
fn a_dropped_connection_is_fetched_anew() {
    let server = by_turns(vec![Reply::dropped(), Reply::bytes(archive())]);
    let place = Place::new();
    assert!(place.fetch_from(&server));
}

#[test]
fn a_silent_server_is_left_after_the_stall_limit() {
    let silent = Reply::bytes(archive()).ending(Ending::SilentAfter(100_000));
    let server = by_turns(vec![silent, Reply::bytes(archive())]);
    let place = Place::new();
    assert!(place.run_without_patience(&json!({ "storages": [place.entry("x", &server.url())] })));
    assert_eq!(place.text("x/last"), "1");
}

/// Answers ranges of a version, each cut after so many bytes.
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
    rest.but_status(206).with("content-range", &format!("bytes {start}-{last}/{}", archive.len()))
}

fn rest_is_long(archive: &[u8], start: usize, piece: usize) -> bool {
    archive.len() - start > piece
}

#[test]
fn a_broken_download_goes_on_where_it_broke() {
    let server = Server::start(|request| in_pieces(request, &archive(), 700_000));
    let place = Place::new();
    assert!(place.fetch_from(&server));
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(requests[1].header("range"), Some("bytes=700000-"));
    assert_eq!(requests[1].header("if-range"), Some("\"v1\""));
    assert_eq!(place.files(), ["x", "x/last", "x/noise"]);
}

#[test]
fn a_long_download_may_break_often_as_long_as_it_gets_on() {
    let noise: Vec<u8> =
        (0..3_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let archive = tar_zst(&[Entry::File("noise", &noise, 0o644)]);
    let pieces = archive.len() / (1 << 20);
    assert!(pieces > 5);
    let server = Server::start(move |request| in_pieces(request, &archive, 1 << 20));
    assert!(Place::new().fetch_from(&server));
    assert!(server.requests().len() > 5);
}

#[test]
fn an_archive_that_changed_meanwhile_is_fetched_from_its_start() {
    let turn = AtomicUsize::new(0);
    let server = Server::start(move |_| match turn.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::bytes(archive()).with("etag", "\"v1\"").ending(Ending::CutAfter(700_000)),
        _ => Reply::bytes(tar_gz(&[Entry::File("new", b"2", 0o644)])).with("etag", "\"v2\""),
    });
    let place = Place::new();
    assert!(place.fetch_from(&server));
    assert_eq!(place.files(), ["x", "x/new"]);
}

#[test]
fn a_server_that_answers_with_another_range_is_not_believed() {
    let turn = AtomicUsize::new(0);
    let server = Server::start(move |_| match turn.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::bytes(archive()).with("etag", "\"v1\"").ending(Ending::CutAfter(700_000)),
        1 => Reply::bytes(archive()).but_status(206).with("content-range", "bytes 0-9/10"),
        _ => Reply::bytes(archive()),
    });
    let place = Place::new();
    assert!(place.fetch_from(&server));
    assert_eq!(place.text("x/last"), "1");
}

#[test]
fn a_redirect_is_followed_but_not_for_ever() {
    let turn = AtomicUsize::new(0);
    let server = Server::start(move |_| match turn.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::status(302).with("location", "/elsewhere"),
        _ => Reply::bytes(archive()),
    });
    assert!(Place::new().fetch_from(&server));
    let circle = by_turns(vec![Reply::status(302).with("location", "/again")]);
    assert!(!Place::new().fetch_from(&circle));
}
