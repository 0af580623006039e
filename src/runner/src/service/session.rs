//! The history of a session that a job goes on with: fetched or inline, checked, put where the agent's
//! CLI looks for it. Nothing of it is kept on this host.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;
use guest_common::{Client, Limits, Retry, Stop};
use sandbox::Sandbox;
use sha2::{Digest as _, Sha256};

use super::context::{Context, Encoding, HistoryRef, ResumeSession};
use super::delivery::Delivery;
use super::inbox::HOME;
use super::source::Access;
use crate::error::{Error, Result};

/// The most bytes of a history on its way, and of one that is unpacked.
const LONGEST_ENCODED: u64 = 128 << 20;
const LONGEST: u64 = 1 << 30;

/// How long a server may be silent, and how often it may send one elsewhere.
const LIMITS: Limits = Limits { whole: None, silence: Duration::from_secs(60), redirects: 5 };

const CHUNK: usize = 128 << 10;

/// Puts the history of the context's session into a VM, if it goes on with one, until `stop`.
pub(crate) fn restore(
    sandbox: &dyn Sandbox,
    context: &Context,
    access: &Access,
    stop: &Stop,
) -> Result<()> {
    let Some(session) = &context.resume_session else { return Ok(()) };
    let path = place(context, session)?;
    match (&session.session_history, &session.history_ref) {
        (Some(text), _) => put(sandbox, &path, text.as_bytes(), text.len() as u64, None),
        (None, Some(history)) => {
            let url = access.seen_from_here(&history.url);
            fetch(sandbox, &path, &url, history, &Client::new(LIMITS, stop))
        }
        (None, None) => Err(Error::History { problem: "is not in the context" }),
    }
}

/// Where the CLI looks for it, below the home.
fn place(context: &Context, session: &ResumeSession) -> Result<PathBuf> {
    let id = &session.session_id;
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if id.is_empty() || id.len() > 128 || !id.bytes().all(good) {
        return Err(Error::History { problem: "has a session id that is no file name" });
    }
    if context.cli_agent_type == "codex" {
        return Ok(PathBuf::from(format!(".codex/sessions/rollout-{id}.jsonl")));
    }
    let project = context.working_dir().trim_end_matches('/').replace('/', "-");
    if project.len() > 255 || project.contains('\0') {
        return Err(Error::History { problem: "belongs to a working directory that is no path" });
    }
    Ok(PathBuf::from(format!(".claude/projects/{project}/{id}.jsonl")))
}

/// In as many attempts as usual: what came of one that failed is not seen by anybody.
fn fetch(
    sandbox: &dyn Sandbox,
    path: &Path,
    url: &str,
    history: &HistoryRef,
    client: &Client,
) -> Result<()> {
    if history.encoded_size > LONGEST_ENCODED || history.raw_size > LONGEST {
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
            // A body that was cut short may come whole next time.
            Err(Error::ReadHistory { source }) => {
                Err(guest_common::Error::Transport { call: "GET of a history".to_owned(), source })
            }
            Err(error) => {
                failed = Some(error);
                Ok(())
            }
        }
    };
    Retry::usual().run(client.stop(), attempt)?;
    failed.map_or(Ok(()), Err)
}

fn put(
    sandbox: &dyn Sandbox,
    path: &Path,
    mut data: impl Read,
    size: u64,
    hash: Option<&str>,
) -> Result<()> {
    let mut delivery = Delivery::begin(sandbox, HOME)?;
    delivery.file(path, size)?;
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
            .ok_or(Error::History { problem: "is longer than it should be" })?;
        digest.update(chunk);
        delivery.data(chunk)?;
    }
    if left > 0 {
        return Err(Error::History { problem: "is shorter than it should be" });
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    if hash.is_some_and(|hash| !hash.eq_ignore_ascii_case(&hex(&digest.finalize()))) {
        return Err(Error::History { problem: "is not the one that it should be" });
    }
    delivery.finish()
}

/// How long one step of a transfer into a VM may take.
pub(super) fn step() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[cfg(test)]
mod tests {
    use guest_test::{Reply, Server};
    use sandbox::SandboxFactory as _;
    use sandbox::fake::Script;
    use serde_json::{Value, json};

    use super::*;
    use crate::service::context::tests::least;

    const TEXT: &str = "{\"type\":\"user\"}\n";
    const PLACE: &str = "/home/user/.claude/projects/-home-user-workspace/s-1.jsonl";

    fn context(session: Value) -> Context {
        let mut value = least();
        value["resumeSession"] = session;
        serde_json::from_value(value).unwrap()
    }

    /// What is in the session's file afterwards.
    fn restored(session: Value, url: &str) -> Result<String> {
        let factory = Script::default().factory();
        let sandbox = factory
            .start(&crate::request::tests::config(), &sandbox::Cancellation::new(), Instant::now())
            .unwrap();
        let access = Access {
            guest_url: "http://guest".into(),
            url: url.into(),
            service: None,
            bypass: None,
            reachable: Vec::new(),
        };
        restore(&*sandbox, &context(session), &access, &Stop::new())?;
        let files = &factory.record().files;
        Ok(String::from_utf8(files[Path::new(PLACE)].clone()).unwrap())
    }

    fn reference(encoding: &str, encoded: &[u8], raw_size: usize) -> Value {
        let hash: String = Sha256::digest(TEXT).iter().map(|byte| format!("{byte:02x}")).collect();
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
    fn an_inline_history_is_put_where_the_cli_looks() {
        let session = json!({"sessionId": "s-1", "sessionHistory": TEXT});
        assert_eq!(restored(session, "http://unused").unwrap(), TEXT);
    }

    #[test]
    fn a_history_is_fetched_from_here_and_unpacked() {
        assert_eq!(fetched("identity", TEXT.as_bytes(), TEXT.len()).unwrap(), TEXT);
        let packed = zstd::encode_all(TEXT.as_bytes(), 1).unwrap();
        assert_eq!(fetched("zstd", &packed, TEXT.len()).unwrap(), TEXT);
    }

    #[test]
    fn a_history_that_is_another_or_longer_is_refused() {
        let other = TEXT.replace("user", "evil");
        let error = fetched("identity", other.as_bytes(), TEXT.len()).unwrap_err();
        assert!(error.to_string().contains("not the one"), "{error}");
        let error = fetched("identity", TEXT.as_bytes(), TEXT.len() - 1).unwrap_err();
        assert!(error.to_string().contains("longer"), "{error}");
    }

    #[test]
    fn a_job_that_ends_waits_for_no_history() {
        let server = Server::start(|_| Reply::mute());
        let access = Access {
            guest_url: "http://guest".into(),
            url: server.url(),
            service: None,
            bypass: None,
            reachable: Vec::new(),
        };
        let factory = Script::default().factory();
        let sandbox = factory
            .start(&crate::request::tests::config(), &sandbox::Cancellation::new(), Instant::now())
            .unwrap();
        let context = context(reference("identity", TEXT.as_bytes(), TEXT.len()));
        let stop = Stop::new();
        std::thread::scope(|scope| {
            let restoring = scope.spawn(|| restore(&*sandbox, &context, &access, &stop));
            server.wait_for(|requests| !requests.is_empty());
            stop.signal();
            restoring.join().unwrap().unwrap_err();
        });
    }

    #[test]
    fn a_session_that_would_lead_elsewhere_is_refused() {
        let session = json!({"sessionId": "../../x", "sessionHistory": TEXT});
        restored(session, "http://unused").unwrap_err();
    }
}
