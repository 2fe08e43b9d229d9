//! Graceful restart, the side of those who stay up (RFC 4724 §4.2).

use std::time::{Duration, Instant};

use super::connection::Connection;
use super::{Context, FIRST_IDLE_HOLD, Negotiated, Output, STABLE, Session};
use crate::wire::Family;

/// How long stale routes are kept for the End-of-RIB of a peer that is back (RFC 4724 §4.2 leaves the time to us).
const STALE_LIMIT: Duration = Duration::from_secs(360);

/// Routes kept from before the peer's restart.
#[derive(Debug)]
pub(super) struct Stale {
    pub(super) until: Instant,
    families: Vec<Family>,
}

impl Session {
    /// The peer is back: what it did not keep forwarding by goes, the rest waits for its End-of-RIB (RFC 4724 §4.2).
    pub(super) fn settle_stale(&mut self, ctx: &mut Context<'_>, negotiated: &Negotiated) {
        let Some(mut stale) = self.stale.take() else { return };
        let (kept, lost): (Vec<_>, Vec<_>) =
            stale.families.into_iter().partition(|family| negotiated.forwarding_preserved(*family));
        for family in lost {
            ctx.put(Output::DropStale(Some(family)));
        }
        if !kept.is_empty() {
            stale.families = kept;
            stale.until = ctx.now + STALE_LIMIT;
            self.stale = Some(stale);
        }
    }

    /// Routes of the family are stale until the peer says that it has told all again, but not for ever.
    pub(super) fn expect_end(&mut self, ctx: &Context<'_>, family: Family) {
        let until = ctx.now + STALE_LIMIT;
        let stale = self.stale.get_or_insert(Stale { until, families: Vec::new() });
        stale.until = stale.until.max(until);
        if !stale.families.contains(&family) {
            stale.families.push(family);
        }
    }

    pub(super) fn end_stale(&mut self, ctx: &mut Context<'_>, family: Family) {
        let Some(stale) = &mut self.stale else { return };
        if stale.families.contains(&family) {
            stale.families.retain(|f| *f != family);
            ctx.put(Output::DropStale(Some(family)));
        }
        if stale.families.is_empty() {
            self.stale = None;
        }
    }

    pub(super) fn forget_stale(&mut self, ctx: &mut Context<'_>) {
        if self.stale.take().is_some() {
            ctx.put(Output::DropStale(None));
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
        let negotiated = connection.negotiated.as_ref();
        let keep = negotiated.filter(|_| graceful).map(Negotiated::kept_families).unwrap_or_default();
        let restart_time = negotiated.and_then(|n| n.graceful_restart.as_ref()).map_or(0, |r| r.restart_time);
        if ctx.now.duration_since(self.shown.1) >= STABLE {
            self.idle_hold = FIRST_IDLE_HOLD;
        }
        self.feeding.clear();
        self.stale = (!keep.is_empty()).then(|| Stale {
            until: ctx.now + Duration::from_secs(restart_time.into()),
            families: keep.clone(),
        });
        ctx.put(Output::Down { keep, reason: reason.into() });
    }
}
