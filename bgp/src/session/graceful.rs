//! Graceful restart, the side of those who stay up: RFC 4724 §4.2, and RFC 9494 §4.2 for peers that stay away for
//! longer.
//!
//! A family's routes are stale from when its peer went until the peer has told all again:
//!
//! | phase | its end | then |
//! |---|---|---|
//! | `Away` | the restart time | `LongLived` if the peer offered that, else the routes go |
//! | `LongLived` | the long-lived stale time | the routes go |
//! | `Back` | End-of-RIB, or our patience | what is still stale goes |
//! | `Late` | End-of-RIB | nothing is stale any more |
//! | `Refresh` | EoRR (RFC 7313), or our patience | what is still stale goes |

use std::time::{Duration, Instant};

use super::connection::Connection;
use super::{Context, FIRST_DAMPING, Negotiated, Output, STABLE, Session};
use crate::wire::Family;

/// How long stale routes are kept for the End-of-RIB of a peer that is back (RFC 4724 §4.2 leaves the time to us).
const STALE_LIMIT: Duration = Duration::from_secs(360);

/// A family of which routes are stale.
#[derive(Debug)]
pub(super) struct Stale {
    family: Family,
    phase: Phase,
    /// When the phase is over.
    until: Option<Instant>,
    /// How long its routes may be long-lived stale.
    stale_time: Duration,
    /// When that is over, once it has begun: no restart moves that before the peer has told all again (RFC 9494 §4.2).
    limit: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The peer is away, within its restart time.
    Away,
    /// It is away for longer: its routes are the last resort.
    LongLived,
    /// It is back and tells all again.
    Back,
    /// It still does, but the long-lived stale time is over. Nothing is stale any more, and nothing is kept should the
    /// peer go again before it has told all (RFC 9494 §4.2).
    Late,
    /// It tells all again without having been away.
    Refresh,
}

impl Session {
    /// The peer is back: what it did not keep forwarding by goes, the rest waits for its End-of-RIB (RFC 4724 §4.2).
    pub(super) fn settle_stale(&mut self, ctx: &mut Context<'_>, negotiated: &Negotiated) {
        for mut stale in std::mem::take(&mut self.stale) {
            // RFC 9494 §4.2: once long-lived, the F bit of that capability counts.
            let preserved = match stale.limit {
                Some(_) => negotiated.forwarding_preserved_long(stale.family),
                None => negotiated.forwarding_preserved(stale.family),
            };
            if !preserved {
                ctx.put(Output::DropStale(Some(stale.family)));
                continue;
            }
            stale.phase = Phase::Back;
            stale.until = [Some(ctx.now + STALE_LIMIT), stale.limit].into_iter().flatten().min();
            self.stale.push(stale);
        }
    }

    /// The peer tells all of a family again, and will say when it has (RFC 7313 §4); we do not wait for ever.
    pub(super) fn expect_refresh(&mut self, ctx: &Context<'_>, family: Family) {
        self.stale.retain(|stale| stale.family != family);
        self.stale.push(Stale {
            family,
            phase: Phase::Refresh,
            until: Some(ctx.now + STALE_LIMIT),
            stale_time: Duration::ZERO,
            limit: None,
        });
    }

    /// End-of-RIB: a peer that was away has told all again. A refresh has an end of its own.
    pub(super) fn end_of_rib(&mut self, ctx: &mut Context<'_>, family: Family) {
        self.feeding.retain(|f| *f != family);
        self.end_stale(ctx, family, |phase| phase != Phase::Refresh);
    }

    /// EoRR (RFC 7313 §4). It does not stand for an End-of-RIB.
    pub(super) fn end_of_refresh(&mut self, ctx: &mut Context<'_>, family: Family) {
        self.end_stale(ctx, family, |phase| phase == Phase::Refresh);
    }

    fn end_stale(&mut self, ctx: &mut Context<'_>, family: Family, ends: impl Fn(Phase) -> bool) {
        let before = self.stale.len();
        self.stale.retain(|stale| stale.family != family || !ends(stale.phase));
        if self.stale.len() < before {
            ctx.put(Output::DropStale(Some(family)));
        }
    }

    pub(super) fn forget_stale(&mut self, ctx: &mut Context<'_>) {
        if !std::mem::take(&mut self.stale).is_empty() {
            ctx.put(Output::DropStale(None));
        }
    }

    pub(super) fn stale_deadline(&self) -> Option<Instant> {
        self.stale.iter().filter_map(|stale| stale.until).min()
    }

    /// Ends the phases whose time is over.
    pub(super) fn age_stale(&mut self, ctx: &mut Context<'_>) {
        for mut stale in std::mem::take(&mut self.stale) {
            if let Some(until) = stale.until.filter(|until| *until <= ctx.now) {
                if !stale.pass(until) {
                    ctx.put(Output::DropStale(Some(stale.family)));
                    continue;
                }
                match stale.phase {
                    Phase::LongLived => ctx.put(Output::LongLived(stale.family)),
                    _ => ctx.put(Output::DropStale(Some(stale.family))),
                }
            }
            self.stale.push(stale);
        }
    }

    /// The established connection ended. `graceful`: without a NOTIFICATION either way, or with one that both sides agreed
    /// to survive (RFC 8538).
    pub(super) fn down(
        &mut self,
        ctx: &mut Context<'_>,
        connection: &Connection,
        graceful: bool,
        reason: &str,
    ) {
        if ctx.now.duration_since(self.state().1) >= STABLE {
            self.damping = FIRST_DAMPING;
        }
        self.feeding.clear();
        let before = std::mem::take(&mut self.stale);
        if let Some(negotiated) = connection.negotiated.as_ref().filter(|_| graceful) {
            for family in &negotiated.families {
                let unfinished = before.iter().find(|stale| stale.family == *family);
                self.stale.extend(Stale::begin(ctx, negotiated, *family, unfinished));
            }
        }
        let keep = self.stale.iter().map(|stale| stale.family).collect();
        ctx.put(Output::Down { keep, reason: reason.into() });
        // A restart time of 0 is over now.
        self.age_stale(ctx);
    }
}

impl Stale {
    /// What is kept of a family when its peer goes; `unfinished` is what it had not told again yet.
    fn begin(
        ctx: &mut Context<'_>,
        negotiated: &Negotiated,
        family: Family,
        unfinished: Option<&Self>,
    ) -> Option<Self> {
        let restart_time = negotiated.restart_time(family);
        let stale_time = negotiated.stale_time(family);
        if restart_time.is_none() && stale_time.is_zero() {
            return None;
        }
        let away_until = ctx.now + restart_time.unwrap_or_default();
        let limit = match unfinished.filter(|stale| stale.phase != Phase::Refresh) {
            None => None,
            Some(stale) if stale.phase == Phase::Late => return None,
            // RFC 4724 §4.2: so that a peer that keeps restarting keeps nothing alive for ever.
            Some(stale) if stale.limit.is_none() && stale_time.is_zero() => {
                ctx.put(Output::DropStale(Some(family)));
                None
            }
            // RFC 9494 §4.2: with a long-lived stale time they stay for that. It begins now, to the same end.
            Some(stale) => {
                ctx.put(Output::LongLived(family));
                stale.limit.or(Some(away_until + stale_time))
            }
        };
        let until = limit.map_or(away_until, |limit| away_until.min(limit));
        Some(Self { family, phase: Phase::Away, until: Some(until), stale_time, limit })
    }

    /// Goes on to the phase that follows the one that was over at `now`; whether there is one.
    fn pass(&mut self, now: Instant) -> bool {
        match self.phase {
            Phase::Away => {
                let limit = self.limit.unwrap_or(now + self.stale_time);
                self.limit = Some(limit);
                self.phase = Phase::LongLived;
                self.until = Some(limit);
                limit > now
            }
            Phase::Back if self.limit.is_some_and(|limit| limit <= now) => {
                self.phase = Phase::Late;
                self.until = None;
                true
            }
            Phase::LongLived | Phase::Back | Phase::Late | Phase::Refresh => false,
        }
    }
}
