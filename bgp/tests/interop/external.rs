//! An external session over IPv6 that carries both families, between ASes whose numbers take 4 octets.

use anyhow::{Result, ensure};

use crate::cases::{Case, Record};
use crate::lab::{Lab, THEIRS6, ours6, until};
use crate::peers::{self, Daemon, Neighbor, Setup};
use crate::speakers::{Speaker, config, neighbor, network, prefix, prefix6};

const HOST: u8 = 11;
/// An AS number for private use (RFC 6996 §5).
const OURS: u32 = 4_200_000_001;
const THEIRS: u32 = 4_200_000_002;

pub fn scenario(lab: &Lab, record: &mut Record) -> Result<()> {
    let to_us = Neighbor { ipv6: true, extended_next_hop: true, ..Neighbor::new(ours6(HOST), OURS) };
    let setup = Setup { asn: THEIRS, neighbors: vec![to_us], ..Setup::default() };
    let daemon = Daemon::start(record.peer, lab, setup)?;
    let to_them = neighbor(ours6(HOST), THEIRS).extended_next_hop(true);
    let networks = vec![network(prefix(HOST)), network(prefix6(HOST))];
    let ours = config(OURS, HOST, vec![to_them]).networks(networks);
    let speaker = Speaker::start(ours6(HOST).into(), ours)?;
    speaker.up(THEIRS6)?;
    daemon.up(ours6(HOST))?;

    let next_hops = |prefix, theirs| {
        until("each has the other's route with an IPv6 next hop", || {
            let path = daemon.path(prefix)?;
            ensure!(path.next_hop == Some(ours6(HOST).into()), "{path:?}");
            let path = speaker.best(theirs)?;
            ensure!(path.next_hop == Some(THEIRS6.into()), "{path:?}");
            Ok(())
        })
    };
    record.case(Case::Ipv6, || next_hops(prefix6(HOST), peers::prefix6()));
    record.case(Case::ExtendedNextHop, || next_hops(prefix(HOST), peers::prefix()));
    record.case(Case::FourOctetAs, || {
        until("each has the other's AS in the path", || {
            let path = daemon.path(prefix6(HOST))?;
            ensure!(path.as_path == [OURS], "{path:?}");
            let path = speaker.best(peers::prefix6())?;
            ensure!(path.as_path == THEIRS.to_string(), "{path:?}");
            Ok(())
        })
    });
    Ok(())
}
