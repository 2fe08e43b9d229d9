//! Several paths to a prefix on one session (RFC 7911), both ways.

use std::net::IpAddr;
use std::num::NonZeroU8;

use anyhow::{Result, ensure};
use heliograph_bgp::AddPath;

use crate::cases::{Case, Record};
use crate::lab::{Lab, THEIRS, ours, until};
use crate::peers::{Daemon, Neighbor, Setup};
use crate::speakers::{ASN, Speaker, config, neighbor, network, prefix, towards};

/// Two hosts that originate the same prefix, clients of the daemon.
const THEIR_CLIENTS: [u8; 2] = [11, 12];
/// Two hosts that originate the same prefix, clients of our reflector.
const OUR_CLIENTS: [u8; 2] = [17, 18];
/// Our reflector. It and the daemon advertise all paths to each other.
const REFLECTOR: u8 = 16;
/// The number of the prefix of the daemon's clients.
const FROM_THEM: u8 = 50;
/// The number of the prefix of our clients.
const FROM_US: u8 = 51;

pub fn scenario(lab: &Lab, record: &mut Record) -> Result<()> {
    let client = |host| Neighbor { client: true, ..Neighbor::new(ours(host), ASN) };
    let several = Neighbor { add_path: true, ..client(REFLECTOR) };
    let mut neighbors: Vec<Neighbor> = THEIR_CLIENTS.map(client).into();
    neighbors.push(several);
    let daemon = Daemon::start(record.peer, lab, Setup { asn: ASN, neighbors, ..Setup::default() })?;

    let add_path = AddPath::default().receive(true).send(NonZeroU8::new(2));
    let mut neighbors_of_ours = vec![neighbor(ours(REFLECTOR), ASN).add_path(add_path)];
    neighbors_of_ours.extend(
        OUR_CLIENTS
            .map(|host| towards(ours(REFLECTOR), ours(host), ASN).reflector_client(true).passive(true)),
    );
    let reflector = Speaker::start(ours(REFLECTOR).into(), config(ASN, REFLECTOR, neighbors_of_ours))?;
    let originating = |host, number, neighbor| {
        let networks = vec![network(prefix(number))];
        Speaker::start(ours(host).into(), config(ASN, host, vec![neighbor]).networks(networks))
    };
    let mut clients = Vec::new();
    for host in THEIR_CLIENTS {
        clients.push(originating(host, FROM_THEM, neighbor(ours(host), ASN))?);
    }
    for host in OUR_CLIENTS {
        clients.push(originating(host, FROM_US, towards(ours(host), ours(REFLECTOR), ASN))?);
    }
    reflector.up(THEIRS)?;
    daemon.up(ours(REFLECTOR))?;

    record.case(Case::PathsFromThem, || {
        until("we have both paths of theirs", || {
            let paths = reflector.paths(prefix(FROM_THEM))?;
            let mut next_hops: Vec<_> = paths.iter().filter_map(|path| path.next_hop).collect();
            next_hops.sort();
            ensure!(next_hops == THEIR_CLIENTS.map(|host| IpAddr::from(ours(host))), "{paths:?}");
            ensure!(paths.iter().all(|path| path.peer == Some(THEIRS.into())), "{paths:?}");
            Ok(())
        })
    });
    record.case(Case::PathsFromUs, || {
        until("they have both paths of ours", || {
            let paths = daemon.paths(prefix(FROM_US))?;
            let mut next_hops: Vec<_> = paths.iter().filter_map(|path| path.next_hop).collect();
            next_hops.sort();
            ensure!(next_hops == OUR_CLIENTS.map(|host| IpAddr::from(ours(host))), "{paths:?}");
            ensure!(paths.iter().all(|path| path.from == Some(ours(REFLECTOR).into())), "{paths:?}");
            Ok(())
        })
    });
    Ok(())
}
