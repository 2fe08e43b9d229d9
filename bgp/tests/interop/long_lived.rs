//! Long-lived graceful restart (RFC 9494), both roles: after the restart time, routes stay as a last resort.

use std::time::Duration;

use anyhow::{Result, ensure};
use heliograph_bgp::GracefulRestart;

use crate::cases::{Case, Record};
use crate::lab::{Lab, THEIRS, ours, until_while};
use crate::peers::{self, Daemon, Graceful, Neighbor, Setup};
use crate::speakers::{ASN, Speaker, config, neighbor, prefix};

const HOST: u8 = 11;
/// The seconds after which a route is only a last resort.
const RESTART: u16 = 2;
/// The seconds for which it then stays: longer than the test.
const STALE: u32 = 600;

pub fn scenario(lab: &Lab, record: &mut Record) -> Result<()> {
    if record.peer.lacks(Case::WeStayAway).is_some() && record.peer.lacks(Case::TheyStayAway).is_some() {
        return Ok(());
    }
    let graceful = Some(Graceful { time: RESTART, long_lived: Some(STALE) });
    let neighbors = vec![Neighbor::new(ours(HOST), ASN)];
    let setup = Setup { asn: ASN, neighbors, graceful, ..Setup::default() };
    let mut daemon = Daemon::start(record.peer, lab, setup)?;
    let graceful_restart = Some(
        GracefulRestart::default()
            .restart_time(Duration::from_secs(RESTART.into()))
            .long_lived(Duration::from_secs(STALE.into())),
    );
    let config_of_ours =
        config(ASN, HOST, vec![neighbor(ours(HOST), ASN)]).graceful_restart(graceful_restart);
    let mut speaker = Speaker::start(ours(HOST).into(), config_of_ours)?;
    crate::graceful::settled(&daemon, &speaker)?;

    record.case(Case::WeStayAway, || {
        speaker.kill();
        let kept = || daemon.path(prefix(HOST)).map(drop);
        until_while("our route is their last resort", kept, || {
            let path = daemon.path(prefix(HOST))?;
            ensure!(path.long_lived_stale, "{path:?}");
            Ok(())
        })?;
        speaker.restart()?;
        until_while("we are back", kept, || {
            let path = daemon.path(prefix(HOST))?;
            ensure!(!path.stale && !path.long_lived_stale, "{path:?}");
            Ok(())
        })?;
        crate::graceful::settled(&daemon, &speaker)
    });
    record.case(Case::TheyStayAway, || {
        daemon.kill();
        let kept = || crate::graceful::still_there(&speaker);
        until_while("their route is our last resort", kept, || {
            let path = speaker.best(peers::prefix())?;
            ensure!(path.stale && path.reason.to_string().contains("long-lived stale"), "{path:?}");
            Ok(())
        })?;
        daemon.restart()?;
        until_while("they are back", kept, || {
            let (path, session) = (speaker.best(peers::prefix())?, speaker.session(THEIRS)?);
            ensure!(!path.stale && session.stale == 0, "{path:?} {session:?}");
            Ok(())
        })?;
        crate::graceful::settled(&daemon, &speaker)
    });
    Ok(())
}
