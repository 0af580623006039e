//! Events between the CLI and the platform, in order: so many bytes in memory, the rest on disk.
//!
//! One thread pushes and never waits, one takes and waits. Once something is on disk everything goes
//! there, until all of it was taken; so the order is kept. What does not fit on the disk either stays
//! with the pusher, who is to push no more until the bell says that there is room again.
//!
//! ```text
//!   push ──▶ memory, ≤ 1 MiB ──────────────┐
//!     └────▶ disk, while the memory is full ┴──▶ take: a batch
//! ```
//!
//! INVARIANT: no lock is held over I/O; the file is appended to by the pusher only, who also makes
//! it empty, when the taker has read all of it.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::bell::Bell;
use crate::{Error, Result};

/// How much is kept in memory.
const MEMORY: usize = 1 << 20;
/// How much is kept on disk.
const DISK: u64 = 1 << 30;
/// A batch's limits.
const MOST_EVENTS: usize = 100;
const MOST_BYTES: usize = 510 << 10;
/// How long an event may wait for others to come along.
const PATIENCE: Duration = Duration::from_millis(100);
/// What an event on disk has before it: its number and its length.
const HEAD: usize = 16;

/// An event's number, and the event as JSON; nothing where there was one that is too long.
pub(crate) type Numbered = (u64, Vec<u8>);

/// The pusher's end.
pub(crate) struct Inlet {
    shared: Arc<Shared>,
    file: File,
    /// How much is kept on disk.
    most: u64,
    /// What found no place.
    left: VecDeque<Numbered>,
}

/// The taker's end.
pub(crate) struct Outlet {
    shared: Arc<Shared>,
    file: File,
}

struct Shared {
    state: Mutex<State>,
    pushed: Condvar,
    bell: Bell,
}

#[derive(Default)]
struct State {
    memory: VecDeque<Numbered>,
    memory_bytes: usize,
    /// What is on disk and not taken yet: from where to where in the file.
    read: u64,
    written: u64,
    /// Since when the oldest event waits.
    since: Option<Instant>,
    wants_room: bool,
    closed: bool,
}

/// A spool that spills into `file`, which is empty and nobody else's.
pub(crate) fn spool(file: File, bell: &Bell) -> Result<(Inlet, Outlet)> {
    let second = file.try_clone().map_err(|source| Error::Spool { source })?;
    let shared =
        Arc::new(Shared { state: Mutex::default(), pushed: Condvar::new(), bell: bell.clone() });
    Ok((
        Inlet { shared: Arc::clone(&shared), file, most: DISK, left: VecDeque::new() },
        Outlet { shared, file: second },
    ))
}

impl Inlet {
    /// Puts an event behind all others.
    pub(crate) fn push(&mut self, event: Numbered) {
        self.left.push_back(event);
        self.is_full();
    }

    /// Whether nothing more should be pushed until the bell rings.
    pub(crate) fn is_full(&mut self) -> bool {
        while let Some(event) = self.left.pop_front() {
            if let Err(event) = self.place(event) {
                self.left.push_front(event);
                return true;
            }
        }
        false
    }

    /// No more will come. It must not be full.
    pub(crate) fn close(&mut self) {
        self.shared.lock().closed = true;
        self.shared.pushed.notify_one();
    }

    /// Finds a place for an event, or gives it back.
    fn place(&mut self, event: Numbered) -> std::result::Result<(), Numbered> {
        let mut state = self.shared.lock();
        let spills = state.written > state.read;
        let fits = state.memory_bytes + event.1.len() <= MEMORY || state.memory.is_empty();
        if !spills && fits {
            state.keep(event);
            drop(state);
            self.shared.pushed.notify_one();
            return Ok(());
        }
        if !spills {
            // All of the file was taken: it begins anew.
            (state.read, state.written) = (0, 0);
        }
        let at = state.written;
        drop(state);
        let spilt = self.spill(&event, at);
        let mut state = self.shared.lock();
        match spilt {
            Ok(length) => state.written = at + length,
            Err(_) if state.memory.is_empty() && state.read == state.written => state.keep(event),
            Err(error) => {
                log::warn!("events wait, as the disk takes no more; error={error}");
                state.wants_room = true;
                return Err(event);
            }
        }
        drop(state);
        self.shared.pushed.notify_one();
        Ok(())
    }

    /// Writes an event to the disk; returns how long it is there.
    fn spill(&self, (number, json): &Numbered, at: u64) -> io::Result<u64> {
        if at == 0 {
            self.file.set_len(0)?;
        }
        if at > self.most {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut record = Vec::with_capacity(HEAD + json.len());
        record.extend_from_slice(&number.to_le_bytes());
        record.extend_from_slice(&(json.len() as u64).to_le_bytes());
        record.extend_from_slice(json);
        self.file.write_all_at(&record, at)?;
        Ok(record.len() as u64)
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.close();
    }
}

impl Outlet {
    /// The next batch, as soon as there is a full one, or its first event waited long enough, or
    /// nothing more comes; none if all were taken.
    pub(crate) fn take(&self) -> io::Result<Option<Vec<Numbered>>> {
        let mut state = self.wait();
        let mut batch = Batch::default();
        while let Some(event) = state.memory.pop_front() {
            if let Err(event) = batch.add(event) {
                state.memory.push_front(event);
                break;
            }
        }
        state.memory_bytes -= batch.bytes;
        state.since = (!state.memory.is_empty()).then(Instant::now);
        let disk = if state.memory.is_empty() { state.read..state.written } else { 0..0 };
        // INVARIANT: as long as something is on disk the pusher only appends to the file.
        if !disk.is_empty() {
            drop(state);
            let read = self.take_from_disk(disk, &mut batch)?;
            state = self.shared.lock();
            state.read = read;
        }
        // Only now is there room: who were told earlier would find none and ask again, in vain if
        // this was the last batch.
        let wants_room = std::mem::take(&mut state.wants_room);
        drop(state);
        if wants_room {
            self.shared.bell.ring();
        }
        Ok((!batch.events.is_empty()).then_some(batch.events))
    }

    /// Waits until a batch can be taken.
    fn wait(&self) -> MutexGuard<'_, State> {
        let mut state = self.shared.lock();
        loop {
            let is_full = state.memory.len() >= MOST_EVENTS || state.memory_bytes >= MOST_BYTES;
            let left = state.since.map(|since| PATIENCE.saturating_sub(since.elapsed()));
            let is_late = left.is_some_and(|left| left.is_zero());
            if is_full || is_late || state.closed || state.written > state.read {
                return state;
            }
            let pushed = &self.shared.pushed;
            state = match left {
                Some(left) => {
                    pushed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => pushed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Adds what fits of these bytes of the file; returns how far that was.
    fn take_from_disk(&self, disk: Range<u64>, batch: &mut Batch) -> io::Result<u64> {
        let mut at = disk.start;
        while at < disk.end {
            let (event, length) = self.unspill(at)?;
            if batch.add(event).is_err() {
                break;
            }
            at += length;
        }
        Ok(at)
    }

    fn unspill(&self, at: u64) -> io::Result<(Numbered, u64)> {
        let mut head = [0; HEAD];
        self.file.read_exact_at(&mut head, at)?;
        let (number, length) = head.split_at(HEAD / 2);
        let word = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or_default();
        let mut json = vec![0; usize::try_from(word(length)).unwrap_or_default()];
        self.file.read_exact_at(&mut json, at + HEAD as u64)?;
        Ok(((word(number), json), HEAD as u64 + word(length)))
    }
}

/// Events that are sent together.
#[derive(Default)]
struct Batch {
    events: Vec<Numbered>,
    bytes: usize,
}

impl Batch {
    /// Adds an event unless that is too much; one that is too much by itself goes alone.
    fn add(&mut self, event: Numbered) -> std::result::Result<(), Numbered> {
        let is_full = self.events.len() == MOST_EVENTS || self.bytes + event.1.len() > MOST_BYTES;
        if is_full && !self.events.is_empty() {
            return Err(event);
        }
        self.bytes += event.1.len();
        self.events.push(event);
        Ok(())
    }
}

impl State {
    fn keep(&mut self, event: Numbered) {
        self.memory_bytes += event.1.len();
        self.memory.push_back(event);
        self.since.get_or_insert_with(Instant::now);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it has the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make() -> (Inlet, Outlet) {
        spool(tempfile::tempfile().unwrap(), &Bell::new().unwrap()).unwrap()
    }

    fn event(number: u64, size: usize) -> Numbered {
        (number, vec![b'x'; size])
    }

    fn take_all(outlet: &Outlet) -> Vec<Vec<u64>> {
        let batches = std::iter::from_fn(|| outlet.take().unwrap());
        batches.map(|batch| batch.iter().map(|(number, _)| *number).collect()).collect()
    }

    #[test]
    fn events_come_out_in_batches_in_the_order_in_which_they_came() {
        let (mut inlet, outlet) = make();
        (0..250).for_each(|number| inlet.push(event(number, 10)));
        inlet.close();
        let batches = take_all(&outlet);
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 50]);
        assert!(batches.concat().into_iter().eq(0..250));
    }

    #[test]
    fn what_does_not_fit_into_memory_goes_through_the_disk_in_order() {
        let (mut inlet, outlet) = make();
        (0..100).for_each(|number| inlet.push(event(number, 100_000)));
        assert!(inlet.shared.lock().memory_bytes <= MEMORY);
        let first = outlet.take().unwrap().unwrap();
        (100..120).for_each(|number| inlet.push(event(number, 10)));
        inlet.close();
        let mut numbers: Vec<_> = first.iter().map(|(number, _)| *number).collect();
        numbers.extend(take_all(&outlet).concat());
        assert!(numbers.into_iter().eq(0..120));
        assert!(!inlet.is_full());
    }

    #[test]
    fn the_file_begins_anew_when_all_of_it_was_taken() {
        let (mut inlet, outlet) = make();
        for round in 0..3 {
            (0..30).for_each(|number| inlet.push(event(round * 30 + number, 100_000)));
            let mut taken = 0;
            while taken < 30 {
                taken += outlet.take().unwrap().unwrap().len();
            }
        }
        assert!(outlet.file.metadata().unwrap().len() < 30 * 100_100);
    }

    #[test]
    fn a_long_event_goes_alone() {
        let (mut inlet, outlet) = make();
        [10, 600 << 10, 10].into_iter().zip(0..).for_each(|(size, n)| inlet.push(event(n, size)));
        inlet.close();
        assert_eq!(take_all(&outlet), [vec![0], vec![1], vec![2]]);
    }

    #[test]
    fn a_disk_that_takes_nothing_makes_the_spool_full_but_loses_nothing() {
        let full = File::options().read(true).write(true).open("/dev/full").unwrap();
        let (mut inlet, outlet) = spool(full, &Bell::new().unwrap()).unwrap();
        (0..20).for_each(|number| inlet.push(event(number, 100_000)));
        assert!(inlet.is_full());
        let mut numbers = Vec::new();
        while inlet.is_full() {
            numbers.extend(outlet.take().unwrap().unwrap().iter().map(|(number, _)| *number));
        }
        inlet.close();
        numbers.extend(take_all(&outlet).concat());
        assert!(numbers.into_iter().eq(0..20));
    }

    #[test]
    fn who_waits_for_room_on_a_full_disk_is_woken_when_there_is_some() {
        let bell = Bell::new().unwrap();
        let (mut inlet, outlet) = spool(tempfile::tempfile().unwrap(), &bell).unwrap();
        inlet.most = 1 << 20;
        std::thread::scope(|scope| {
            let taker = scope.spawn(|| take_all(&outlet).concat());
            for number in 0..2000 {
                while inlet.is_full() {
                    let woken = bell.wait_until(Instant::now() + Duration::from_secs(10));
                    if !woken {
                        inlet.close();
                    }
                    assert!(woken, "nobody rang; events={number}");
                }
                inlet.push(event(number, 100_000));
            }
            while inlet.is_full() {
                assert!(bell.wait_until(Instant::now() + Duration::from_secs(10)));
            }
            inlet.close();
            assert!(taker.join().unwrap().into_iter().eq(0..2000));
        });
    }

    #[test]
    fn one_event_does_not_wait_for_a_hundred() {
        let (mut inlet, outlet) = make();
        inlet.push(event(1, 10));
        assert_eq!(outlet.take().unwrap().unwrap().len(), 1);
    }
}
