//! The history of a session: its last state transitions and its last errors. It outlives connections, and the session
//! itself if a change of configuration replaces it.

use std::collections::VecDeque;
use std::time::Instant;

use crate::report::{PastError, SessionError, SessionReason, SessionState, Transition};

/// The number of entries kept: at most 8 KiB per session, as texts in reasons are short, and much less for a stable one.
const MAX_TRANSITIONS: usize = 16;
const MAX_ERRORS: usize = 8;
/// The number of entries among which a repetition is searched. A peer that cannot be reached goes through the same few
/// states for ever: a repetition is counted, so that it does not displace older entries.
const CYCLE: usize = 3;

/// State transitions and errors, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct History {
    transitions: Notes<(SessionState, SessionState, SessionReason), MAX_TRANSITIONS>,
    errors: Notes<SessionError, MAX_ERRORS>,
}

impl History {
    pub(super) fn transition(
        &mut self,
        now: Instant,
        from: SessionState,
        to: SessionState,
        reason: SessionReason,
    ) {
        self.transitions.add(now, (from, to, reason));
    }

    pub(super) fn error(&mut self, now: Instant, error: SessionError) {
        self.errors.add(now, error);
    }

    pub(crate) fn transitions(&self, now: Instant) -> Vec<Transition> {
        let transition = |note: &Note<(SessionState, SessionState, SessionReason)>| Transition {
            from: note.entry.0,
            to: note.entry.1,
            reason: note.entry.2.clone(),
            ago: now.saturating_duration_since(note.at),
            times: note.times,
        };
        self.transitions.0.iter().map(transition).collect()
    }

    pub(crate) fn errors(&self, now: Instant) -> Vec<PastError> {
        let error = |note: &Note<SessionError>| PastError {
            error: note.entry.clone(),
            ago: now.saturating_duration_since(note.at),
            times: note.times,
        };
        self.errors.0.iter().map(error).collect()
    }
}

#[derive(Debug)]
struct Note<T> {
    entry: T,
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
    fn add(&mut self, at: Instant, entry: T) {
        let recent = self.0.len().saturating_sub(CYCLE);
        let same = self.0.iter().skip(recent).position(|note| note.entry == entry);
        let times = same.and_then(|n| self.0.remove(recent + n)).map_or(0, |note| note.times);
        if self.0.len() == MAX {
            self.0.pop_front();
        }
        self.0.push_back(Note { entry, at, times: times.saturating_add(1) });
    }
}
