//! Connection collision detection: which of two connections of a session is kept (RFC 4271 §6.8, RFC 6286 §2.3, RFC 4724
//! §5).

use std::time::Duration;

use super::connection::Stage;
use super::{ConnId, Context, Output, Session};
use crate::report::SessionError;
use crate::wire::{Notification, Open, cease, code};

/// The time after establishment within which a new connection is not a restart of the peer. If both sides start at once,
/// the peer has sent its OPEN on another connection before it was aware that this one is established. If that counted as
/// a restart, both connections would be lost, because the peer closes the other one. So RFC 4271 §6.8 applies until then,
/// and RFC 4724 §5 afterwards.
const YOUNG: Duration = Duration::from_secs(1);

impl Session {
    /// Resolves a collision when an OPEN is received on `conn` (RFC 4271 §6.8). Returns whether `conn` is kept.
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
            // Both were opened by the peer: it has given up the earlier one.
            true
        } else {
            // The connection opened by the speaker with the higher identifier is kept; if the identifiers are equal, the
            // higher AS number decides (RFC 6286 §2.3).
            let ours = (self.settings.router_id, self.settings.local_asn);
            outgoing == (ours > (open.router_id, open.asn))
        };
        self.lose(ctx, if stays { id } else { conn });
        stays
    }

    /// Ends the established connection of a peer that has opened a new one: it restarted unnoticed (RFC 4724 §5).
    fn replaced(&mut self, ctx: &mut Context<'_>, old: ConnId) {
        if let Some(connection) = self.take(old) {
            ctx.put(Output::Close(old));
            let reason = self.record_error(ctx.now, SessionError::PeerRestarted);
            self.down(ctx, &connection, true, &reason);
            self.note_state(ctx.now);
        }
    }

    /// Closes the connection that lost a collision, with a Cease.
    pub(super) fn lose(&mut self, ctx: &mut Context<'_>, conn: ConnId) {
        if let Some(connection) = self.connection(conn) {
            connection.close_with(ctx.now, Notification::new(code::CEASE, cease::COLLISION));
        }
    }
}
