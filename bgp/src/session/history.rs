//! What a session went through: its last changes of state and its last errors, in words. It outlives connections, and
//! the session itself where another configuration makes a new one of it.

use std::collections::VecDeque;
use std::time::Instant;

use crate::report::{PastError, SessionState, Transition};

/// How many are kept; with [`MAX_WORDS`] at most 5 KiB a session, and far less in one that stands.
const MAX_TRANSITIONS: usize = 16;
const MAX_ERRORS: usize = 8;
/// How many octets of words are kept of each.
const MAX_WORDS: usize = 200;
/// A peer that cannot be reached goes through the same few states for ever: what is the same as one of the last so many is
/// counted, not noted again, so that it does not push out what came before.
const CYCLE: usize = 3;

/// Changes of state, and errors, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct History {
    transitions: Notes<(SessionState, SessionState), MAX_TRANSITIONS>,
    errors: Notes<(), MAX_ERRORS>,
}

impl History {
    pub(super) fn transition(&mut self, now: Instant, from: SessionState, to: SessionState, why: &str) {
        self.transitions.add(now, (from, to), why);
    }

    pub(super) fn error(&mut self, now: Instant, words: &str) {
        self.errors.add(now, (), words);
    }

    pub(crate) fn transitions(&self, now: Instant) -> Vec<Transition> {
        let transition = |note: &Note<(SessionState, SessionState)>| Transition {
            from: note.what.0,
            to: note.what.1,
            why: note.words.to_string(),
            ago: now.saturating_duration_since(note.at),
            times: note.times,
        };
        self.transitions.0.iter().map(transition).collect()
    }

    pub(crate) fn errors(&self, now: Instant) -> Vec<PastError> {
        let error = |note: &Note<()>| PastError {
            error: note.words.to_string(),
            ago: now.saturating_duration_since(note.at),
            times: note.times,
        };
        self.errors.0.iter().map(error).collect()
    }
}

#[derive(Debug)]
struct Note<T> {
    what: T,
    words: Box<str>,
    /// The last time.
    at: Instant,
    times: u32,
}

#[derive(Debug)]
struct Notes<T, const MAX: usize>(VecDeque<Note<T>>);

impl<T, const MAX: usize> Default for Notes<T, MAX> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T: PartialEq, const MAX: usize> Notes<T, MAX> {
    fn add(&mut self, at: Instant, what: T, words: &str) {
        let words = shortened(words);
        let recent = self.0.len().saturating_sub(CYCLE);
        let same = self.0.iter().skip(recent).position(|note| note.what == what && *note.words == *words);
        let times = same.and_then(|n| self.0.remove(recent + n)).map_or(0, |note| note.times);
        if self.0.len() == MAX {
            self.0.pop_front();
        }
        self.0.push_back(Note { what, words: words.into(), at, times: times.saturating_add(1) });
    }
}

/// As many whole characters as fit.
fn shortened(words: &str) -> &str {
    let end = (0..=MAX_WORDS.min(words.len())).rev().find(|at| words.is_char_boundary(*at));
    &words[..end.unwrap_or(0)]
}
