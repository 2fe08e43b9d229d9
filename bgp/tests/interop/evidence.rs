//! What a daemon lacks: seen in its OPEN and in its network, with everything switched on that it has.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use heliograph_bgp::Filter;

use crate::cases::{Case, Record};
use crate::communities::tagged_only;
use crate::lab::{Lab, PATIENCE, THEIRS, ours, until};
use crate::md5::KEY;
use crate::peers::{Daemon, Graceful, Lack, Neighbor, Setup};
use crate::speakers::{ASN, PORT, Speaker, config, neighbor};

/// Whose part is played by hand.
const HOST: u8 = 15;
/// One with a speaker.
const CLIENT: u8 = 16;
/// One that should sign.
const SIGNING: u8 = 17;
/// Its UDP port (RFC 5881 §4).
const BFD: u16 = 3784;
/// Capability codes.
const GRACEFUL_RESTART: u8 = 64;

pub fn scenario(lab: &Lab, record: &mut Record) -> Result<()> {
    let lacks = |case: &Case| record.peer.lacks(*case).map(|lack| (*case, lack));
    let lacks: Vec<(Case, Lack)> = Case::ALL.iter().filter_map(lacks).collect();
    if lacks.is_empty() {
        return Ok(());
    }
    let everything = Neighbor {
        client: true,
        ipv6: true,
        extended_next_hop: true,
        add_path: true,
        bfd: true,
        ..Neighbor::new(ours(HOST), ASN)
    };
    let signing = Neighbor { key: Some(KEY), ..Neighbor::new(ours(SIGNING), ASN) };
    let plain = Neighbor::new(ours(CLIENT), ASN);
    let graceful = Some(Graceful { time: 120, long_lived: Some(120) });
    let setup = Setup { asn: ASN, neighbors: vec![everything, plain, signing], graceful, ..Setup::default() };
    let daemon = Daemon::start(record.peer, lab, setup)?;
    let capabilities = until("it has sent its OPEN", capabilities)?;
    // Or nothing could be missed in them.
    ensure!(capabilities.iter().any(|(code, _)| *code == 65), "no 4-octet AS capability: {capabilities:?}");
    for (case, lack) in lacks {
        match lacking(&daemon, lack, &capabilities) {
            Ok(()) => record.shows(case, lack),
            Err(error) => record.broken(&case.to_string(), &error),
        }
    }
    Ok(())
}

fn lacking(daemon: &Daemon, lack: Lack, capabilities: &[(u8, Vec<u8>)]) -> Result<()> {
    match lack {
        Lack::Capability(code, name) => {
            let has = capabilities.iter().any(|(c, _)| *c == code);
            ensure!(!has, "it has {name} now: try it");
        }
        Lack::RestartFamilies => {
            let restart = capabilities.iter().find(|(code, _)| *code == GRACEFUL_RESTART);
            // RFC 4724 §3: flags and time, then the families.
            let families = restart.map_or(0, |(_, value)| value.len().saturating_sub(2));
            ensure!(families == 0, "it restarts gracefully now: try it");
        }
        Lack::Bfd => ensure!(!daemon.hears_udp(BFD)?, "something listens on UDP {BFD}: try it"),
        Lack::Refresh => {
            let _speaker = session_with(daemon)?;
            daemon.refresh(ours(CLIENT))?;
            // The command has been carried out when it returns.
            let session = daemon.session(ours(CLIENT))?;
            ensure!(session.refreshes_sent == Some(0), "it asks now: try it: {session:?}");
        }
        Lack::UnsignedWelcome => {
            let unsigned = config(ASN, SIGNING, vec![neighbor(ours(SIGNING), ASN)]);
            Speaker::start(ours(SIGNING).into(), unsigned)?.up(THEIRS)?;
        }
        Lack::RefusesRefresh => {
            let speaker = session_with(daemon)?;
            until("it has all", || {
                let session = speaker.session(THEIRS)?;
                ensure!(session.end_of_rib, "{session:?}");
                Ok(())
            })?;
            let import = Filter::Rules(tagged_only(Some(300)));
            let asking = neighbor(ours(CLIENT), ASN).import(import);
            speaker.set(config(ASN, CLIENT, vec![asking]))?;
            until("it refuses", || {
                let said = daemon.last_words();
                ensure!(said.contains("route refresh: AID IPv4 unicast not negotiated"), "{said}");
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// A speaker of ours with a plain session.
fn session_with(daemon: &Daemon) -> Result<Speaker> {
    let ours_is = config(ASN, CLIENT, vec![neighbor(ours(CLIENT), ASN)]);
    let speaker = Speaker::start(ours(CLIENT).into(), ours_is)?;
    speaker.up(THEIRS)?;
    daemon.up(ours(CLIENT))?;
    Ok(speaker)
}

/// The capabilities in the OPEN that it sends: codes and values. To have it, ours goes first.
fn capabilities() -> Result<Vec<(u8, Vec<u8>)>> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(ours(HOST).into(), 0).into())?;
    socket.connect(&SocketAddr::new(THEIRS.into(), PORT).into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE / 4))?;
    let mut open = vec![0xff; 16];
    let [high, low] = u16::try_from(ASN)?.to_be_bytes();
    open.extend([0, 29, 1, 4, high, low, 0, 90]);
    open.extend(ours(HOST).octets());
    open.push(0);
    stream.write_all(&open)?;
    let mut header = [0; 19];
    stream.read_exact(&mut header)?;
    ensure!(header[18] == 1, "no OPEN but message type {}", header[18]);
    let mut body = vec![0; usize::from(u16::from_be_bytes([header[16], header[17]])) - 19];
    stream.read_exact(&mut body)?;
    let parameters = split(body.get(10..).context("a short OPEN")?)?;
    let of_capabilities = parameters.iter().filter(|(kind, _)| *kind == 2);
    let capabilities = of_capabilities.map(|(_, value)| split(value)).collect::<Result<Vec<_>>>()?;
    Ok(capabilities.concat())
}

/// Types, or codes, with their values.
fn split(mut bytes: &[u8]) -> Result<Vec<(u8, Vec<u8>)>> {
    let mut all = Vec::new();
    while let [kind, length, rest @ ..] = bytes {
        let (value, behind) = rest.split_at_checked((*length).into()).context("cut off")?;
        all.push((*kind, value.to_vec()));
        bytes = behind;
    }
    Ok(all)
}
