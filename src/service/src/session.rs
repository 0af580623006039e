//! Restores the history of the session that a job resumes: downloads or takes it from the context, verifies it, and
//! writes it to the path where the agent's CLI reads it. The host keeps no copy.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base::hex;
use contract::guest::HOME;
use flate2::read::MultiGzDecoder;
use platform_client::{HttpClient, RequestCancellation, RequestLimits, RetryPolicy};
use sandbox::Sandbox;
use sha2::{Digest as _, Sha256};

use super::context::{Encoding, ExecutionContext, HistoryRef, ResumeSession};
use super::source::PlatformAccess;
use super::upload::Upload;
use crate::error::{Error, Result};

/// The largest size of a history, compressed and decompressed.
const MAX_ENCODED: u64 = 128 << 20;
const MAX_SIZE: u64 = 1 << 30;

/// The limits of a download: silence of the server, and redirects.
const LIMITS: RequestLimits =
    RequestLimits { whole: None, silence: Duration::from_secs(60), redirects: 5 };

const CHUNK: usize = 128 << 10;

/// Writes the history of the session that the job resumes, if any, into its VM. `stop` cancels the download.
pub(crate) fn restore(
    sandbox: &dyn Sandbox,
    context: &ExecutionContext,
    access: &PlatformAccess,
    stop: &RequestCancellation,
) -> Result<()> {
    let Some(session) = &context.resume_session else { return Ok(()) };
    let path = history_path(context, session)?;
    match (&session.session_history, &session.history_ref) {
        (Some(text), _) => put(sandbox, &path, text.as_bytes(), text.len() as u64, None),
        (None, Some(history)) => {
            let url = access.host_url(&history.url);
            fetch(sandbox, &path, &url, history, &HttpClient::of(&access.addresses, LIMITS, stop))
        }
        (None, None) => Err(Error::History { problem: "is not in the context" }),
    }
}

/// The path where the CLI reads the history, relative to the home.
fn history_path(context: &ExecutionContext, session: &ResumeSession) -> Result<PathBuf> {
    let id = &session.session_id;
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if id.is_empty() || id.len() > 128 || !id.bytes().all(is_valid) {
        return Err(Error::History { problem: "has a session ID that is not a file name" });
    }
    if context.cli_agent_type == "codex" {
        return Ok(PathBuf::from(format!(".codex/sessions/rollout-{id}.jsonl")));
    }
    let project = context.working_dir().trim_end_matches('/').replace('/', "-");
    if project.len() > 255 || project.contains('\0') {
        return Err(Error::History { problem: "belongs to an invalid working directory" });
    }
    Ok(PathBuf::from(format!(".claude/projects/{project}/{id}.jsonl")))
}

/// Downloads a history with the usual retries. A failed attempt leaves no file.
fn fetch(
    sandbox: &dyn Sandbox,
    path: &Path,
    url: &str,
    history: &HistoryRef,
    client: &HttpClient,
) -> Result<()> {
    if history.encoded_size > MAX_ENCODED || history.raw_size > MAX_SIZE {
        return Err(Error::History { problem: "is too large" });
    }
    let mut failed = None;
    let attempt = || {
        let body = client.get(url, &[])?.into_reader().take(history.encoded_size + 1);
        let decoded: io::Result<Box<dyn Read>> = match history.encoding {
            Encoding::Identity => Ok(Box::new(body)),
            Encoding::Gzip => Ok(Box::new(MultiGzDecoder::new(body))),
            Encoding::Zstd => zstd::Decoder::new(body).map(|decoder| Box::new(decoder) as _),
        };
        let done = decoded
            .map_err(|source| Error::ReadHistory { source })
            .and_then(|data| put(sandbox, path, data, history.raw_size, Some(&history.hash)));
        match done {
            Ok(()) => Ok(()),
            // A retry may get the whole body.
            Err(Error::ReadHistory { source }) => Err(platform_client::Error::Transport {
                call: "GET of a history".to_owned(),
                source,
            }),
            Err(error) => {
                failed = Some(error);
                Ok(())
            }
        }
    };
    RetryPolicy::usual().run(client.stop(), attempt)?;
    failed.map_or(Ok(()), Err)
}

fn put(
    sandbox: &dyn Sandbox,
    path: &Path,
    mut data: impl Read,
    size: u64,
    hash: Option<&str>,
) -> Result<()> {
    let mut upload = Upload::begin(sandbox, HOME)?;
    upload.file(path, size)?;
    let (mut digest, mut left) = (Sha256::new(), size);
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = match data.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(Error::ReadHistory { source }),
        };
        let chunk = buffer.get(..count).unwrap_or_default();
        left = left
            .checked_sub(count as u64)
            .ok_or(Error::History { problem: "is longer than announced" })?;
        digest.update(chunk);
        upload.data(chunk)?;
    }
    if left > 0 {
        return Err(Error::History { problem: "is shorter than announced" });
    }
    if hash.is_some_and(|hash| !hash.eq_ignore_ascii_case(&hex::encode(&digest.finalize()))) {
        return Err(Error::History { problem: "has another hash than announced" });
    }
    upload.finish()
}

/// The deadline of one step of a transfer into a VM, starting now.
pub(super) fn step_deadline() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[cfg(test)]
mod tests {
    use guest_test::{Reply, Server};
    use sandbox::SandboxFactory as _;
    use sandbox::fake::Script;
    use serde_json::{Value, json};

    use super::*;
    use crate::context::tests::minimal_context;

    const TEXT: &str = "{\"type\":\"user\"}\n";
    const PLACE: &str = "/home/user/.claude/projects/-home-user-workspace/s-1.jsonl";

    fn context(session: Value) -> ExecutionContext {
        let mut value = minimal_context();
        value["resumeSession"] = session;
        serde_json::from_value(value).unwrap()
    }

    /// Restores a session and returns the content of its file.
    fn restored(session: Value, url: &str) -> Result<String> {
        let factory = Script::default().factory();
        let sandbox = factory
            .start(&sandbox::fake::config(), &sandbox::Cancellation::new(), Instant::now())
            .unwrap();
        let access = PlatformAccess::at("http://guest", url);
        restore(&*sandbox, &context(session), &access, &RequestCancellation::new())?;
        let files = &factory.record().files;
        Ok(String::from_utf8(files[Path::new(PLACE)].clone()).unwrap())
    }

    fn reference(encoding: &str, encoded: &[u8], raw_size: usize) -> Value {
        let hash = hex::encode(&Sha256::digest(TEXT));
        json!({"sessionId": "s-1", "historyRef": {
            "kind": "blob", "hash": hash, "url": "http://guest/blob", "encoding": encoding,
            "rawSize": raw_size, "encodedSize": encoded.len(),
        }})
    }

    fn fetched(encoding: &str, encoded: &[u8], raw_size: usize) -> Result<String> {
        let body = encoded.to_vec();
        let server = Server::start(move |_| Reply::bytes(body.clone()));
        restored(reference(encoding, encoded, raw_size), &server.url())
    }

    #[test]
    fn an_inline_history_is_written_to_the_path_that_the_cli_reads() {
        let session = json!({"sessionId": "s-1", "sessionHistory": TEXT});
        assert_eq!(restored(session, "http://unused").unwrap(), TEXT);
    }

    #[test]
    fn a_history_is_downloaded_by_the_host_and_decompressed() {
        assert_eq!(fetched("identity", TEXT.as_bytes(), TEXT.len()).unwrap(), TEXT);
        let packed = zstd::encode_all(TEXT.as_bytes(), 1).unwrap();
        assert_eq!(fetched("zstd", &packed, TEXT.len()).unwrap(), TEXT);
    }

    #[test]
    fn a_history_with_another_hash_or_length_is_refused() {
        let other = TEXT.replace("user", "evil");
        let error = fetched("identity", other.as_bytes(), TEXT.len()).unwrap_err();
        assert!(error.to_string().contains("another hash"), "{error}");
        let error = fetched("identity", TEXT.as_bytes(), TEXT.len() - 1).unwrap_err();
        assert!(error.to_string().contains("longer"), "{error}");
    }

    #[test]
    fn stopping_a_job_ends_its_download_of_a_history() {
        let server = Server::start(|_| Reply::mute());
        let access = PlatformAccess::at("http://guest", &server.url());
        let factory = Script::default().factory();
        let sandbox = factory
            .start(&sandbox::fake::config(), &sandbox::Cancellation::new(), Instant::now())
            .unwrap();
        let context = context(reference("identity", TEXT.as_bytes(), TEXT.len()));
        let stop = RequestCancellation::new();
        std::thread::scope(|scope| {
            let restoring = scope.spawn(|| restore(&*sandbox, &context, &access, &stop));
            server.wait_for(|requests| !requests.is_empty());
            stop.cancel();
            restoring.join().unwrap().unwrap_err();
        });
    }

    #[test]
    fn a_session_id_that_leads_out_of_the_folder_is_refused() {
        let session = json!({"sessionId": "../../x", "sessionHistory": TEXT});
        restored(session, "http://unused").unwrap_err();
    }
}
