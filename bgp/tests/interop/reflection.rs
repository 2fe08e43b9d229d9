//! Route reflection, by the daemon and by us, and other cases that use the same sessions.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use heliograph_bgp::{Config, Filter, Network};

use crate::cases::{Case, Record};
use crate::communities;
use crate::lab::{Lab, THEIRS, THEIRS6, ours, ours6, until};
use crate::md5::{self, KEY};
use crate::peers::{self, Daemon, Neighbor, Setup};
use crate::refresh;
use crate::speakers::{ASN, Speaker, config, neighbor, network, prefix, prefix6, towards};

/// Two of our hosts. Another one is a reflector.
pub const A: u8 = 11;
pub const B: u8 = 12;
const REFLECTOR: u8 = 14;

/// The daemon is a reflector and our speakers are its clients.
pub fn they_reflect(lab: &Lab, record: &mut Record) -> Result<()> {
    let client = |host| Neighbor { client: true, ipv6: true, ..Neighbor::new(ours(host), ASN) };
    // On Linux OpenBGPD uses MD5 on connections that it opens, and accepts none that use it.
    let with_key = |host| Neighbor { key: Some(KEY), connects: true, ..client(host) };
    let neighbors = vec![with_key(A), client(B), with_key(md5::HOST)];
    let daemon = Daemon::start(record.peer, lab, Setup { asn: ASN, neighbors, ..Setup::default() })?;
    let a = Speaker::start(ours(A).into(), originating(A, md5::neighbor(ours(A), KEY)))?;
    let b = Speaker::start(ours(B).into(), checking(B, neighbor(ours(B), ASN)))?;
    for (speaker, host) in [(&a, A), (&b, B)] {
        speaker.up(THEIRS)?;
        daemon.up(ours(host))?;
    }

    record.case(Case::TheyReflect, || {
        until("they have our route with our next hop", || {
            let path = daemon.path(prefix(A))?;
            ensure!(path.from == Some(ours(A).into()) && path.next_hop == Some(ours(A).into()), "{path:?}");
            Ok(())
        })?;
        until("the other client has it through them", || {
            let path = b.best(prefix(A))?;
            ensure!(path.peer == Some(THEIRS.into()) && path.next_hop == Some(ours(A).into()), "{path:?}");
            ensure!(path.originator == Some(ours(A)) && path.cluster_list == [THEIRS], "{path:?}");
            Ok(())
        })?;
        until("clients have their own route", || {
            let path = a.best(peers::prefix())?;
            // GoBGP adds an ORIGINATOR_ID and a CLUSTER_LIST to its own routes, too.
            ensure!(path.next_hop == Some(THEIRS.into()), "{path:?}");
            ensure!(path.originator.is_none_or(|originator| originator == THEIRS), "{path:?}");
            Ok(())
        })
    });
    record.case(Case::DualStack, || {
        until("they have our IPv6 route, too", || {
            let path = daemon.path(prefix6(A))?;
            ensure!(path.from == Some(ours(A).into()) && path.next_hop == Some(ours6(A).into()), "{path:?}");
            Ok(())
        })?;
        until("the other client has it through them", || {
            let path = b.best(prefix6(A))?;
            ensure!(path.next_hop == Some(ours6(A).into()) && path.originator == Some(ours(A)), "{path:?}");
            Ok(())
        })?;
        until("clients have their own IPv6 route", || {
            let path = a.best(peers::prefix6())?;
            ensure!(path.next_hop == Some(THEIRS6.into()) && path.peer == Some(THEIRS.into()), "{path:?}");
            Ok(())
        })
    });
    record.case(Case::Communities, || communities::through(&daemon, &b));
    record.case(Case::TheyRefresh, || refresh::they_request(&daemon, &a));
    record.case(Case::WeRefresh, || refresh::we_request(&b));
    record.case(Case::EnhancedRefresh, || refresh::marks(&daemon, &b));
    record.case(Case::Md5, || a.up(THEIRS).map(drop));
    record.case(Case::Md5Wrong, || md5::wrong(&daemon));
    Ok(())
}

/// We are a reflector. The daemon, which connects to us, and another speaker are our clients.
pub fn we_reflect(lab: &Lab, record: &mut Record) -> Result<()> {
    let client = |neighbor: heliograph_bgp::Neighbor| neighbor.reflector_client(true).passive(true);
    let clients =
        vec![client(neighbor(ours(REFLECTOR), ASN)), client(towards(ours(REFLECTOR), ours(A), ASN))];
    let reflector = Config::new(ASN, ours(REFLECTOR)).neighbors(clients);
    let reflector = Speaker::start(ours(REFLECTOR).into(), reflector)?;
    let towards_reflector = towards(ours(A), ours(REFLECTOR), ASN);
    let mut a = originating(A, towards_reflector);
    let import = checking(A, towards(ours(A), ours(REFLECTOR), ASN)).neighbors[0].import.clone();
    a.neighbors.iter_mut().for_each(|neighbor| neighbor.import = import.clone());
    let a = Speaker::start(ours(A).into(), a)?;
    let to_us = Neighbor { connects: true, ipv6: true, ..Neighbor::new(ours(REFLECTOR), ASN) };
    let setup = Setup { asn: ASN, neighbors: vec![to_us], ..Setup::default() };
    let daemon = Daemon::start(record.peer, lab, setup)?;
    reflector.up(THEIRS)?;
    daemon.up(ours(REFLECTOR))?;

    record.case(Case::WeReflect, || {
        until("they have the other client's routes through us", || {
            for (prefix, next_hop) in [(prefix(A), ours(A).into()), (prefix6(A), ours6(A).into())] {
                let path = daemon.path(prefix)?;
                ensure!(path.from == Some(ours(REFLECTOR).into()), "{path:?}");
                ensure!(path.next_hop == Some(next_hop), "{path:?}");
                ensure!(path.originator == Some(ours(A)), "{path:?}");
                ensure!(path.cluster_list == [ours(REFLECTOR)], "{path:?}");
            }
            Ok(())
        })?;
        until("the other client has theirs through us", || {
            let all = [(peers::prefix(), THEIRS.into()), (peers::prefix6(), THEIRS6.into())];
            for (prefix, next_hop) in all {
                let path = a.best(prefix)?;
                ensure!(path.peer == Some(ours(REFLECTOR).into()), "{path:?}");
                ensure!(path.next_hop == Some(next_hop), "{path:?}");
                ensure!(path.originator == Some(THEIRS), "{path:?}");
                ensure!(path.cluster_list == [ours(REFLECTOR)], "{path:?}");
            }
            Ok(())
        })
    });
    record.case(Case::Communities, || communities::reflected(&daemon, &a));
    Ok(())
}

/// Returns a host that originates a prefix of each family, with communities, and one without.
fn originating(host: u8, neighbor: heliograph_bgp::Neighbor) -> Config {
    let with_next_hop = Network::new(prefix6(host)).next_hop(IpAddr::from(ours6(host)));
    let export = Filter::Rules(communities::tagging(prefix(communities::BARE)));
    let networks = vec![network(prefix(host)), with_next_hop, network(prefix(communities::BARE))];
    config(ASN, host, vec![neighbor.export(export)]).networks(networks)
}

/// Returns a host that accepts IPv4 routes only with all communities.
fn checking(host: u8, neighbor: heliograph_bgp::Neighbor) -> Config {
    let import = Filter::Rules(communities::tagged_only(None));
    config(ASN, host, vec![neighbor.import(import)])
}
