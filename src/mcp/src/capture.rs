//! The output of a command: its beginning and its end for the result, and all of it in a file of the
//! sandbox if that is more.

use std::collections::VecDeque;
use std::time::Instant;

use base::error::chain;
use sandbox::{Entry, EntryKind, Owner, TreeWriter, WriteRequest};
use sandbox_api::RunningSandbox;
use sandbox_api::files::Account;

use crate::call::Call;
use crate::text::lossy;

/// The most bytes of a file.
const MOST: u64 = 64 << 20;

/// Output as it comes.
pub(crate) struct Capture<'a> {
    call: &'a Call<'a>,
    path: String,
    account: Account,
    /// How many bytes are kept at the beginning, and as many at the end.
    half: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
    file: File,
}

enum File {
    /// All of the output is in the head and the tail.
    NotNeeded,
    Open(Box<dyn TreeWriter>),
    /// Why there is none.
    Failed(String),
}

impl<'a> Capture<'a> {
    /// `path` is where all of the output goes if it is more than the result holds.
    pub(crate) fn new(call: &'a Call<'a>, path: String, account: Account) -> Self {
        let half = call.options().max_result / 2;
        let (head, tail, file) = (Vec::new(), VecDeque::new(), File::NotNeeded);
        Self { call, path, account, half, head, tail, total: 0, file }
    }

    /// Takes output. `enter` is called if a file has to be made.
    pub(crate) fn push(&mut self, bytes: &[u8], enter: impl FnOnce() -> Option<RunningSandbox>) {
        let is_more = self.head.len() + self.tail.len() + bytes.len() > 2 * self.half;
        if matches!(self.file, File::NotNeeded) && is_more {
            self.file = self.open(enter);
        }
        self.save(bytes);
        self.total += bytes.len() as u64;
        let room = (self.half - self.head.len()).min(bytes.len());
        let (first, rest) = bytes.split_at(room);
        self.head.extend_from_slice(first);
        self.tail.extend(rest);
        let surplus = self.tail.len().saturating_sub(self.half);
        self.tail.drain(..surplus);
    }

    /// The text for the result.
    pub(crate) fn finish(mut self) -> String {
        let note = match std::mem::replace(&mut self.file, File::NotNeeded) {
            File::NotNeeded => None,
            File::Open(file) => Some(match file.finish(self.call.deadline()) {
                Ok(()) => self.saved(),
                Err(error) => self.not_saved(&chain(&error)),
            }),
            File::Failed(reason) => Some(self.not_saved(&reason)),
        };
        let tail = self.tail.make_contiguous();
        let Some(note) = note else { return lossy(&[&self.head, &*tail].concat()) };
        format!("{}\n\n[{note}]\n\n{}", lossy(&self.head), lossy(tail))
    }

    fn saved(&self) -> String {
        let (left_out, total, path) = (self.left_out(), self.total, &self.path);
        let kept = if total > MOST { format!("the first {MOST} bytes") } else { "all".to_owned() };
        format!(
            "{left_out} bytes are left out here. {kept} of the {total} bytes of output are in the file {path} of \
             the sandbox: page through it with read_file, or search it with grep"
        )
    }

    fn not_saved(&self, reason: &str) -> String {
        let (left_out, path) = (self.left_out(), &self.path);
        format!(
            "{left_out} bytes are left out here, and could not be kept in the file {path}: {reason}"
        )
    }

    fn left_out(&self) -> u64 {
        self.total - (self.head.len() + self.tail.len()) as u64
    }

    /// Begins the file with what there is.
    fn open(&mut self, enter: impl FnOnce() -> Option<RunningSandbox>) -> File {
        let Some(running) = enter() else {
            return File::Failed("the sandbox does not run any more".to_owned());
        };
        let deadline = self.call.deadline();
        let begun = self.begin(&running, deadline);
        begun.map_or_else(|error| File::Failed(chain(&error)), File::Open)
    }

    fn begin(
        &mut self,
        running: &RunningSandbox,
        deadline: Instant,
    ) -> sandbox::Result<Box<dyn TreeWriter>> {
        let request = WriteRequest {
            target: (&self.path).into(),
            owner: Some(Owner { uid: self.account.uid, gid: self.account.gid }),
            ..WriteRequest::default()
        };
        let mut file = running.write(&request, deadline)?;
        // The size is for progress bars only.
        let kind = EntryKind::File { size: 0 };
        let (mode, owner, modified) = (0o644, None, None);
        file.entry(&Entry { path: "".into(), kind, mode, owner, modified }, deadline)?;
        file.data(&self.head, deadline)?;
        file.data(self.tail.make_contiguous(), deadline)?;
        Ok(file)
    }

    fn save(&mut self, bytes: &[u8]) {
        let File::Open(file) = &mut self.file else { return };
        let room = usize::try_from(MOST.saturating_sub(self.total)).unwrap_or(usize::MAX);
        let bytes = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        if bytes.is_empty() {
            return;
        }
        if let Err(error) = file.data(bytes, self.call.deadline()) {
            self.file = File::Failed(chain(&error));
        }
    }
}
