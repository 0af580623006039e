//! Values that an API's requests are to have, told when the proxy asks for them.
//!
//! Whoever tells them may have to ask others, which takes time: so threads of their own do it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use serde::Serialize;

use crate::proxy::Handle;
use crate::{Error, Result};

/// As many are asked at once.
const THREADS: usize = 4;
/// As many wait for their turn.
const QUEUE: usize = 64;

/// Knows the values for the APIs of one VM.
pub trait Credentials: Send + Sync {
    /// For the API of this number, as they are in the policy from 0; `force` asks for new ones, as
    /// the API has refused those that there were. May take a few seconds.
    fn get(&self, api: usize, force: bool) -> std::result::Result<Grant, Refusal>;
}

/// What an API's requests are to have.
#[derive(Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// Headers, instead of those that there are.
    pub headers: BTreeMap<String, String>,
    /// Parameters of the query, likewise.
    pub query: BTreeMap<String, String>,
    /// Another base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// The names of the secrets in it.
    pub resolved_secrets: Vec<String>,
    /// When it ends, in seconds since 1970; soon if none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
}

/// There are no values: the request is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The status that the VM sees.
    pub status: u16,
    /// Why, without secrets.
    pub reason: String,
}

/// It holds values.
impl fmt::Debug for Grant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = &self.resolved_secrets;
        formatter.debug_struct("Grant").field("names", names).finish_non_exhaustive()
    }
}

/// A question of the proxy's.
pub(crate) struct Question {
    pub(crate) id: u64,
    pub(crate) vm: Ipv4Addr,
    pub(crate) api: usize,
    pub(crate) force: bool,
    pub(crate) credentials: Arc<dyn Credentials>,
}

/// The threads that answer. They end when this is dropped, each after the question that it has.
pub(crate) struct Desk {
    questions: Option<Sender<Question>>,
    threads: Vec<JoinHandle<()>>,
}

impl Desk {
    pub(crate) fn open(handle: &Handle) -> Result<Self> {
        let (questions, waiting) = bounded(QUEUE);
        let mut desk = Self { questions: Some(questions), threads: Vec::new() };
        for number in 1..=THREADS {
            let name = format!("credential-{number}");
            let (waiting, handle) = (waiting.clone(), handle.clone());
            let thread = Builder::new().name(name.clone()).spawn(move || answer(&waiting, &handle));
            desk.threads.push(thread.map_err(|source| Error::Thread { name, source })?);
        }
        Ok(desk)
    }

    /// Has a question answered, or refuses it at once.
    pub(crate) fn ask(&self, question: Question) -> std::result::Result<(), Refusal> {
        let busy = || Refusal { status: 503, reason: "too many wait for credentials".to_owned() };
        let questions = self.questions.as_ref().ok_or_else(busy)?;
        questions.try_send(question).map_err(|error| match error {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => busy(),
        })
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        drop(self.questions.take());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a thread that answers questions for credentials panicked");
            }
        }
    }
}

fn answer(waiting: &Receiver<Question>, handle: &Handle) {
    for question in waiting {
        let Question { id, vm, api, force, credentials } = question;
        let answer = credentials.get(api, force);
        match &answer {
            Ok(grant) => log::debug!("credential; vm={vm} api={api} names={:?}", grant),
            Err(Refusal { status, reason }) => {
                log::warn!("no credential; vm={vm} api={api} status={status} reason={reason:?}");
            }
        }
        handle.credential(id, answer);
    }
}
