//! A FIFO queue of events between the CLI and the platform: a bounded part in memory, the rest on disk.
//!
//! The main thread writes and never blocks; the delivery thread reads and blocks. While the file holds
//! unread events, new events go to the file too, which preserves the order. Events that do not fit on
//! the disk stay in the writer; the main thread then stops pushing until the waker signals room.
//!
//! ```text
//!   push ──▶ memory, ≤ 1 MiB ──────────────┐
//!     └────▶ disk, while the memory is full ┴──▶ take: a batch
//! ```
//!
//! INVARIANT: no lock is held over I/O. Only the writer appends to the file, and only the writer
//! truncates it, after the reader has read all of it.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::sync::{Condvar, Mutex, MutexGuard};

use crate::waker::Waker;
use crate::{Error, Result};

/// The most bytes of events in memory.
const MAX_MEMORY: usize = 1 << 20;
/// The most bytes of events on disk.
const MAX_DISK: u64 = 1 << 30;
/// Limits of a batch.
const MAX_BATCH_EVENTS: usize = 100;
const MAX_BATCH_BYTES: usize = 510 << 10;
/// How long the first event of a batch waits for others.
const BATCH_DELAY: Duration = Duration::from_millis(100);
/// The header of an event on disk: its number and its length.
const HEADER_LENGTH: usize = 16;

/// An event's number and its JSON. The JSON is empty if the event was too long.
pub(crate) type NumberedEvent = (u64, Vec<u8>);

/// The main thread's end.
pub(crate) struct SpoolWriter {
    shared: Arc<Shared>,
    file: File,
    /// The most bytes of events on disk.
    max_disk: u64,
    /// Events that fit neither into memory nor on the disk.
    overflow: VecDeque<NumberedEvent>,
}

/// The delivery thread's end.
pub(crate) struct SpoolReader {
    shared: Arc<Shared>,
    file: File,
}

struct Shared {
    state: Mutex<SpoolState>,
    pushed: Condvar,
    waker: Waker,
}

#[derive(Default)]
struct SpoolState {
    memory: VecDeque<NumberedEvent>,
    memory_bytes: usize,
    /// The offsets between which the file holds unread events.
    read: u64,
    written: u64,
    /// When the oldest event in memory arrived.
    oldest_since: Option<Instant>,
    wants_room: bool,
    closed: bool,
}

/// Makes a spool that spills into `file`, which must be empty and used for nothing else.
pub(crate) fn spool(file: File, waker: &Waker) -> Result<(SpoolWriter, SpoolReader)> {
    let second = file.try_clone().map_err(|source| Error::Spool { source })?;
    let shared =
        Arc::new(Shared { state: Mutex::default(), pushed: Condvar::new(), waker: waker.clone() });
    Ok((
        SpoolWriter {
            shared: Arc::clone(&shared),
            file,
            max_disk: MAX_DISK,
            overflow: VecDeque::new(),
        },
        SpoolReader { shared, file: second },
    ))
}

impl SpoolWriter {
    /// Appends an event.
    pub(crate) fn push(&mut self, event: NumberedEvent) {
        self.overflow.push_back(event);
        self.is_full();
    }

    /// Stores overflowed events as far as there is room. Returns whether the caller should stop
    /// pushing until the waker wakes it.
    pub(crate) fn is_full(&mut self) -> bool {
        while let Some(event) = self.overflow.pop_front() {
            if let Err(event) = self.store(event) {
                self.overflow.push_front(event);
                return true;
            }
        }
        false
    }

    /// Ends the stream of events. The spool must not be full.
    pub(crate) fn close(&mut self) {
        self.shared.lock().closed = true;
        self.shared.pushed.notify_one();
    }

    /// Stores an event in memory or on disk, or returns it if neither has room.
    fn store(&mut self, event: NumberedEvent) -> std::result::Result<(), NumberedEvent> {
        let mut state = self.shared.lock();
        let spills = state.written > state.read;
        let fits = state.memory_bytes + event.1.len() <= MAX_MEMORY || state.memory.is_empty();
        if !spills && fits {
            state.keep(event);
            drop(state);
            self.shared.pushed.notify_one();
            return Ok(());
        }
        if !spills {
            // The reader has read the whole file: start over at its beginning.
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
                log::warn!("events wait: cannot write to the disk; error={error}");
                state.wants_room = true;
                return Err(event);
            }
        }
        drop(state);
        self.shared.pushed.notify_one();
        Ok(())
    }

    /// Writes an event to the file at offset `at`. Returns the record's length.
    fn spill(&self, (number, json): &NumberedEvent, at: u64) -> io::Result<u64> {
        if at == 0 {
            self.file.set_len(0)?;
        }
        if at > self.max_disk {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut record = Vec::with_capacity(HEADER_LENGTH + json.len());
        record.extend_from_slice(&number.to_le_bytes());
        record.extend_from_slice(&(json.len() as u64).to_le_bytes());
        record.extend_from_slice(json);
        self.file.write_all_at(&record, at)?;
        Ok(record.len() as u64)
    }
}

impl Drop for SpoolWriter {
    fn drop(&mut self) {
        self.close();
    }
}

impl SpoolReader {
    /// Blocks until there is a batch: a full one, one whose first event has waited [`BATCH_DELAY`],
    /// or the rest after the end. `None` after the last batch.
    pub(crate) fn take(&self) -> io::Result<Option<Vec<NumberedEvent>>> {
        let mut state = self.wait();
        let mut batch = Batch::default();
        while let Some(event) = state.memory.pop_front() {
            if let Err(event) = batch.add(event) {
                state.memory.push_front(event);
                break;
            }
        }
        state.memory_bytes -= batch.bytes;
        state.oldest_since = (!state.memory.is_empty()).then(Instant::now);
        let disk = if state.memory.is_empty() { state.read..state.written } else { 0..0 };
        // INVARIANT: while the file holds unread events the writer only appends to it.
        if !disk.is_empty() {
            drop(state);
            let read = self.take_from_disk(disk, &mut batch)?;
            state = self.shared.lock();
            state.read = read;
        }
        // Wake the writer only now that there is room. An earlier wake-up would find none, and after
        // the last batch there would be no other.
        let wants_room = std::mem::take(&mut state.wants_room);
        drop(state);
        if wants_room {
            self.shared.waker.wake();
        }
        Ok((!batch.events.is_empty()).then_some(batch.events))
    }

    /// Waits until a batch can be taken.
    fn wait(&self) -> MutexGuard<'_, SpoolState> {
        let mut state = self.shared.lock();
        loop {
            let is_full =
                state.memory.len() >= MAX_BATCH_EVENTS || state.memory_bytes >= MAX_BATCH_BYTES;
            let left = state.oldest_since.map(|since| BATCH_DELAY.saturating_sub(since.elapsed()));
            let is_late = left.is_some_and(|left| left.is_zero());
            if is_full || is_late || state.closed || state.written > state.read {
                return state;
            }
            let pushed = &self.shared.pushed;
            state = match left {
                Some(left) => pushed.wait_timeout(state, left),
                None => pushed.wait(state),
            };
        }
    }

    /// Adds events from the file's range `disk` to the batch. Returns the offset of the first that is left.
    fn take_from_disk(&self, disk: Range<u64>, batch: &mut Batch) -> io::Result<u64> {
        let mut at = disk.start;
        while at < disk.end {
            let (event, length) = self.read_spilled(at)?;
            if batch.add(event).is_err() {
                break;
            }
            at += length;
        }
        Ok(at)
    }

    fn read_spilled(&self, at: u64) -> io::Result<(NumberedEvent, u64)> {
        let mut head = [0; HEADER_LENGTH];
        self.file.read_exact_at(&mut head, at)?;
        let (number, length) = head.split_at(HEADER_LENGTH / 2);
        let word = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or_default();
        let mut json = vec![0; usize::try_from(word(length)).unwrap_or_default()];
        self.file.read_exact_at(&mut json, at + HEADER_LENGTH as u64)?;
        Ok(((word(number), json), HEADER_LENGTH as u64 + word(length)))
    }
}

/// Events that are sent in one request.
#[derive(Default)]
struct Batch {
    events: Vec<NumberedEvent>,
    bytes: usize,
}

impl Batch {
    /// Adds an event, or returns it if the batch is full. An event over the limit gets a batch of its own.
    fn add(&mut self, event: NumberedEvent) -> std::result::Result<(), NumberedEvent> {
        let is_full =
            self.events.len() == MAX_BATCH_EVENTS || self.bytes + event.1.len() > MAX_BATCH_BYTES;
        if is_full && !self.events.is_empty() {
            return Err(event);
        }
        self.bytes += event.1.len();
        self.events.push(event);
        Ok(())
    }
}

impl SpoolState {
    fn keep(&mut self, event: NumberedEvent) {
        self.memory_bytes += event.1.len();
        self.memory.push_back(event);
        self.oldest_since.get_or_insert_with(Instant::now);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, SpoolState> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make() -> (SpoolWriter, SpoolReader) {
        spool(tempfile::tempfile().unwrap(), &Waker::new().unwrap()).unwrap()
    }

    fn event(number: u64, size: usize) -> NumberedEvent {
        (number, vec![b'x'; size])
    }

    fn take_all(reader: &SpoolReader) -> Vec<Vec<u64>> {
        let batches = std::iter::from_fn(|| reader.take().unwrap());
        batches.map(|batch| batch.iter().map(|(number, _)| *number).collect()).collect()
    }

    #[test]
    fn events_come_out_in_batches_in_the_order_in_which_they_came() {
        let (mut writer, reader) = make();
        (0..250).for_each(|number| writer.push(event(number, 10)));
        writer.close();
        let batches = take_all(&reader);
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 50]);
        assert!(batches.concat().into_iter().eq(0..250));
    }

    #[test]
    fn events_beyond_the_memory_limit_pass_through_the_disk_in_order() {
        let (mut writer, reader) = make();
        (0..100).for_each(|number| writer.push(event(number, 100_000)));
        assert!(writer.shared.lock().memory_bytes <= MAX_MEMORY);
        let first = reader.take().unwrap().unwrap();
        (100..120).for_each(|number| writer.push(event(number, 10)));
        writer.close();
        let mut numbers: Vec<_> = first.iter().map(|(number, _)| *number).collect();
        numbers.extend(take_all(&reader).concat());
        assert!(numbers.into_iter().eq(0..120));
        assert!(!writer.is_full());
    }

    #[test]
    fn the_file_is_truncated_once_all_of_it_was_read() {
        let (mut writer, reader) = make();
        for round in 0..3 {
            (0..30).for_each(|number| writer.push(event(round * 30 + number, 100_000)));
            let mut taken = 0;
            while taken < 30 {
                taken += reader.take().unwrap().unwrap().len();
            }
        }
        assert!(reader.file.metadata().unwrap().len() < 30 * 100_100);
    }

    #[test]
    fn an_event_over_the_batch_limit_gets_a_batch_of_its_own() {
        let (mut writer, reader) = make();
        [10, 600 << 10, 10].into_iter().zip(0..).for_each(|(size, n)| writer.push(event(n, size)));
        writer.close();
        assert_eq!(take_all(&reader), [vec![0], vec![1], vec![2]]);
    }

    #[test]
    fn a_full_disk_makes_the_spool_full_but_loses_no_event() {
        let full = File::options().read(true).write(true).open("/dev/full").unwrap();
        let (mut writer, reader) = spool(full, &Waker::new().unwrap()).unwrap();
        (0..20).for_each(|number| writer.push(event(number, 100_000)));
        assert!(writer.is_full());
        let mut numbers = Vec::new();
        while writer.is_full() {
            numbers.extend(reader.take().unwrap().unwrap().iter().map(|(number, _)| *number));
        }
        writer.close();
        numbers.extend(take_all(&reader).concat());
        assert!(numbers.into_iter().eq(0..20));
    }

    #[test]
    fn a_writer_that_waits_for_room_is_woken_when_there_is_some() {
        let waker = Waker::new().unwrap();
        let (mut writer, reader) = spool(tempfile::tempfile().unwrap(), &waker).unwrap();
        writer.max_disk = 1 << 20;
        std::thread::scope(|scope| {
            let taker = scope.spawn(|| take_all(&reader).concat());
            for number in 0..2000 {
                while writer.is_full() {
                    let woken = waker.wait_until(Instant::now() + Duration::from_secs(10));
                    if !woken {
                        writer.close();
                    }
                    assert!(woken, "the writer was not woken; events={number}");
                }
                writer.push(event(number, 100_000));
            }
            while writer.is_full() {
                assert!(waker.wait_until(Instant::now() + Duration::from_secs(10)));
            }
            writer.close();
            assert!(taker.join().unwrap().into_iter().eq(0..2000));
        });
    }

    #[test]
    fn a_single_event_does_not_wait_for_a_full_batch() {
        let (mut writer, reader) = make();
        writer.push(event(1, 10));
        assert_eq!(reader.take().unwrap().unwrap().len(), 1);
    }
}
