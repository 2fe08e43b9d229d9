//! Route refresh (RFC 2918), with marks where it begins and ends (RFC 7313).

use super::{ConnId, Context, Output, Session};
use crate::wire::{Family, Refresh};

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
}
