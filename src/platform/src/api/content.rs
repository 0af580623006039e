//! Downloads and uploads with presigned URLs.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use http_server::{Account, Content, Head, Method, Peer, Request, Response};

use crate::backend::Backend;
use crate::blob::Blobs;
use crate::history::{Encoding, Expected};
use crate::storage::Target;
use crate::{Error, Refusal, Result, sign};

pub(super) fn answer(
    backend: &Backend,
    request: &mut Request<'_>,
    path: &[&str],
) -> Result<Response> {
    // The signature covers the method, so other methods need no check.
    sign::check(&backend.keys, &request.head, backend.db.now())?;
    let head = &request.head;
    match *path {
        ["blobs", digest] if head.method == Method::Get => {
            blob(backend.store.files()?, head, digest)
        }
        ["uploads", "history", hash] => {
            let expected = expected(head, hash)?;
            backend.put_history(expected, &mut request.body)?;
            Ok(Response::new(200))
        }
        ["uploads", kind, storage, version] => {
            let owner = head.parameter("owner").ok_or(Refusal::BadSignature)?.to_owned();
            let target = Target { owner, storage: storage.into(), version: version.into() };
            match kind {
                "archive" => backend.put_archive(target, &mut request.body)?,
                _ => {
                    let account = match request.peer {
                        Peer::Unix => Account::Trusted,
                        Peer::Tcp(_) => Account::Client(target.owner.clone()),
                    };
                    backend.put_manifest(target, &mut request.body, account)?;
                }
            }
            Ok(Response::new(200))
        }
        _ => Err(Refusal::NoRoute.into()),
    }
}

/// A blob, or the requested range of it.
pub(super) fn blob(blobs: &Blobs, head: &Head, digest: &str) -> Result<Response> {
    let file = blobs.open(digest)?;
    let mut file = file.ok_or_else(|| Refusal::NotFound { what: format!("content {digest}") })?;
    let size = size(&file, digest)?;
    let tag = format!("\"{digest}\"");
    let mut headers = vec![
        ("Content-Type", "application/octet-stream".to_owned()),
        ("Accept-Ranges", "bytes".to_owned()),
        ("ETag", tag.clone()),
    ];
    let is_same = head.header("if-range").is_none_or(|known| known == tag);
    let range = head.header("range").filter(|_| is_same).map(|text| range(text, size));
    let (status, offset, length) = match range.transpose()?.flatten() {
        Some((first, last)) => {
            headers.push(("Content-Range", format!("bytes {first}-{last}/{size}")));
            (206, first, last - first + 1)
        }
        None => (200, 0, size),
    };
    let fail = |source| Error::File { operation: "read", path: digest.into(), source };
    file.seek(SeekFrom::Start(offset)).map_err(fail)?;
    Ok(Response { status, headers, content: Content::Reader { length, reader: Box::new(file) } })
}

/// The first and last byte of a range; `None` for ranges that may be ignored: several ranges, other
/// units.
fn range(text: &str, size: u64) -> Result<Option<(u64, u64)>, Refusal> {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|text| text.split_once('-'))
    else {
        return Ok(None);
    };
    let (first, last) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) => (first, last.min(size.saturating_sub(1))),
        (Ok(first), Err(_)) if last.is_empty() => (first, size.saturating_sub(1)),
        (Err(_), Ok(count)) if first.is_empty() => {
            (size.saturating_sub(count), size.saturating_sub(1))
        }
        _ => return Ok(None),
    };
    if first > last || first >= size { Err(Refusal::Range) } else { Ok(Some((first, last))) }
}

fn size(file: &File, digest: &str) -> Result<u64> {
    let metadata = file.metadata();
    let fail = |source| Error::File { operation: "read", path: digest.into(), source };
    metadata.map(|metadata| metadata.len()).map_err(fail)
}

/// The parameters of a history's URL. They are signed, so they are well-formed.
fn expected(head: &Head, hash: &str) -> Result<Expected, Refusal> {
    let number = |name| head.parameter(name).and_then(|text| text.parse().ok());
    let encoding = match head.parameter("encoding") {
        Some("zstd") => Encoding::Zstd,
        _ => Encoding::Identity,
    };
    Ok(Expected {
        owner: head.parameter("owner").ok_or(Refusal::BadSignature)?.to_owned(),
        hash: hash.to_owned(),
        raw_size: number("raw").ok_or(Refusal::BadSignature)?,
        encoded_size: number("size").ok_or(Refusal::BadSignature)?,
        encoding,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_parsed_as_in_rfc_9110() {
        let read = ["bytes=2-", "bytes=2-4", "bytes=-3", "bytes=0-99", "bytes=-99"]
            .map(|text| range(text, 10).unwrap());

        let all = [Some((2, 9)), Some((2, 4)), Some((7, 9)), Some((0, 9)), Some((0, 9))];
        assert_eq!(read, all);
    }

    #[test]
    fn ranges_outside_the_content_are_rejected_and_unknown_forms_ignored() {
        let outside = ["bytes=10-", "bytes=5-4", "bytes=-0"].map(|text| range(text, 10));
        let strange = ["bytes=1-2,4-5", "lines=1-2", "bytes=x-"].map(|text| range(text, 10));

        assert_eq!(outside, [const { Err(Refusal::Range) }; 3]);
        assert_eq!(strange, [const { Ok(None) }; 3]);
    }

    #[test]
    fn every_range_of_empty_content_is_rejected() {
        assert_eq!(range("bytes=0-", 0), Err(Refusal::Range));
    }
}
