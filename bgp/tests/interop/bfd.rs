//! Single-hop BFD of a BGP session (RFC 5881, RFC 5882).

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use heliograph_bgp::bfd::{Settings, State};
use heliograph_bgp::report::SessionState;

use crate::cases::{Case, Record};
use crate::lab::{Lab, THEIRS, ours, until};
use crate::peers::{Daemon, Neighbor, Setup};
use crate::speakers::{ASN, Speaker, config, neighbor};

const HOST: u8 = 11;
const INTERVAL: Duration = Duration::from_millis(100);

pub fn scenario(lab: &Lab, record: &mut Record) -> Result<()> {
    if record.peer.lacks(Case::Bfd).is_some() {
        return Ok(());
    }
    let to_us = Neighbor { bfd: true, ..Neighbor::new(ours(HOST), ASN) };
    let daemon =
        Daemon::start(record.peer, lab, Setup { asn: ASN, neighbors: vec![to_us], ..Setup::default() })?;
    let bfd = Some(Settings::default().interval(INTERVAL));
    let to_them = neighbor(ours(HOST), ASN).bfd(bfd);
    let speaker = Speaker::start(ours(HOST).into(), config(ASN, HOST, vec![to_them]))?;

    record.case(Case::Bfd, || {
        both_up(&daemon, &speaker)?;
        cut(true)?;
        // The hold timer would end the session, too, but with another error.
        until("our session has ended by BFD", || {
            let session = speaker.session(THEIRS)?;
            let error = session.last_error.as_ref().map_or_else(String::new, |(error, _)| error.to_string());
            let down = session.state != SessionState::Established;
            ensure!(down && error.contains("BFD failed"), "{session:?}");
            Ok(())
        })?;
        until("theirs has ended, too", || {
            let session = daemon.session(ours(HOST))?;
            ensure!(!session.established, "{session:?}");
            ensure!(
                daemon.peer.ended_by_bfd(daemon.lab, ours(HOST).into())?,
                "it ended for another reason: {session:?}"
            );
            ensure!(!daemon.peer.bfd_up(daemon.lab, ours(HOST).into())?, "its BFD is up");
            Ok(())
        })?;
        cut(false)?;
        both_up(&daemon, &speaker)
    });
    Ok(())
}

fn both_up(daemon: &Daemon, speaker: &Speaker) -> Result<()> {
    until("BGP and BFD are up at both ends", || {
        let session = speaker.session(THEIRS)?;
        let bfd = session.bfd.as_ref().context("no BFD")?;
        ensure!(session.state == SessionState::Established && bfd.state == State::Up, "{session:?}");
        ensure!(daemon.peer.bfd_up(daemon.lab, ours(HOST).into())?, "its BFD is not up: {bfd:?}");
        let theirs = daemon.session(ours(HOST))?;
        ensure!(theirs.established, "{theirs:?}");
        Ok(())
    })
}

/// Drops all packets on our side of the link, or no longer. The link itself stays up.
fn cut(cut: bool) -> Result<()> {
    let rules = "table inet cut { chain i { type filter hook input priority 0; policy drop; }; \
                 chain o { type filter hook output priority 0; policy drop; }; }";
    let command = if cut { rules } else { "delete table inet cut" };
    let output = Command::new("nft").arg(command).output().context("cannot run nft")?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
