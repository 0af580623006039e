//! Uploads in parts, for objects that are too large for one request.

use std::time::{Duration, SystemTime};

use rusty_s3::Method;

use crate::bucket::{More, time};
use crate::{Bucket, Result, xml};

/// An upload in parts that was neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// The object's key.
    pub key: String,
    /// The upload's id.
    pub upload: String,
    /// When it was begun, by the store's clock.
    pub begun: SystemTime,
}

struct Part {
    number: u32,
    size: u64,
    etag: String,
}

impl Bucket {
    /// Begins an upload in parts, and returns its id.
    pub fn begin(&self, key: &str) -> Result<String> {
        const OPERATION: &str = "begin an upload";
        let more = More { query: &[("uploads", "")], ..More::default() };
        let reply = self.ask(OPERATION, (Method::Post, key), more)?;
        let (text, _) = self.transport.text(OPERATION, reply)?;
        let upload = xml::text(&text, "UploadId").filter(|upload| !upload.is_empty());
        upload.ok_or_else(|| self.malformed(OPERATION, "it has no upload"))
    }

    /// The upload of one part, counted from 1, for others. There are at most
    /// 1,000, and all but the last have at least 5 MiB.
    #[must_use]
    pub fn presign_part(&self, key: &str, upload: &str, part: u32, lifetime: Duration) -> String {
        let part = part.to_string();
        let query = [("partNumber", part.as_str()), ("uploadId", upload)];
        self.sign((Method::Put, key), &query, &[], lifetime)
    }

    /// Makes an object of all parts, if they have `size` bytes together. Whether the object exists now: a
    /// repeated call has it, too.
    pub fn complete(&self, key: &str, upload: &str, size: u64) -> Result<bool> {
        const OPERATION: &str = "complete an upload";
        let Some(parts) = self.parts(key, upload)? else {
            return Ok(self.stat(key)?.is_some_and(|stat| stat.size == size));
        };
        let total = parts.iter().fold(0_u64, |total, part| total.saturating_add(part.size));
        if total != size || parts.is_empty() {
            return Ok(false);
        }
        let part = |Part { number, etag, .. }: &Part| {
            format!("<Part><PartNumber>{number}</PartNumber><ETag>\"{etag}\"</ETag></Part>")
        };
        let parts: String = parts.iter().map(part).collect();
        let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
        let more =
            More { query: &[("uploadId", upload)], body: body.as_bytes(), ..More::default() };
        let reply = self.ask(OPERATION, (Method::Post, key), more)?;
        if reply.status != 200 {
            return Ok(false);
        }
        // The status is sent before the object is made.
        let (text, _) = self.transport.text(OPERATION, reply)?;
        self.done(OPERATION, &text).map(|()| true)
    }

    /// The parts that were sent, at most 1,000; `None` if there is no such upload.
    fn parts(&self, key: &str, upload: &str) -> Result<Option<Vec<Part>>> {
        const OPERATION: &str = "list the parts of an upload";
        let more = More { query: &[("uploadId", upload)], ..More::default() };
        let reply = self.ask(OPERATION, (Method::Get, key), more)?;
        if reply.status != 200 {
            return Ok(None);
        }
        let (text, _) = self.transport.text(OPERATION, reply)?;
        let one = |xml| {
            let (number, size) = (xml::text(xml, "PartNumber")?, xml::text(xml, "Size")?);
            // An ETag is hexadecimal in quotes.
            let is_plain = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
            let etag = xml::text(xml, "ETag")?.chars().filter(is_plain).collect();
            Some(Part { number: number.parse().ok()?, size: size.parse().ok()?, etag })
        };
        let all = xml::elements(&text, "Part");
        let all = all
            .map(|xml| one(xml).ok_or_else(|| self.malformed(OPERATION, "a part is incomplete")));
        all.collect::<Result<_>>().map(Some)
    }

    /// Removes the parts of an upload. An absent one is not an error.
    pub fn abort(&self, key: &str, upload: &str) -> Result<()> {
        let more = More { query: &[("uploadId", upload)], ..More::default() };
        self.ask("abort an upload", (Method::Delete, key), more).map(drop)
    }

    /// Uploads that were begun for keys with this prefix, at most 1,000 of them: the caller aborts some and
    /// asks again.
    pub fn unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        const OPERATION: &str = "list uploads";
        let more = More { query: &[("prefix", prefix), ("uploads", "")], ..More::default() };
        let reply = self.ask(OPERATION, (Method::Get, ""), more)?;
        let (text, _) = self.transport.text(OPERATION, reply)?;
        let one = |xml| {
            let key = xml::text(xml, "Key").filter(|key| key.starts_with(prefix))?;
            let (upload, begun) = (xml::text(xml, "UploadId")?, time(xml, "Initiated")?);
            Some(Unfinished { key, upload, begun })
        };
        let all = xml::elements(&text, "Upload").map(|xml| {
            one(xml).ok_or_else(|| self.malformed(OPERATION, "an upload is incomplete"))
        });
        all.collect()
    }
}
