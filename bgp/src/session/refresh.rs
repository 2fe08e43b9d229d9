//! Route refresh (RFC 2918), and enhanced route refresh (RFC 7313).

use super::{ConnId, Context, Output, Session};
use crate::wire::{Family, Message, Refresh};

impl Session {
    /// Handles a ROUTE-REFRESH; `family` is `None` for a family that the session does not carry.
    pub(super) fn refreshed(
        &mut self,
        ctx: &mut Context<'_>,
        conn: ConnId,
        family: Option<Family>,
        refresh: Refresh,
    ) {
        let Some(connection) = self.connection(conn) else { return };
        connection.restart_hold_timer(ctx.now);
        let enhanced = connection.negotiated.as_ref().is_some_and(|negotiated| negotiated.enhanced_refresh);
        let Some(family) = family else { return };
        match refresh {
            // RFC 7313 §4: ignored before End-of-RIB of a peer that sends one: EoRR must not remove paths that wait for
            // End-of-RIB.
            Refresh::Begin if enhanced && self.awaits_end_of_rib(family) => {}
            Refresh::Begin if enhanced => {
                ctx.put(Output::MarkStale(family));
                self.expect_refresh(ctx, family);
            }
            Refresh::End if enhanced => self.end_of_refresh(ctx, family),
            Refresh::Unknown(_) if enhanced => {}
            // RFC 2918 §3: without RFC 7313 that octet is reserved.
            _ => ctx.put(Output::Refresh { family, enhanced }),
        }
    }

    /// Requests a refresh from the peer. Returns whether the peer supports it.
    pub(crate) fn request_refresh(&mut self, families: &[Family]) -> bool {
        let Some(conn) = self.established() else { return false };
        let Some(connection) = self.connection(conn) else { return false };
        let Some(negotiated) = connection.negotiated.as_ref() else { return false };
        let can = negotiated.route_refresh;
        let carried: Vec<Family> =
            families.iter().copied().filter(|family| negotiated.families.contains(family)).collect();
        for family in carried.into_iter().filter(|_| can) {
            connection.send(&Message::RouteRefresh(Some(family), Refresh::Request));
        }
        can
    }
}
