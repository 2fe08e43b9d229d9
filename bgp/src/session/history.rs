//! The history of a session: its last state transitions and its last errors. It outlives connections, and the session
//! itself if a change of configuration replaces it.

use std::collections::VecDeque;
use std::time::Instant;

use crate::report::{PastError, SessionState, Transition};

/// The number of entries kept; with [`MAX_TEXT`] at most 5 KiB per session, and much less for a stable one.
const MAX_TRANSITIONS: usize = 16;
const MAX_ERRORS: usize = 8;
/// The length of an entry's text, in octets.
const MAX_TEXT: usize = 200;
/// The number of entries among which a repetition is searched. A peer that cannot be reached goes through the same few
/// states for ever: a repetition is counted, so that it does not displace older entries.
const CYCLE: usize = 3;

/// State transitions and errors, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct History {
    transitions: Notes<(SessionState, SessionState), MAX_TRANSITIONS>,
    errors: Notes<(), MAX_ERRORS>,
}

impl History {
    pub(super) fn transition(&mut self, now: Instant, from: SessionState, to: SessionState, why: &str) {
        self.transitions.add(now, (from, to), why);
    }

    pub(super) fn error(&mut self, now: Instant, text: &str) {
        self.errors.add(now, (), text);
    }

    pub(crate) fn transitions(&self, now: Instant) -> Vec<Transition> {
        let transition = |note: &Note<(SessionState, SessionState)>| Transition {
            from: note.entry.0,
            to: note.entry.1,
            why: note.text.to_string(),
            ago: now.saturating_duration_since(note.at),
            times: note.times,
        };
        self.transitions.0.iter().map(transition).collect()
    }

    pub(crate) fn errors(&self, now: Instant) -> Vec<PastError> {
        let error = |note: &Note<()>| PastError {
            error: note.text.to_string(),
            ago: now.saturating_duration_since(note.at),
            times: note.times,
        };
        self.errors.0.iter().map(error).collect()
    }
}

#[derive(Debug)]
struct Note<T> {
    entry: T,
    text: Box<str>,
    /// The time of the last repetition.
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
    fn add(&mut self, at: Instant, entry: T, text: &str) {
        let text = shortened(text);
        let recent = self.0.len().saturating_sub(CYCLE);
        let same = self.0.iter().skip(recent).position(|note| note.entry == entry && *note.text == *text);
        let times = same.and_then(|n| self.0.remove(recent + n)).map_or(0, |note| note.times);
        if self.0.len() == MAX {
            self.0.pop_front();
        }
        self.0.push_back(Note { entry, text: text.into(), at, times: times.saturating_add(1) });
    }
}

/// Returns the start of a text, cut at a character boundary.
fn shortened(text: &str) -> &str {
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}
