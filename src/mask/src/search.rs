//! Finds patterns in a text: whole ones by an automaton (Aho-Corasick), so that a byte costs the same
//! however many secrets there are, and windows of base64 in a sorted list. A hash of the next four
//! bytes says whether any of them may begin there, which most of the time is not so.

use aho_corasick::automaton::{Automaton as _, StateID};
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{Anchored, MatchKind};

use crate::pattern::{Patterns, WINDOW, Window};
use crate::unescape::{Unescaped, has_escapes};
use crate::{Error, Result};

/// Replaces a secret.
const MASK: &[u8] = b"***";

/// How many bytes a filter looks at: fewer than the shortest pattern has.
const PREFIX: usize = 4;

/// A search for all patterns.
#[derive(Debug)]
pub(crate) struct Search {
    automaton: NFA,
    /// The state in which no pattern has begun.
    idle: StateID,
    /// The length of the longest pattern.
    longest: usize,
    whole_filter: Filter,
    /// Sorted.
    windows: Vec<Window>,
    window_filter: Filter,
}

/// The start and end of a match.
pub(crate) type Range = (usize, usize);

/// What a text of which more may come has of the patterns.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) matches: Vec<Range>,
    /// From here on a match may have begun that ends after the text.
    pub(crate) open: usize,
}

impl Search {
    pub(crate) fn new(patterns: &Patterns) -> Result<Self> {
        let automaton = NFA::builder().match_kind(MatchKind::Standard).build(&patterns.whole);
        let automaton = automaton.map_err(|source| Error::TooLong { source: source.into() })?;
        let idle = automaton.start_state(Anchored::No);
        let idle = idle.map_err(|source| Error::TooLong { source: source.into() })?;
        let longest = patterns.whole.iter().map(Vec::len).max().unwrap_or(1);
        let windows: Vec<_> = patterns.windows.iter().copied().collect();
        let whole_filter = Filter::of(patterns.whole.iter().map(Vec::as_slice));
        let window_filter = Filter::of(windows.iter().map(|window| &window[..]));
        Ok(Self { automaton, idle, longest, whole_filter, windows, window_filter })
    }

    /// Looks for all patterns in a text, as it is and decoded. The matches are in order, and none
    /// has a byte of another.
    pub(crate) fn find(&self, text: &[u8]) -> Vec<Range> {
        let mut matches = Vec::new();
        self.scan(text, &mut matches);
        if has_escapes(text) {
            let decoded = Unescaped::of(text);
            self.scan_decoded(&decoded, &decoded.bytes, &mut matches);
        }
        merge(&mut matches);
        matches
    }

    /// As [`Search::find`] in a text of which more may come.
    pub(crate) fn find_so_far(&self, text: &[u8]) -> Found {
        let mut matches = Vec::new();
        let mut open = self.scan(text, &mut matches);
        if has_escapes(text) {
            let decoded = Unescaped::of(text);
            let begun = self.scan_decoded(&decoded, decoded.decided(), &mut matches);
            open = open.min(begun).min(decoded.open);
        }
        merge(&mut matches);
        Found { matches, open }
    }

    fn scan_decoded(&self, decoded: &Unescaped, bytes: &[u8], matches: &mut Vec<Range>) -> usize {
        let mut found = Vec::new();
        let begun = self.scan(bytes, &mut found);
        matches.extend(found.into_iter().map(|(from, to)| decoded.range(from, to)));
        decoded.start(begun)
    }

    /// Adds all matches; returns from where on one may have begun that ends later.
    fn scan(&self, text: &[u8], matches: &mut Vec<Range>) -> usize {
        self.scan_whole(text, matches).min(self.scan_windows(text, matches))
    }

    fn scan_whole(&self, text: &[u8], matches: &mut Vec<Range>) -> usize {
        let (mut at, mut state, mut busy_since) = (0, self.idle, 0);
        while at < text.len() {
            if state == self.idle {
                at = self.whole_filter.next(text, at);
                busy_since = at;
                if at == text.len() {
                    break;
                }
            }
            state = self.automaton.next_state(Anchored::No, state, text[at]);
            at += 1;
            if self.automaton.is_special(state) && self.automaton.is_match(state) {
                let ends = 0..self.automaton.match_len(state);
                let lengths = ends.map(|index| {
                    self.automaton.pattern_len(self.automaton.match_pattern(state, index))
                });
                matches.push((at - lengths.max().unwrap_or(0), at));
            }
        }
        if state == self.idle {
            return text.len();
        }
        busy_since.max((text.len() + 1).saturating_sub(self.longest))
    }

    fn scan_windows(&self, text: &[u8], matches: &mut Vec<Range>) -> usize {
        for (at, window) in text.windows(WINDOW).enumerate() {
            if self.window_filter.may_begin(window)
                && self.windows.binary_search_by(|one| one.as_slice().cmp(window)).is_ok()
            {
                matches.push((at, at + WINDOW));
            }
        }
        let first = (text.len() + 1).saturating_sub(WINDOW);
        (first..text.len()).find(|at| self.is_window_begun(&text[*at..])).unwrap_or(text.len())
    }

    fn is_window_begun(&self, tail: &[u8]) -> bool {
        let at = self.windows.partition_point(|window| window.as_slice() < tail);
        self.windows.get(at).is_some_and(|window| window.starts_with(tail))
    }
}

/// A bit for each hash of the first bytes of a pattern.
#[derive(Debug)]
struct Filter(Box<[u64; 1024]>);

impl Filter {
    fn of<'p>(patterns: impl Iterator<Item = &'p [u8]>) -> Self {
        let mut bits = Box::new([0; 1024]);
        for pattern in patterns {
            let hash = hash(pattern);
            bits[hash / 64] |= 1 << (hash % 64);
        }
        Self(bits)
    }

    fn may_begin(&self, bytes: &[u8]) -> bool {
        let hash = hash(bytes);
        self.0[hash / 64] >> (hash % 64) & 1 == 1
    }

    /// The next place where a pattern may begin.
    fn next(&self, text: &[u8], at: usize) -> usize {
        let next = text[at..].windows(PREFIX).position(|bytes| self.may_begin(bytes));
        // The last bytes are too few for the filter.
        next.map_or_else(|| (text.len() + 1).saturating_sub(PREFIX).max(at), |next| at + next)
    }
}

/// A hash of the first four bytes, of 16 bits.
fn hash(bytes: &[u8]) -> usize {
    let first = bytes.first_chunk::<PREFIX>().map_or(0, |first| u32::from_le_bytes(*first));
    (first.wrapping_mul(0x9e37_79b1) >> 16) as usize
}

/// Makes overlapping ranges one; afterwards they are in the order of their starts.
fn merge(ranges: &mut Vec<Range>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, last| {
        let overlap = next.0 < last.1;
        if overlap {
            last.1 = last.1.max(next.1);
        }
        overlap
    });
}

/// Appends a text from `at` on, which is masked up to there, with `***` in the place of each match.
pub(crate) fn replace(text: &[u8], at: usize, matches: &[Range], out: &mut Vec<u8>) {
    let mut at = at;
    for &(from, to) in matches {
        if from >= at {
            out.extend_from_slice(&text[at..from]);
            out.extend_from_slice(MASK);
        }
        at = at.max(to);
    }
    out.extend_from_slice(text.get(at..).unwrap_or_default());
}
