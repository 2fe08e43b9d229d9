//! Route refresh (RFC 2918), with marks where it begins and ends (RFC 7313).

use super::{ConnId, Context, Output, Session};
use crate::wire::{Family, Message, Refresh};

impl Session {
    /// A ROUTE-REFRESH came; `family` is `None` where it is of one that we don't carry.
    pub(super) fn refreshed(
        &mut self,
        ctx: &mut Context<'_>,
        conn: ConnId,
        family: Option<Family>,
        refresh: Refresh,
    ) {
        let Some(connection) = self.connection(conn) else { return };
        connection.heard(ctx.now);
        let enhanced = connection.negotiated.as_ref().is_some_and(|negotiated| negotiated.enhanced_refresh);
        let Some(family) = family else { return };
        match refresh {
            Refresh::Begin if enhanced => {
                ctx.put(Output::MarkStale(family));
                self.expect_end(ctx, family);
            }
            Refresh::End if enhanced => self.end_stale(ctx, family),
            Refresh::Unknown(_) if enhanced => {}
            // RFC 2918 §3: without RFC 7313 that octet says nothing.
            _ => ctx.put(Output::Refresh { family, enhanced }),
        }
    }

    /// Asks the peer to tell all again; whether it can be asked.
    pub(crate) fn ask_refresh(&mut self, families: &[Family]) -> bool {
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
