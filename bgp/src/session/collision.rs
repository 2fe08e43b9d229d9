//! Two connections of one session: which one stays (RFC 4271 §6.8, RFC 6286 §2.3, RFC 4724 §5).

use std::time::Duration;

use super::connection::Stage;
use super::{ConnId, Context, Output, Session};
use crate::wire::{Notification, Open, cease, code};

/// No peer can have restarted so soon after the session was established. Its OPEN on another connection left it before
/// it knew that this one stands: at a start of both sides at once. Would we take it for a restart, both connections
/// would be lost, as the peer closes the other one. So RFC 4724 §5 waits this long, and RFC 4271 §6.8 holds until then.
const YOUNG: Duration = Duration::from_secs(1);

impl Session {
    /// Connection collision detection, when an OPEN has come on `conn` (RFC 4271 §6.8): whether it goes on.
    pub(super) fn wins(&mut self, ctx: &mut Context<'_>, conn: ConnId, open: &Open) -> bool {
        let rival = self.connections.iter().find(|c| c.id != conn && c.stage >= Stage::OpenConfirm);
        let Some(rival) = rival else { return true };
        let (id, theirs) = (rival.id, !rival.outgoing);
        if rival.stage == Stage::Established {
            let restarts = rival.negotiated.as_ref().is_some_and(|n| n.graceful_restart.is_some());
            if restarts && ctx.now.saturating_duration_since(self.state().1) >= YOUNG {
                self.replaced(ctx, id);
                return true;
            }
            self.lose(ctx, conn);
            return false;
        }
        let outgoing = self.connection(conn).is_some_and(|c| c.outgoing);
        let stays = if theirs && !outgoing {
            // Both are the peer's: it has given up the earlier one, or it would not have made another.
            true
        } else {
            // Kept is the connection that the speaker with the higher identifier opened; among equals, the higher AS
            // decides (RFC 6286 §2.3).
            let ours = (self.settings.router_id, self.settings.local_asn);
            outgoing == (ours > (open.router_id, open.asn))
        };
        self.lose(ctx, if stays { id } else { conn });
        stays
    }

    /// The peer opens a new connection while the old one stands: it restarted, and we had not noticed (RFC 4724 §5).
    fn replaced(&mut self, ctx: &mut Context<'_>, old: ConnId) {
        if let Some(connection) = self.take(old) {
            ctx.put(Output::Close(old));
            let reason = "the peer restarted: it opened a new connection";
            self.fail_in_words(ctx.now, reason.into());
            self.down(ctx, &connection, true, reason);
            self.note_state(ctx.now);
        }
    }

    /// Closes the loser of a collision, saying so.
    pub(super) fn lose(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        if let Some(connection) = self.connection(conn) {
            connection.close_with(ctx.now, Notification::new(code::CEASE, cease::COLLISION));
        }
    }
}
