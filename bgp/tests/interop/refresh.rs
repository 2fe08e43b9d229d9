//! Route refresh (RFC 2918), and its marks (RFC 7313).

use anyhow::{Context, Result, ensure};
use heliograph_bgp::{Config, Filter};

use crate::communities::tagged_only;
use crate::lab::{THEIRS, ours, until};
use crate::peers::{self, Daemon};
use crate::reflection::{A, B};
use crate::speakers::{ASN, Speaker, config, neighbor};

/// They ask: we tell all again, on the same session.
pub fn they_ask(daemon: &Daemon, a: &Speaker) -> Result<()> {
    let before = daemon.session(ours(A))?.updates;
    daemon.refresh(ours(A))?;
    until("they have been told again", || {
        let session = daemon.session(ours(A))?;
        ensure!(session.established && session.updates > before, "{session:?}, before: {before}");
        Ok(())
    })?;
    undisturbed(a)
}

/// We ask, as another import policy needs the routes as they were told: LOCAL_PREF can only become that if they are.
pub fn we_ask(b: &Speaker) -> Result<()> {
    let import = Filter::Rules(tagged_only(Some(300)));
    let neighbor = neighbor(ours(B), ASN).import(import);
    let config: Config = config(ASN, B, vec![neighbor]);
    b.set(config)?;
    until("the new policy has seen their routes", || {
        for prefix in [peers::prefix(), peers::prefix6()] {
            let path = b.best(prefix)?;
            ensure!(path.local_pref == 300, "{path:?}");
        }
        Ok(())
    })?;
    undisturbed(b)
}

/// After both: each has had the other's marks, and nothing was lost by them.
pub fn marks(daemon: &Daemon, b: &Speaker) -> Result<()> {
    until("they have had our marks", || {
        let session = daemon.session(ours(A))?;
        let marks = session.marks.context("it does not tell")?;
        ensure!(marks.received > 0, "{session:?}");
        Ok(())
    })?;
    until("they have sent us theirs", || {
        let session = daemon.session(ours(B))?;
        let marks = session.marks.context("it does not tell")?;
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
