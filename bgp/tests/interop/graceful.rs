//! Graceful restart (RFC 4724), both roles.

use anyhow::{Context, Result, ensure};
use heliograph_bgp::report::SessionState;

use crate::cases::{Case, Record};
use crate::lab::{Lab, THEIRS, ours, until, until_while};
use crate::peers::{self, Daemon, Graceful, Neighbor, Setup};
use crate::speakers::{ASN, Speaker, config, neighbor, prefix};

const HOST: u8 = 11;

pub fn scenario(lab: &Lab, record: &mut Record) -> Result<()> {
    let graceful = Some(Graceful { time: 120, long_lived: None });
    let neighbors = vec![Neighbor::new(ours(HOST), ASN)];
    let setup = Setup { asn: ASN, neighbors, graceful, ..Setup::default() };
    let mut daemon = Daemon::start(record.peer, lab, setup)?;
    let config_of_ours = config(ASN, HOST, vec![neighbor(ours(HOST), ASN)]);
    let mut speaker = Speaker::start(ours(HOST).into(), config_of_ours)?;
    settled(&daemon, &speaker)?;

    record.case(Case::WeRestart, || {
        speaker.kill();
        until("they keep our route as stale", || {
            let path = daemon.path(prefix(HOST))?;
            let session = daemon.session(ours(HOST))?;
            ensure!(path.stale && !session.established, "{path:?} {session:?}");
            Ok(())
        })?;
        speaker.restart()?;
        let kept = || daemon.path(prefix(HOST)).map(drop);
        until_while("we are back", kept, || {
            let path = daemon.path(prefix(HOST))?;
            let session = daemon.session(ours(HOST))?;
            ensure!(!path.stale && session.established, "{path:?} {session:?}");
            Ok(())
        })?;
        settled(&daemon, &speaker)
    });
    record.case(Case::TheyRestart, || {
        daemon.kill();
        until("we keep their route as stale", || {
            let (path, session) = (speaker.best(peers::prefix())?, speaker.session(THEIRS)?);
            let down = session.state != SessionState::Established;
            ensure!(down && path.stale && session.stale == 1, "{path:?} {session:?}");
            Ok(())
        })?;
        daemon.restart()?;
        let kept = || still_there(&speaker);
        until_while("they are back", kept, || {
            let (path, session) = (speaker.best(peers::prefix())?, speaker.session(THEIRS)?);
            ensure!(session.state == SessionState::Established && session.end_of_rib, "{session:?}");
            ensure!(!path.stale && session.stale == 0, "{path:?} {session:?}");
            Ok(())
        })?;
        settled(&daemon, &speaker)
    });
    Ok(())
}

/// Checks that we have the daemon's route; the error has the session's history.
pub fn still_there(speaker: &Speaker) -> Result<()> {
    let context = || format!("{:?}", speaker.session(THEIRS));
    speaker.best(peers::prefix()).map(drop).with_context(context)
}

/// Waits until both have each other's routes and End-of-RIB.
pub fn settled(daemon: &Daemon, speaker: &Speaker) -> Result<()> {
    until("both have all routes", || {
        let (theirs, session) = (speaker.best(peers::prefix())?, speaker.session(THEIRS)?);
        ensure!(session.end_of_rib && !theirs.stale, "{session:?} {theirs:?}");
        let path = daemon.path(prefix(HOST))?;
        ensure!(!path.stale && daemon.session(ours(HOST))?.established, "{path:?}");
        Ok(())
    })
}
