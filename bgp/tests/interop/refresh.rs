//! Route refresh (RFC 2918), and its marks (RFC 7313).

use anyhow::{Context, Result, ensure};
use heliograph_bgp::{Config, Filter};

use crate::communities::tagged_only;
use crate::lab::{THEIRS, ours, until};
use crate::peers::{self, Daemon};
use crate::reflection::{A, B};
use crate::speakers::{ASN, Speaker, config, neighbor};

/// The daemon requests a refresh: we send all routes again, on the same session.
pub fn they_request(daemon: &Daemon, a: &Speaker) -> Result<()> {
    let before = daemon.session(ours(A))?.updates;
    daemon.refresh(ours(A))?;
    until("they have received our routes again", || {
        let session = daemon.session(ours(A))?;
        ensure!(session.established && session.updates > before, "{session:?}, before: {before}");
        Ok(())
    })?;
    undisturbed(a)
}

/// We request a refresh, as a changed import policy needs the routes as the daemon sent them.
pub fn we_request(b: &Speaker) -> Result<()> {
    let import = Filter::Rules(tagged_only(Some(300)));
    let neighbor = neighbor(ours(B), ASN).import(import);
    let config: Config = config(ASN, B, vec![neighbor]);
    b.set(config)?;
    until("the new policy was applied to their routes", || {
        for prefix in [peers::prefix(), peers::prefix6()] {
            let path = b.best(prefix)?;
            ensure!(path.local_pref == 300, "{path:?}");
        }
        Ok(())
    })?;
    undisturbed(b)
}

/// Checks after both refreshes that each side has received the other's BoRR and EoRR, and no route was lost.
pub fn marks(daemon: &Daemon, b: &Speaker) -> Result<()> {
    until("they have received our marks", || {
        let session = daemon.session(ours(A))?;
        let marks = session.marks.context("its marks are unknown")?;
        ensure!(marks.received > 0, "{session:?}");
        Ok(())
    })?;
    until("they have sent us theirs", || {
        let session = daemon.session(ours(B))?;
        let marks = session.marks.context("its marks are unknown")?;
        ensure!(marks.sent > 0, "{session:?}");
        let ours = b.session(THEIRS)?;
        ensure!(ours.stale == 0 && ours.received > 0, "{ours:?}");
        Ok(())
    })?;
    undisturbed(b)
}

fn undisturbed(speaker: &Speaker) -> Result<()> {
    let session = speaker.session(THEIRS)?;
    ensure!(session.established_count == 1, "the session was disturbed: {session:?}");
    Ok(())
}
