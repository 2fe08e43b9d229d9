//! Graceful restart as the receiving speaker: RFC 4724 §4.2, and RFC 9494 §4.2 for peers that are away for longer.
//!
//! The paths of a family are stale from the moment the session goes down until the peer has sent its routes again:
//!
//! | phase | ends with | then |
//! |---|---|---|
//! | `Away` | the restart time | `LongLived` if the peer offered that, else the stale paths are removed |
//! | `LongLived` | the long-lived stale time | the stale paths are removed |
//! | `Back` | End-of-RIB, or a time limit | the paths that are still stale are removed |
//! | `Late` | End-of-RIB | no path is stale any more |
//! | `Refresh` | EoRR (RFC 7313), or a time limit | the paths that are still stale are removed |

use std::time::{Duration, Instant};

use super::connection::Connection;
use super::{Context, FIRST_DAMPING, Negotiated, Output, STABLE, Session};
use crate::report::SessionReason;
use crate::wire::Family;

/// The longest time to wait for End-of-RIB or EoRR before stale paths are removed (RFC 4724 §4.2 leaves the time open).
const STALE_LIMIT: Duration = Duration::from_secs(360);

/// A family with stale paths.
#[derive(Debug)]
pub(super) struct Stale {
    family: Family,
    phase: Phase,
    /// The end of the phase.
    until: Option<Instant>,
    /// The long-lived stale time of the peer.
    stale_time: Duration,
    /// The end of the long-lived stale time, once it has started: no restart moves it before the peer has sent all its
    /// routes again (RFC 9494 §4.2).
    limit: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The peer is away, within its restart time.
    Away,
    /// The peer is away for longer: its paths are the last resort.
    LongLived,
    /// The peer is back and sends its routes again.
    Back,
    /// The peer still sends its routes, but the long-lived stale time is over. No path is stale any more, and none is kept
    /// if the session goes down again before End-of-RIB (RFC 9494 §4.2).
    Late,
    /// The peer sends its routes again in a refresh, without a restart.
    Refresh,
}

impl Session {
    /// Applies the OPEN of a peer that is back: paths by which it did not keep forwarding are removed, the others stay
    /// stale until End-of-RIB (RFC 4724 §4.2).
    pub(super) fn settle_stale(&mut self, ctx: &mut Context<'_>, negotiated: &Negotiated) {
        for mut stale in std::mem::take(&mut self.stale) {
            // RFC 9494 §4.2: for long-lived stale paths the F bit of that capability applies.
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

    /// Starts a refresh, which EoRR or a time limit ends (RFC 7313 §4).
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

    /// Ends the restart of a peer that sent End-of-RIB. A refresh ends with EoRR.
    pub(super) fn end_of_rib(&mut self, ctx: &mut Context<'_>, family: Family) {
        self.awaiting_end_of_rib.retain(|f| *f != family);
        self.end_stale(ctx, family, |phase| phase != Phase::Refresh);
    }

    /// Ends a refresh with EoRR (RFC 7313 §4), which is no End-of-RIB.
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

    /// Handles the loss of the established connection. `graceful`: without a NOTIFICATION in either direction, or with one
    /// that both sides agreed to survive (RFC 8538).
    pub(super) fn down(
        &mut self,
        ctx: &mut Context<'_>,
        connection: &Connection,
        graceful: bool,
        reason: &SessionReason,
    ) {
        if ctx.now.duration_since(self.state().1) >= STABLE {
            self.damping = FIRST_DAMPING;
        }
        self.awaiting_end_of_rib.clear();
        let before = std::mem::take(&mut self.stale);
        if let Some(negotiated) = connection.negotiated.as_ref().filter(|_| graceful) {
            for family in &negotiated.families {
                let unfinished = before.iter().find(|stale| stale.family == *family);
                self.stale.extend(Stale::begin(ctx, negotiated, *family, unfinished));
            }
        }
        let keep = self.stale.iter().map(|stale| stale.family).collect();
        ctx.put(Output::Down { keep, reason: reason.clone() });
        // A restart time of 0 ends at once.
        self.age_stale(ctx);
    }
}

impl Stale {
    /// Returns what is kept of a family when the session goes down; `unfinished` is what was stale already.
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
            // RFC 4724 §4.2: a peer that restarts again before End-of-RIB does not keep paths stale for ever.
            Some(stale) if stale.limit.is_none() && stale_time.is_zero() => {
                ctx.put(Output::DropStale(Some(family)));
                None
            }
            // RFC 9494 §4.2: with a long-lived stale time they are kept for that time. It starts now and is not extended.
            Some(stale) => {
                ctx.put(Output::LongLived(family));
                stale.limit.or(Some(away_until + stale_time))
            }
        };
        let until = limit.map_or(away_until, |limit| away_until.min(limit));
        Some(Self { family, phase: Phase::Away, until: Some(until), stale_time, limit })
    }

    /// Advances to the phase that follows the one that ended at `now`. Returns whether there is one.
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
