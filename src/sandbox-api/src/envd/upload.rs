//! `POST /files`: writes one file, or those of a form.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use base::error::chain;
use files_proto::Attributes;
use flate2::read::MultiGzDecoder;
use http_server::{Refusal, Response};
use serde_json::{Value, json};

use super::call::Call;
use super::entry::METADATA;
use super::multipart::{self, Form};
use crate::files::{self, Code, Files};
use crate::rest::refused::Refused;

/// Within this time the client must send some, and the sandbox take it.
const PROGRESS: Duration = Duration::from_secs(60);

/// The most files of a form.
const MOST_FILES: usize = 1000;

/// The most bytes of metadata, their names with the prefix of the attribute's included.
const MOST_METADATA: usize = 4096;

/// The longest name of a piece of metadata.
const LONGEST_KEY: usize = 246;

/// The prefix that the kernel has before ours.
const NAMESPACE: usize = "user.".len() + METADATA.len();

pub(super) fn answer(call: &mut Call<'_, '_>) -> Result<Response, Refused> {
    let head = &call.request.head;
    let path = head.query("path")?.filter(|path| !path.is_empty());
    let content_type = head.header("content-type").unwrap_or_default().to_owned();
    let is_gzip = match head.header("content-encoding") {
        None => false,
        Some(coding) if coding.eq_ignore_ascii_case("identity") => false,
        Some(coding) if coding.eq_ignore_ascii_case("gzip") => true,
        Some(coding) => {
            return Err(Refused::bad(format!("unsupported Content-Encoding `{coding}`: use gzip")));
        }
    };
    let metadata = metadata(head.headers())?;
    let login = super::download::login(call)?;
    let files = login.files(call.running);
    let closed = Arc::clone(call.running.closed());
    let body = &mut call.request.body;
    body.set_progress_timeout(PROGRESS);
    body.interrupt_by(closed);
    let mut body: Box<dyn Read + '_> =
        if is_gzip { Box::new(MultiGzDecoder::new(body)) } else { Box::new(body) };
    let writer = Writer { home: &login.account.home, files, metadata };
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let written = match media_type.to_ascii_lowercase().as_str() {
        "multipart/form-data" => writer.form(&mut body, &content_type, path)?,
        "application/octet-stream" => {
            let path = path.ok_or_else(|| Refused::bad("the parameter `path` is missing"))?;
            vec![writer.file(&path, &mut body)?]
        }
        _ => {
            return Err(Refused::bad(
                "the content type is neither multipart/form-data nor application/octet-stream",
            ));
        }
    };
    Response::json(200, &written).map_err(|error| Refused::internal(&error))
}

/// The metadata in the headers `X-Metadata-<key>`.
fn metadata<'a>(
    headers: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<BTreeMap<String, String>, Refused> {
    let mut metadata = BTreeMap::new();
    let mut size = 0;
    for (name, value) in headers {
        let name = name.to_ascii_lowercase();
        let Some(key) = name.strip_prefix("x-metadata-") else { continue };
        let is_plain = |text: &str| text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if key.is_empty() || key.len() > LONGEST_KEY || !is_plain(key) || !is_plain(value) {
            return Err(Refused::bad(format!(
                "metadata have keys of 1 to {LONGEST_KEY} and values of printable ASCII characters"
            )));
        }
        size += NAMESPACE + key.len() + value.len();
        if size > MOST_METADATA {
            return Err(Refused::bad(format!("the metadata have over {MOST_METADATA} bytes")));
        }
        metadata.insert(key.to_owned(), value.to_owned());
    }
    Ok(metadata)
}

struct Writer<'a> {
    home: &'a str,
    files: Files<'a>,
    metadata: BTreeMap<String, String>,
}

impl Writer<'_> {
    /// Writes the files of a form: to `path`, or else each to the path that is its name.
    fn form(
        &self,
        body: &mut dyn Read,
        content_type: &str,
        path: Option<String>,
    ) -> Result<Vec<Value>, Refused> {
        let boundary = multipart::boundary(content_type).map_err(form_error)?;
        let mut form = Form::new(body, &boundary);
        let (mut written, mut paths) = (Vec::new(), HashSet::new());
        while let Some(part) = form.next().map_err(form_error)? {
            if part.name != "file" {
                continue;
            }
            if written.len() >= MOST_FILES {
                return Err(Refused::bad(format!("the form has over {MOST_FILES} files")));
            }
            let path = path.clone().or(part.file_name).filter(|path| !path.is_empty());
            let path = path.ok_or_else(|| Refused::bad("a file of the form has no name"))?;
            if !paths.insert(files_proto::absolute(self.home, &path)) {
                return Err(Refused::bad(format!("the form has several files for {path}")));
            }
            written.push(self.file(&path, &mut form)?);
        }
        Ok(written)
    }

    fn file(&self, path: &str, content: &mut dyn Read) -> Result<Value, Refused> {
        let values = self.metadata.clone();
        let attributes = Attributes { prefix: METADATA.to_owned(), values };
        let entry = self.files.upload(path, content, Some(attributes), PROGRESS).map_err(error)?;
        let mut shown = json!({"name": entry.name, "type": "file", "path": entry.path});
        if !self.metadata.is_empty() {
            shown["metadata"] = json!(self.metadata);
        }
        Ok(shown)
    }
}

fn form_error(error: multipart::Error) -> Refused {
    match error {
        multipart::Error::Read(error) => content_error(&error),
        error => Refused::bad(error.to_string()),
    }
}

/// Why the content did not come: the client went, was slow, or sent something malformed.
fn content_error(error: &io::Error) -> Refused {
    match Refusal::of(error) {
        Some(refusal) => Refused::from(refusal),
        None => Refused::bad(format!("cannot read the content: {error}")),
    }
}

fn error(error: files::Error) -> Refused {
    match &error {
        files::Error::Content { source, .. } => content_error(source),
        _ => super::download::error(&error),
    }
}

impl From<&files::Error> for Refused {
    fn from(error: &files::Error) -> Self {
        let status = match error.code() {
            Some(Code::NotFound) => 404,
            Some(Code::PermissionDenied | Code::ReadOnly) => 403,
            Some(Code::NoSpace) => return Self::new(507, "not enough disk space available"),
            Some(Code::Internal) | None => 500,
            Some(_) => 400,
        };
        let status = match error {
            files::Error::NoUser { .. } => 401,
            files::Error::Sandbox(sandbox::Error::TimedOut { .. }) => 504,
            _ => status,
        };
        Self::new(status, chain(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_come_from_headers_and_are_limited() {
        let read = |headers: &[(&str, &str)]| metadata(headers.iter().copied());
        let found = read(&[("X-Metadata-Color", "red"), ("Other", "x")]).unwrap();
        assert_eq!(found, BTreeMap::from([("color".to_owned(), "red".to_owned())]));
        let long = "a".repeat(LONGEST_KEY + 1);
        assert!(read(&[(&format!("x-metadata-{long}"), "")]).is_err());
        assert!(read(&[("x-metadata-a", "\u{e9}")]).is_err());
        let value = "v".repeat(MOST_METADATA - NAMESPACE);
        assert!(read(&[("x-metadata-a", &value)]).is_err());
        assert!(read(&[("x-metadata-", "v")]).is_err());
    }
}
