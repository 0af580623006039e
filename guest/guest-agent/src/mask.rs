//! Secrets out of everything that leaves: each form of a secret becomes `***`.
//!
//! All forms of all secrets are one automaton (Aho-Corasick), so that a byte costs the same however
//! many secrets there are. Where nothing is under way, a hash of the next four bytes says whether a
//! form may begin there, which most of the time it may not.
//!
//! INVARIANT: every byte that is part of any form is masked, also where forms overlap; in a stream
//! a byte is let go only when no form that it may be part of can come any more.

mod form;

use std::borrow::Cow;

use aho_corasick::automaton::{Automaton as _, StateID};
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{Anchored, MatchKind};

use crate::{Error, Result};

/// What stands for a secret.
const MASK: &[u8] = b"***";

/// How many bytes the filter looks at: fewer than the shortest form has.
const WINDOW: usize = 4;

/// Knows all secrets.
#[derive(Default)]
pub struct Masker {
    /// None if there are no secrets.
    search: Option<Search>,
}

struct Search {
    automaton: NFA,
    /// The state in which no form is under way.
    idle: StateID,
    /// The length of the longest form.
    longest: usize,
    /// A bit for each hash of the first bytes of a form.
    filter: Box<[u64; 1024]>,
}

impl Masker {
    /// Masks these secrets; those of less than 5 bytes are none. It fails if they are more than
    /// memory has room for.
    pub fn new<S: AsRef<[u8]>>(secrets: impl IntoIterator<Item = S>) -> Result<Self> {
        let mut forms: Vec<_> =
            secrets.into_iter().flat_map(|secret| form::all(secret.as_ref())).collect();
        forms.sort_unstable();
        forms.dedup();
        if forms.is_empty() {
            return Ok(Self::default());
        }
        let mut filter = Box::new([0; 1024]);
        for form in &forms {
            let hash = hash(form);
            filter[hash / 64] |= 1 << (hash % 64);
        }
        let longest = forms.iter().map(Vec::len).max().unwrap_or(0);
        let automaton = NFA::builder().match_kind(MatchKind::Standard).build(&forms);
        let automaton = automaton.map_err(|source| Error::Secrets { source: source.into() })?;
        let idle = automaton.start_state(Anchored::No);
        let idle = idle.map_err(|source| Error::Secrets { source: source.into() })?;
        Ok(Self { search: Some(Search { automaton, idle, longest, filter }) })
    }

    /// The text without secrets.
    pub fn mask<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let Some(search) = &self.search else { return Cow::Borrowed(text) };
        let mut found = Vec::new();
        search.scan(text.as_bytes(), 0, search.idle, &mut found);
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut stream = Stream::new(self);
        let mut masked = Vec::with_capacity(text.len());
        stream.push(text.as_bytes(), &mut masked);
        stream.finish(&mut masked);
        // A secret that is no text may have matched in the middle of a character.
        let masked = String::from_utf8(masked)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        Cow::Owned(masked)
    }
}

impl Search {
    /// Looks for forms from `at` on, in `state`; adds where they are to `found`, in the order of
    /// their ends. Returns the state at the end and since where it is not idle.
    fn scan(
        &self,
        text: &[u8],
        mut at: usize,
        mut state: StateID,
        found: &mut Vec<(usize, usize)>,
    ) -> (StateID, usize) {
        let mut busy_since = at;
        while at < text.len() {
            if state == self.idle {
                at = self.skip(text, at);
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
                found.push((at - lengths.max().unwrap_or(0), at));
            }
        }
        (state, busy_since)
    }

    /// The next place where a form may begin.
    fn skip(&self, text: &[u8], at: usize) -> usize {
        let windows = text[at..].windows(WINDOW);
        let next =
            windows.map(hash).position(|hash| self.filter[hash / 64] >> (hash % 64) & 1 == 1);
        // Too little is left at the end for the filter to say.
        next.map_or_else(|| (text.len() + 1).saturating_sub(WINDOW).max(at), |next| at + next)
    }
}

/// A hash of the first four bytes, of 16 bits.
fn hash(bytes: &[u8]) -> usize {
    let first = bytes.first_chunk::<WINDOW>().map_or(0, |first| u32::from_le_bytes(*first));
    (first.wrapping_mul(0x9e37_79b1) >> 16) as usize
}

/// Masks text that comes in pieces.
pub struct Stream<'m> {
    search: Option<&'m Search>,
    state: Option<StateID>,
    /// What came and is not let go yet.
    held: Vec<u8>,
    /// How many of the held bytes belong to a form that has its mask already.
    masked: usize,
    /// Forms in what is held, in the order of their ends.
    found: Vec<(usize, usize)>,
    /// Since where in the held bytes the automaton is not idle.
    busy_since: usize,
}

impl<'m> Stream<'m> {
    /// A stream that nothing came of yet.
    pub fn new(masker: &'m Masker) -> Self {
        let search = masker.search.as_ref();
        let state = search.map(|search| search.idle);
        Self { search, state, held: Vec::new(), masked: 0, found: Vec::new(), busy_since: 0 }
    }

    /// Takes a piece; appends to `out` what can be let go.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let (Some(search), Some(state)) = (self.search, self.state) else {
            out.extend_from_slice(piece);
            return;
        };
        let at = self.held.len();
        self.held.extend_from_slice(piece);
        let (after, busy_since) = search.scan(&self.held, at, state, &mut self.found);
        // A form that was under way before this piece may still be.
        if state == search.idle || busy_since != at {
            self.busy_since = busy_since;
        }
        self.state = Some(after);
        let under_way = if after == search.idle { 0 } else { self.held.len() - self.busy_since };
        self.let_go(self.held.len() - under_way.min(search.longest - 1), out);
    }

    /// The end: appends what was still held.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.let_go(self.held.len(), out);
        self.state = self.search.map(|search| search.idle);
        self.masked = 0;
    }

    /// Appends the first `count` held bytes, masked.
    fn let_go(&mut self, count: usize, out: &mut Vec<u8>) {
        merge(&mut self.found);
        // INVARIANT: what is before `at` is let go, or has its mask.
        let mut at = self.masked;
        for &(from, to) in self.found.iter().filter(|(from, _)| *from < count) {
            if from >= at {
                out.extend_from_slice(&self.held[at..from]);
                out.extend_from_slice(MASK);
            }
            at = at.max(to);
        }
        if at < count {
            out.extend_from_slice(&self.held[at..count]);
        }
        self.held.drain(..count);
        self.masked = at.saturating_sub(count);
        self.busy_since = self.busy_since.saturating_sub(count);
        self.found.retain(|(from, _)| *from >= count);
        for range in &mut self.found {
            *range = (range.0 - count, range.1 - count);
        }
    }
}

/// Makes overlapping ranges one; afterwards they are in the order of their starts.
fn merge(ranges: &mut Vec<(usize, usize)>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, last| {
        let overlap = next.0 < last.1;
        if overlap {
            last.1 = last.1.max(next.1);
        }
        overlap
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(secrets: &[&str], text: &str) -> String {
        let masker = Masker::new(secrets).unwrap();
        let masked = masker.mask(text).into_owned();
        for size in [1, 2, 3, 7] {
            let mut out = Vec::new();
            let mut stream = Stream::new(&masker);
            text.as_bytes().chunks(size).for_each(|piece| stream.push(piece, &mut out));
            stream.finish(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), masked, "in pieces of {size}");
        }
        masked
    }

    #[test]
    fn a_secret_becomes_three_stars() {
        assert_eq!(mask(&["hunter2"], "a hunter2 b hunter2hunter2"), "a *** b ******");
    }

    #[test]
    fn a_secret_inside_of_a_longer_one_leaves_nothing_of_either() {
        assert_eq!(mask(&["token", "my-token-2"], "my-token-2 token"), "*** ***");
    }

    #[test]
    fn secrets_that_overlap_are_masked_whole() {
        assert_eq!(mask(&["abcdef", "defghi", "ghijkl"], "xabcdefghijkly"), "x***y");
        assert_eq!(mask(&["bcdefg", "abcdefgh", "defghij"], "abcdefghij abcdefg"), "*** a***");
    }

    #[test]
    fn what_only_begins_like_a_secret_stays() {
        assert_eq!(mask(&["hunter2"], "hunter1 hunte hunterhunter2"), "hunter1 hunte hunter***");
        assert_eq!(mask(&["aaaab"], "aaaaaaaaab aaaa"), "aaaaa*** aaaa");
    }

    #[test]
    fn short_secrets_are_none() {
        assert_eq!(mask(&["abcd", ""], "abcd"), "abcd");
    }

    #[test]
    fn without_secrets_all_stays() {
        assert_eq!(mask(&[], "anything"), "anything");
    }

    #[test]
    fn a_secret_of_several_lines_is_masked_across_them() {
        assert_eq!(mask(&["line one\nline two"], "x\nline one\nline two\ny"), "x\n***\ny");
    }

    #[test]
    fn a_stream_holds_no_more_than_the_longest_form() {
        let masker = Masker::new(["aaaaaaaaab"]).unwrap();
        let (mut stream, mut out) = (Stream::new(&masker), Vec::new());
        for _ in 0..1000 {
            stream.push(b"aaaaaaa", &mut out);
            assert!(stream.held.len() <= 100);
        }
    }

    #[test]
    fn umlauts_around_and_in_secrets_stay_characters() {
        assert_eq!(mask(&["pässwörd"], "äpässwördö"), "ä***ö");
    }
}
